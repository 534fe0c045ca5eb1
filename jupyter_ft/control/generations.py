"""The micro-batches of a trainer that makes its own rows: TRL's GRPO and RLOO.

Its loader gives prompts, `num_generations` times each; `training_step` has completions generated and scored for them
once in `steps_per_generation * num_iterations` micro-batches, keeps those, and trains on a part of them each time. So
the cursor counts in micro-batches, and only where the kept completions are used up is a boundary whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..hyperparameters import Hyperparameters
from .batches import Batches, PartOf, Parts
from .cursor import RowCursor


@dataclass
class GenerationCursor(RowCursor):
    """Position in the prompts. `position` counts micro-batches of the current epoch; `order` are prompts.

    A generation takes `prompts` of them, makes `copies` completions of each, and lasts `uses` micro-batches. Prompts
    that fill no generation at the end of an epoch are left out, as TRL leaves them.
    """

    prompts: int = 1
    copies: int = 1
    uses: int = 1

    @property
    def length(self) -> int:
        """Micro-batches of an epoch."""
        return self.rows // self.prompts * self.uses

    @property
    def per_step(self) -> int:
        """Micro-batches of an optimizer step."""
        return self.accumulation

    @property
    def whole(self) -> bool:
        """Whether the next micro-batch has completions of its own generated."""
        return self.position % self.uses == 0

    def begin_epoch(self, sampler: Any) -> None:
        """Take the order of this epoch from TRL's sampler, which repeats each prompt and each generation."""
        every, once = self.prompts * self.copies * self.uses, self.prompts * self.copies
        if sampler.shuffle:  # it cannot be set to an epoch: each order follows the one before, from the seed on
            sampler.generator.manual_seed(sampler.seed)
        for _ in range(self.epoch + 1):
            rows = enumerate(sampler)
            self.order = [row for at, row in rows if at % every < once and at % every % self.copies == 0]

    def take(self) -> list[list[int]]:
        """The prompts behind each micro-batch of the next step; fewer micro-batches at the end of an epoch."""
        if self.order is None:
            raise RuntimeError("begin_epoch() comes first")
        batches: list[list[int]] = []
        for _ in range(min(self.accumulation, self.length - self.position)):
            first = self.position // self.uses * self.prompts
            batches.append(self.order[first : first + self.prompts])
            self.position += 1
        return batches

    def peek(self) -> list[int]:
        """Nothing: what comes next is not collated before its time, since it is generated, not read."""
        return []

    def give_back(self, batches: list[list[int]]) -> None:
        """Take back what `take` gave last: those micro-batches come next again."""
        self.position -= len(batches)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return super().state() | {"prompts": self.prompts, "copies": self.copies, "uses": self.uses}


class Generations(Batches):
    """Those of a trainer that generates. `keep(step, completions)` is told what was generated, see `_made`."""

    draws = True

    def __init__(self, trainer: Any, asked: Hyperparameters) -> None:
        args = trainer.args
        self.trainer, self.tokens = trainer, 0
        self.keep: Callable[[int, list[dict[str, Any]]], None] = lambda step, completions: None
        self.cursor: GenerationCursor = GenerationCursor(
            len(trainer.train_dataset),
            asked.batch_size,
            asked.accumulation,
            prompts=args.generation_batch_size // args.num_generations,
            copies=args.num_generations,
            uses=args.steps_per_generation * args.num_iterations,
        )

    @property
    def whole(self) -> bool:
        """Only where no completions are kept for a step that comes: they are in no checkpoint."""
        return self.cursor.whole

    def collate(self, loader: Any, batches: list[list[int]], part_of: PartOf) -> Parts:
        """The prompts for each micro-batch that generates; nothing for those that go on with what was generated."""
        self.tokens = 0
        first, copies = self.cursor.position - len(batches), range(self.cursor.copies)
        return [
            loader.collate_fn([loader.dataset[row] for row in batch for _ in copies])
            if (first + at) % self.cursor.uses == 0
            else []
            for at, batch in enumerate(batches)
        ]

    def done(self, part: Any) -> None:
        """Count what was trained on, and tell of what was generated for it."""
        trainer = self.trainer
        used = trainer._buffered_inputs[(trainer._step - 1) % trainer.args.steps_per_generation]
        self.tokens += int(used["prompt_mask"].sum() + used["completion_mask"].sum())
        if part:
            self.keep(trainer.state.global_step + 1, self._made(len(part)))

    def _made(self, count: int) -> list[dict[str, Any]]:
        """The newest completions: `prompt`, `completion`, `rewards` by name, `advantage`, in the order of prompts."""
        logs = self.trainer._logs
        newest = {name: list(logs[name])[-count:] for name in ("prompt", "completion", "advantages")}
        rewards = {name: list(values)[-count:] for name, values in logs["rewards"].items()}
        return [
            {
                "prompt": newest["prompt"][at],
                "completion": newest["completion"][at],
                "rewards": {name: values[at] for name, values in rewards.items()},
                "advantage": newest["advantages"][at],
            }
            for at in range(count)
        ]

    def mark(self) -> Any:
        """The trainer's count of micro-batches and the completions that it keeps."""
        trainer = self.trainer
        return trainer._step, trainer._buffered_inputs, trainer.state.num_input_tokens_seen

    def back_to(self, mark: Any) -> None:
        """Put those back."""
        trainer = self.trainer
        trainer._step, trainer._buffered_inputs, trainer.state.num_input_tokens_seen = mark
        trainer._pending_extra_logs.clear()
        trainer._pending_metrics.clear()
        self.tokens = 0

    def state(self) -> dict[str, Any]:
        """What TRL counts; the kept completions are used up where a checkpoint is written."""
        return {"micro_batches": self.trainer._step, "tokens_seen": int(self.trainer.state.num_input_tokens_seen)}

    def restore(self, state: dict[str, Any]) -> None:
        """Put the counts back."""
        self.trainer._step = state["micro_batches"]
        self.trainer.state.num_input_tokens_seen = state["tokens_seen"]
