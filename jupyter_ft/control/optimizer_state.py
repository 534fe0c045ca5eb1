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

_LARGE = 2**28  # bytes: more would be held twice for a moment, or keep a disk busy


class OptimizerState:
    """The place of the state of a run's optimizer on the CPU. For the training thread, in its turn."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._file: OnDisk | None = None
        self._no_file = False  # it was tried

    def have(self, optimizer: Any) -> None:
        """Before a step of the optimizer: have what it needs in memory."""
        try:
            if self._file is not None:
                self._file.have()
        except OSError:  # the disk has no room for what is to be written there
            self._no_file = True
            self._move(optimizer, False)

    def wait(self, optimizer: Any, among_others: bool) -> None:
        """Before the turn is given up: have the state at its place, which is no memory where there are others."""
        self._move(optimizer, among_others and not self._no_file and can_be_on_disk())
        if self._file is not None:
            self._file.let_go()

    def _move(self, optimizer: Any, to_disk: bool) -> None:
        made = [(slots, name) for slots in optimizer.state.values() for name in slots if _moves(slots[name])]
        tensors = [slots[name] for slots, name in made]
        if to_disk == (self._file is not None) and _same(_steady(tensors), self._tensors):
            return
        with suppress(OSError):  # no room: it stays where it is
            copies, file = self._copied(tensors, to_disk)
            for (slots, name), copy in zip(made, copies, strict=True):
                slots[name] = copy
            self._tensors, self._file = _steady(copies), file

    def _copied(self, tensors: list[torch.Tensor], to_disk: bool) -> tuple[list[torch.Tensor], OnDisk | None]:
        size, home = room_for(tensors), self._file is not None
        if to_disk and 0 < size <= _LARGE:
            try:
                file = OnDisk(tensors)
                return file.tensors, file
            except OSError:
                self._no_file = True
        return (copied_aside(tensors) if home or size <= _LARGE else tensors), None


def _moves(kept: Any) -> bool:
    """Whether it is a tensor in the layout that its copy has; a fused step goes through both alike."""
    return torch.is_tensor(kept) and kept.is_contiguous()


def _steady(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Those that stay the same tensors from step to step: counts and norms may not, and only come along."""
    return [tensor for tensor in tensors if tensor.dim()]


def _same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
