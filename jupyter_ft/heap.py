"""The C heap: glibc keeps what is freed, for each thread apart; eight runs would hold the memory of a step eight times.

It also holds more than what a run needs: 1.1 GB of 1.7 after the first run of SmolLM2 on the CPU was closed.
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

import psutil

SECONDS = 1.0  # between two trims: steps that are shorter hold little


class Heap:
    """What the C library keeps of freed memory. Safe to use from several threads."""

    def __init__(self) -> None:
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._last = 0.0

    def give_back(self) -> None:
        """Give it to the system (some 80 ms)."""
        if self._trim is not None:
            self._last = time.monotonic()
            self._trim(0)

    def change_hands(self, free: int) -> None:
        """Give it back for the run whose turn is next, where less is `free` (bytes) than this process holds.

        Not always: the next step has to fault its memory in again, which takes a fifth of it.
        """
        if time.monotonic() - self._last >= SECONDS and free < psutil.Process().memory_info().rss:
            self.give_back()


HEAP = Heap()
