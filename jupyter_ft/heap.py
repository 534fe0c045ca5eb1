"""The C heap: glibc keeps what is freed, for each thread apart.

Eight runs would hold the memory of a step eight times, so they share one arena. It also holds more than what a run
needs, and is given back: 1.1 GB of 1.7 after the first run of SmolLM2 on the CPU was closed.
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

SECONDS = 30.0  # between two trims at a change of hands: each costs the next step a tenth and more, in page faults
_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


class Heap:
    """What the C library keeps of freed memory. Safe to use from several threads."""

    def __init__(self) -> None:
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._last = 0.0
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
        if mallopt is not None:
            mallopt(_ARENA_MAX, 1)  # threads that begin now share one: what a run has freed, the next takes

    def give_back(self) -> None:
        """Give it to the system (some 80 ms)."""
        if self._trim is not None:
            self._last = time.monotonic()
            self._trim(0)

    def change_hands(self) -> None:
        """Give it back for the run whose turn is next; twice a minute at most."""
        if time.monotonic() - self._last >= SECONDS:
            self.give_back()


HEAP = Heap()
