"""Whether chat can have a copy of the trained weights: the one rule, by what memory is free.

A copy is made where it fits beside what the run itself is still going to take. Else each reply is spoken between two
steps on the trainer's own model (`at_boundary`).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def no_room(copies: int, training: int, device: torch.device, room: int | None = None) -> str:
    """Why `copies` bytes do not fit beside the `training` bytes that the run will take; empty where they do.

    `room` is the memory of `device` that may be used, in bytes; where None, what is free.
    """
    free = free_bytes(device) if room is None else room
    if copies + training <= free:
        return ""
    return (
        f"a copy of the trained weights takes {_size(copies)}, training {_size(training)}, {device} has {_size(free)}"
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on `device`; where a container has a limit, what is left of that."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min(int(psutil.virtual_memory().available), _left_in_container())


def _left_in_container() -> int:
    with suppress(OSError, ValueError, StopIteration):  # no limit reads "max"
        limit = int((_CGROUP / "memory.max").read_text())
        stat = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
        return limit - int((_CGROUP / "memory.current").read_text()) + cached
    return 2**63


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
