"""Where what an optimizer keeps lies: of Adam, two moments, twice the size of what is trained.

It is for good, and would lie scattered between what each step takes and frees, so that the next finds no room there:
270 MB of eight runs of SmolLM2. So it has a place of its own. Only the run whose turn it is needs it: where others have
theirs, that place is a file on disk, which the system keeps in memory for as long as nobody wants that memory.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch

from ..aside import OnDisk, can_be_on_disk, copied_aside, room_for

_LARGE = 2**27  # bytes of memory that may be taken twice for a moment


class OptimizerState:
    """The place of the state of a run's optimizer on the CPU. For the training thread, in its turn."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._file: OnDisk | None = None

    def have(self) -> None:
        """Before a step of the optimizer: have what it needs in memory."""
        if self._file is not None:
            self._file.have()

    def wait(self, optimizer: Any, among_others: bool) -> None:
        """Before the turn is given up: have the state at its place, which is no memory where there are others."""
        made = [(slots, name) for slots in optimizer.state.values() for name in slots if torch.is_tensor(slots[name])]
        tensors = [slots[name] for slots, name in made]
        to_disk = among_others and can_be_on_disk()
        if to_disk != (self._file is not None) or not _same(tensors, self._tensors):
            with suppress(OSError):  # no room: it stays where it is
                for (slots, name), copy in zip(made, self._moved(tensors, to_disk), strict=True):
                    slots[name] = copy
        if self._file is not None:
            self._file.let_go()

    def _moved(self, tensors: list[torch.Tensor], to_disk: bool) -> list[torch.Tensor]:
        twice, size = self._file is None, room_for(tensors)
        self._tensors, self._file = tensors, None
        if to_disk and size:
            self._file = OnDisk(tensors)
            self._tensors = self._file.tensors
        elif 0 < size <= _LARGE or not twice:
            self._tensors = copied_aside(tensors)
        return self._tensors


def _same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
