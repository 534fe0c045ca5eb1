"""Copies of tensors in a place of their own, outside the C heap, where what lives long would lie scattered."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_ALIGNED = 64  # bytes
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
_SPARE = 2**30  # bytes of a disk that are left to others
_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it
_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def room_for(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes that their copies take."""
    return sum(_aligned(tensor) for tensor in tensors)


def copied_aside(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies in memory of the CPU, contiguous and without gradients. It goes back to the system with the last of them.

    Raises `OSError` where there is no room.
    """
    whole = room_for(tensors)
    if not whole:
        return [torch.empty_like(tensor, device="cpu") for tensor in tensors]
    memory = mmap.mmap(-1, whole, **_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)  # 20 MB are copied in 6 ms, for 17 with small pages
    return _copied(tensors, memory)


class OnDisk:
    """Copies in a file that has no name: what nobody reads or writes may be written there and leave the memory.

    Raises `OSError` where there is no room, or where the system has no such files.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        if not can_be_on_disk(room_for(tensors)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=_disk()) as file:
            os.posix_fallocate(file.fileno(), 0, room_for(tensors))  # else a full disk would end the process later
            self._memory = mmap.mmap(file.fileno(), room_for(tensors))
        self.tensors = _copied(tensors, self._memory)

    def let_go(self) -> None:
        """Hold none of it in memory until it is read or written again, or until `have`."""
        with suppress(OSError):  # somebody has locked all memory
            self._advise(mmap.MADV_DONTNEED)

    def have(self) -> None:
        """Hold all of it in memory (40 MB: 6 ms; one page after another, by the threads of a step, 30 ms).

        Raises `OSError` where it cannot be written: the process would end where it was.
        """
        try:
            self._advise(_POPULATE_WRITE)
        except OSError as error:
            if error.errno != errno.EINVAL:  # an older kernel
                raise

    def _advise(self, what: int) -> None:
        """As `mmap.madvise`, which would have all threads wait for the disk."""
        place = torch.frombuffer(self._memory, dtype=torch.uint8)
        if _libc.madvise(ctypes.c_void_p(place.data_ptr()), ctypes.c_size_t(len(self._memory)), what):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def can_be_on_disk(more: int = 0) -> bool:
    """Whether the disk has room for `more` bytes, and then for others."""
    if sys.platform != "linux":
        return False
    try:
        return shutil.disk_usage(_disk()).free >= _SPARE + more
    except OSError:
        return False


def _disk() -> str:
    """The folder for temporary files; not the usual one, which may be in memory itself, where there is a better."""
    places = (os.environ.get("TMPDIR", ""), "/var/tmp")
    return next((place for place in places if Path(place).is_dir() and place), tempfile.gettempdir())


def _copied(tensors: Sequence[torch.Tensor], memory: mmap.mmap) -> list[torch.Tensor]:
    place = torch.frombuffer(memory, dtype=torch.uint8)
    copies, at = [], 0
    for tensor in tensors:
        slot = place[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies.append(slot.copy_(tensor.detach()))
        at += _aligned(tensor)
    return copies


def _aligned(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNED) * _ALIGNED
