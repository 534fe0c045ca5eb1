"""The micro-batch that transformers collates before the one that is trained on: accelerate's loader is one ahead.

It matters where collating draws (masks, noise): an attached trainer is to draw in the order that it would have had.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Part = tuple[dict[str, Any], int]
"""Rows that are collated, and their tokens."""


def masks_of(trainer: Any) -> torch.Generator | None:
    """The generator from which the trainer's collator masks tokens, where it has one of its own."""
    generator = getattr(trainer.data_collator, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


@dataclass
class Draws:
    """The states of what a collator draws from: torch's global generator, and one of its own."""

    torch_cpu: torch.Tensor
    masks: torch.Tensor | None

    @classmethod
    def now(cls, trainer: Any) -> Draws:
        """As they are."""
        own = masks_of(trainer)
        return cls(torch.get_rng_state(), None if own is None else own.get_state())

    def put(self, trainer: Any) -> None:
        """Set them to this state."""
        torch.set_rng_state(self.torch_cpu)
        own = masks_of(trainer)
        if own is not None and self.masks is not None:
            own.set_state(self.masks)

    def same(self, other: Draws) -> bool:
        """Whether nothing was drawn between the two."""
        if (self.masks is None) != (other.masks is None) or not torch.equal(self.torch_cpu, other.torch_cpu):
            return False
        return self.masks is None or other.masks is None or torch.equal(self.masks, other.masks)

    def text(self) -> list[str | None]:
        """For a checkpoint."""
        states = (self.torch_cpu, self.masks)
        return [None if state is None else base64.b64encode(state.numpy().tobytes()).decode() for state in states]

    @classmethod
    def from_text(cls, text: list[str | None]) -> Draws:
        """What `text()` wrote."""
        cpu, masks = (None if one is None else np.frombuffer(base64.b64decode(one), np.uint8).copy() for one in text)
        assert cpu is not None
        return cls(torch.from_numpy(cpu), None if masks is None else torch.from_numpy(masks))


class Ahead:
    """One micro-batch, collated before its time. `make(batch)` collates rows of these numbers."""

    def __init__(self, trainer: Any, make: Callable[[list[int]], Part]) -> None:
        self._trainer, self._make = trainer, make
        self._rows: list[int] = []  # of the micro-batch that comes next; where edits make it another, it is let go
        self._part: Part | None = None
        self._before: Draws | None = None  # what it was drawn from, where collating draws

    def take(self, batch: list[int]) -> Part:
        """The rows of `batch`: held where they were to come next, else collated now."""
        rows, part, before = self._rows, self._part, self._before
        self.forget()
        if rows != batch:
            return self._make(batch)
        if part is not None:
            return part
        if before is None:
            return self._make(batch)
        now = Draws.now(self._trainer)  # a resumption: drawn once more as it was drawn before the checkpoint
        before.put(self._trainer)
        try:
            return self._make(batch)
        finally:
            now.put(self._trainer)

    def look(self, batch: list[int]) -> None:
        """Collate what comes next; nothing does at the end of an epoch."""
        self.forget()
        if not batch:
            return
        before = Draws.now(self._trainer)
        self._rows, self._part = batch, self._make(batch)
        if not before.same(Draws.now(self._trainer)):
            self._before = before

    def forget(self) -> None:
        """Hold nothing."""
        self._rows, self._part, self._before = [], None, None

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps; None where collating draws nothing."""
        return None if self._before is None else {"rows": self._rows, "draws": self._before.text()}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Put back what `state()` described."""
        self.forget()
        if state is not None:
            self._rows, self._before = list(state["rows"]), Draws.from_text(state["draws"])
