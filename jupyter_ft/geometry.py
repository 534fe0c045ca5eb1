"""How many answers a method that learns from rewards makes at once, and what that means for steps and prompts."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd


@dataclass(frozen=True)
class Geometry:
    """`steps` micro-batches of `batch_size` answers are made at once, `answers` to each prompt, and used `times` times.

    An optimizer step takes `accumulation` micro-batches.
    """

    batch_size: int
    accumulation: int
    steps: int
    answers: int
    times: int

    @property
    def prompts(self) -> int:
        """Prompts that are answered at once."""
        return self.batch_size * self.steps // self.answers

    @property
    def uses(self) -> int:
        """Micro-batches that the answers of a generation last."""
        return self.steps * self.times

    def updates(self, rows: int) -> int:
        """Optimizer steps of an epoch of `rows` prompts; those that fill no generation at its end are left out."""
        return -(-(rows // self.prompts * self.uses) // self.accumulation)

    def wrong(self) -> str:
        """Why these numbers do not go together, and the nearest that do; empty where they do."""
        every = self.answers // gcd(self.answers, self.steps)
        if self.batch_size % every:
            near = max(1, round(self.batch_size / every)) * every
            return (
                f"batch_size {self.batch_size} x {self.steps} micro-batches are {self.batch_size * self.steps} answers "
                f"at once, which is no multiple of num_generations {self.answers}; the nearest batch_size is {near}"
            )
        if self.uses % self.accumulation and self.accumulation % self.uses:
            return (
                f"steps_per_generation {self.steps} x num_iterations {self.times} and accumulation "
                f"{self.accumulation}: a step would end in the middle of a generation; leave steps_per_generation out, "
                f"or give a multiple of {self.accumulation}"
            )
        return ""

    def too_few(self, rows: int) -> str:
        """What is wrong where there are fewer prompts than are answered at once, and the fix; else empty."""
        if rows >= self.prompts:
            return ""
        return (
            f"{self.prompts} prompts are answered at once (batch_size {self.batch_size} x {self.steps} micro-batches, "
            f"{self.answers} answers each), and there are {rows}; lower batch_size or accumulation"
        )

    def left_over(self, rows: int) -> str:
        """What is said where the prompts of an epoch do not fill its last generation; else empty."""
        left = rows % self.prompts
        if not left:
            return ""
        prompts = "1 prompt is" if left == 1 else f"{left} prompts are"
        return f"{prompts} left over in each epoch, others each time ({self.prompts} are answered at once)"
