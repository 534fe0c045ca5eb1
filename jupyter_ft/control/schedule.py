"""The learning rate as a function of the step, as it was asked and after it was edited.

Until an edit the scheduler that transformers built is in force, untouched. An edit anchors it: at step `start`, with
`progress` of the decay done, the rate is `rate`; from there it follows the shape of the decay, rescaled:

    rate(t) = rate * shape(p(t)) / shape(progress),   p(t) = progress + (1 - progress) * (t - start) / (total - start)

An edit during the warm-up ends the warm-up. Where the shape has reached zero the rate stays constant.

The shape `trainer` is transformers' own of an attached trainer, whichever that is. One that would rise above a rate
that is set (restarts) cannot be rescaled from it: from there the rate stays constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..hyperparameters import AnySchedule

WARMUP = 5  # steps, where the optimizer starts fresh in the middle of a run

Curve = Callable[[float], float]
"""The height of a schedule by the share of the decay that is done, from 0 to 1."""
_SHAPES: dict[AnySchedule, Curve] = {
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "constant": lambda p: 1.0,
}

ZERO, POINTS = 1e-9, 1000


@dataclass(frozen=True)
class Anchor:
    """An edited schedule. Steps are counted in optimizer steps already done (the scheduler's `last_epoch`)."""

    shape: AnySchedule
    start: int
    total: int
    progress: float
    rate: float
    own: Curve = field(default=lambda p: 1.0, repr=False, compare=False)  # of the shape `trainer`

    def progress_at(self, step: int) -> float:
        """How much of the decay is done before the step after `step`, from 0 to 1."""
        if self.total <= self.start:
            return 1.0
        done = self.progress + (1.0 - self.progress) * (step - self.start) / (self.total - self.start)
        return min(1.0, max(0.0, done))

    def at(self, step: int) -> float:
        """The learning rate of the step after `step` done ones."""
        curve = _SHAPES.get(self.shape, self.own)
        here = curve(self.progress)
        if step <= self.start or here <= ZERO:
            return self.rate
        return self.rate * curve(self.progress_at(step)) / here

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: all but the curve."""
        return {name: getattr(self, name) for name in ("shape", "start", "total", "progress", "rate")}


def falls(curve: Curve, progress: float) -> bool:
    """Whether the rest of `curve` can be rescaled from what is set at `progress`: it is above zero and never rises."""
    rest = [curve(progress + (1.0 - progress) * i / POINTS) for i in range(POINTS + 1)]
    return rest[0] > ZERO and max(rest) <= rest[0] * (1 + 1e-9)


def decay_progress(step: int, warmup: int, total: int) -> float:
    """The share of the decay that an unedited schedule has done at `step`; 0 during the warm-up."""
    if total <= warmup:
        return 1.0 if step >= total else 0.0
    return min(1.0, max(0.0, (step - warmup) / (total - warmup)))
