"""The micro-batch that transformers collates before the one that is trained on: accelerate's loader is one ahead.

It matters where collating draws (masks, noise): an attached trainer is to draw in the order that it would have had.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .own_draws import masks_of, own_draws, plain, put_own_draws

Part = tuple[dict[str, Any], int]
"""Rows that are collated, and their tokens."""


@dataclass
class Draws:
    """The states of what a collator draws from: the global generators, and its own."""

    torch_cpu: torch.Tensor
    masks: torch.Tensor | None
    numbers: dict[str, Any] | None
    """Numpy's and Python's; None of a checkpoint that was written without."""

    @classmethod
    def now(cls, trainer: Any) -> Draws:
        """As they are."""
        masks = masks_of(trainer)
        numbers = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}
        return cls(
            torch.get_rng_state(),
            None if masks is None else masks.get_state(),
            plain(numbers) | {"own": own_draws(trainer)},
        )

    def put(self, trainer: Any) -> None:
        """Set them to this state."""
        torch.set_rng_state(self.torch_cpu)
        masks = masks_of(trainer)
        if masks is not None and self.masks is not None:
            masks.set_state(self.masks)
        if self.numbers is not None:
            version, key, gauss = self.numbers["python"]
            random.setstate((version, tuple(key), gauss))
            np.random.set_state(self.numbers["numpy"])
            put_own_draws(trainer, self.numbers["own"])

    def same(self, other: Draws) -> bool:
        """Whether nothing was drawn between the two."""
        if (self.masks is None) != (other.masks is None) or not torch.equal(self.torch_cpu, other.torch_cpu):
            return False
        masks = self.masks is None or other.masks is None or torch.equal(self.masks, other.masks)
        return masks and self.numbers == other.numbers

    def text(self) -> list[Any]:
        """For a checkpoint."""
        states = (self.torch_cpu, self.masks)
        tensors = [None if state is None else base64.b64encode(state.numpy().tobytes()).decode() for state in states]
        return [*tensors, self.numbers]

    @classmethod
    def from_text(cls, text: list[Any]) -> Draws:
        """What `text()` wrote."""
        cpu, masks = (
            None if one is None else np.frombuffer(base64.b64decode(one), np.uint8).copy() for one in text[:2]
        )
        assert cpu is not None
        rest = text[2] if len(text) > 2 else None
        return cls(torch.from_numpy(cpu), None if masks is None else torch.from_numpy(masks), rest)


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
