"""The cursor over the rows: which come next, in which micro-batches.

It owns order, position and batch geometry, so that batch size and accumulation can change between any two steps while
every row of an epoch is used exactly once. The order of an epoch is the one that the trainer's own sampler gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RowCursor:
    """Position in the data. `position` counts rows of the current epoch that were handed out.

    `at_most` rows fit into memory at once, where that has been found out: larger micro-batches are split.
    """

    rows: int
    batch_size: int
    accumulation: int
    epoch: int = 0
    position: int = 0
    order: list[int] | None = field(default=None, repr=False)
    at_most: int | None = None

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimizer step takes."""
        return self.batch_size * self.accumulation

    @property
    def length(self) -> int:
        """What an epoch counts to, in the unit of `position`."""
        return self.rows

    @property
    def per_step(self) -> int:
        """What an optimizer step counts, in the unit of `position`."""
        return self.rows_per_step

    @property
    def progress(self) -> float:
        """Epochs done, as a fraction."""
        return self.epoch + self.position / self.length

    def begin_epoch(self, sampler: Any) -> None:
        """Take the order of this epoch from the trainer's sampler."""
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)
        self.order = list(sampler)

    def take(self) -> list[list[int]]:
        """The row numbers of the next step, one list a micro-batch; fewer at the end of an epoch."""
        if self.order is None:
            raise RuntimeError("begin_epoch() comes first")
        batches: list[list[int]] = []
        size = min(self.batch_size, self.at_most or self.batch_size)
        for _ in range(self.accumulation):
            batch = self.order[self.position : self.position + self.batch_size]
            if not batch:
                break
            self.position += len(batch)
            batches += [batch[start : start + size] for start in range(0, len(batch), size)]
        return batches

    def peek(self) -> list[int]:
        """The row numbers of the micro-batch that comes next in this epoch; empty at its end."""
        return [] if self.order is None else self.order[self.position : self.position + self.batch_size]

    def give_back(self, batches: list[list[int]]) -> None:
        """Take back what `take` gave last: those rows come next again."""
        self.position -= sum(map(len, batches))

    def end_epoch_if_done(self) -> bool:
        """Turn to the next epoch where this one is used up."""
        if self.position < self.length:
            return False
        self.epoch, self.position, self.order = self.epoch + 1, 0, None
        return True

    def steps_left(self, epochs: float) -> int:
        """Optimizer steps until `epochs` passes are done, with today's batch geometry."""
        an_epoch = math.ceil(self.length / self.per_step)
        whole, part = int(epochs), epochs - int(epochs)
        last = math.ceil(round(part * an_epoch, 9))
        if self.epoch > whole:
            return 0
        if self.epoch == whole:
            return max(0, last - math.ceil(self.position / self.per_step))
        this = math.ceil((self.length - self.position) / self.per_step)
        return this + (whole - self.epoch - 1) * an_epoch + last

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "rows": self.rows,
            "batch_size": self.batch_size,
            "accumulation": self.accumulation,
            "epoch": self.epoch,
            "position": self.position,
            "order": self.order,
            "at_most": self.at_most,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RowCursor:
        """The cursor that `state()` described."""
        return cls(**state)
