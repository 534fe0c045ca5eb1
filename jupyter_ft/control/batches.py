"""Where the micro-batches of a step come from: the rows that the cursor says, as the trainer's collator puts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..hyperparameters import Hyperparameters
from .cursor import RowCursor

Parts = list[Any]
"""The micro-batches of an optimizer step, as the trainer's `training_step` takes them."""
PartOf = Callable[[list[int]], tuple[Any, int]]
"""Collates the rows of these numbers, and counts their tokens."""


class Batches:
    """Those of a trainer that learns from rows as they are. `tokens` are those of the step that was fetched last."""

    draws = False  # from the global generators, whatever the model and its sampler do

    def __init__(self, trainer: Any, asked: Hyperparameters) -> None:
        self.trainer = trainer
        self.cursor = RowCursor(len(trainer.train_dataset), asked.batch_size, asked.accumulation)
        self.tokens = 0

    @property
    def whole(self) -> bool:
        """Whether a checkpoint of this boundary has all that comes after it needs."""
        return True

    def collate(self, loader: Any, batches: list[list[int]], part_of: PartOf) -> Parts:
        """The micro-batches for the row numbers in `batches`."""
        parts = [part_of(batch) for batch in batches]
        self.tokens = sum(tokens for _, tokens in parts)
        return [part for part, _ in parts]

    def done(self, part: Any) -> None:
        """`part` has been trained on."""

    def mark(self) -> Any:
        """What `back_to` needs to have the step that comes done once more."""

    def back_to(self, mark: Any) -> None:
        """Forget what the trainer has noted of a step since `mark()`."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the cursor."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state()` described."""


def count_tokens(part: Any, rows: list[Any]) -> int:
    """The tokens of `rows`, collated into `part`, without what fills up."""
    if "attention_mask" in part:
        return int(part["attention_mask"].sum())
    if all(isinstance(row, dict) and "seq_lengths" in row for row in rows):  # packed: what fills up is not counted
        return sum(len(row["input_ids"]) for row in rows)
    return int(part["input_ids"].numel()) if "input_ids" in part else 0
