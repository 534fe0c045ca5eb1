"""The learning rate as a function of the step, as it was asked and after it was edited.

Until an edit the scheduler that transformers built is in force, untouched. An edit anchors it: at step `start`, with
`progress` of the decay done, the rate is `rate`; from there it follows the shape of the decay, rescaled:

    rate(t) = rate * shape(p(t)) / shape(progress),   p(t) = progress + (1 - progress) * (t - start) / (total - start)

An edit during the warm-up ends the warm-up. Where the shape has reached zero the rate stays constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..recipe import Schedule

_SHAPES: dict[Schedule, Callable[[float], float]] = {
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "constant": lambda p: 1.0,
}


@dataclass(frozen=True)
class Anchor:
    """An edited schedule. Steps are counted in optimizer steps already done (the scheduler's `last_epoch`)."""

    shape: Schedule
    start: int
    total: int
    progress: float
    rate: float

    def progress_at(self, step: int) -> float:
        """How much of the decay is done before the step after `step`, from 0 to 1."""
        if self.total <= self.start:
            return 1.0
        done = self.progress + (1.0 - self.progress) * (step - self.start) / (self.total - self.start)
        return min(1.0, max(0.0, done))

    def at(self, step: int) -> float:
        """The learning rate of the step after `step` done ones."""
        here = _SHAPES[self.shape](self.progress)
        if step <= self.start or here <= 1e-9:
            return self.rate
        return self.rate * _SHAPES[self.shape](self.progress_at(step)) / here

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)


def decay_progress(step: int, warmup: int, total: int) -> float:
    """The share of the decay that an unedited schedule has done at `step`; 0 during the warm-up."""
    if total <= warmup:
        return 1.0 if step >= total else 0.0
    return min(1.0, max(0.0, (step - warmup) / (total - warmup)))
