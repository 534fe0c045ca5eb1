"""Whether chat can have a copy of the trained weights: the one rule, by what memory is free.

A copy is made where it fits beside what the run itself is still going to take. Else each reply is spoken between two
steps on the trainer's own model (`at_boundary`).
"""

from __future__ import annotations

import torch

from ..memory.device import free_in_ram
from ..memory.fit import size_text


def no_room(copies: int, training: int, device: torch.device, room: int | None = None) -> str:
    """Why `copies` bytes do not fit beside the `training` bytes that the run will take; empty where they do.

    `room` is the memory of `device` that may be used, in bytes; where None, what is free.
    """
    free = free_bytes(device) if room is None else room
    if copies + training <= free:
        return ""
    taken = f"a copy of the trained weights takes {size_text(copies)}, training {size_text(training)}"
    return f"{taken}, {device} has {size_text(free)}"


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on `device`; where a container has a limit, what is left of that."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return free_in_ram()
