"""The C heap between two turns: on glibc each thread keeps what a step has freed, eight runs eight times."""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

SECONDS = 1.0  # between two trims: steps that are shorter hold little


class Heap:
    """What the C library keeps of freed memory. Used by who holds the lease."""

    def __init__(self) -> None:
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._last = 0.0

    def give_back(self) -> None:
        """Give it to the system, for the run whose turn is next; once a second at most."""
        now = time.monotonic()
        if self._trim is not None and now - self._last >= SECONDS:
            self._last = now
            self._trim(0)


HEAP = Heap()
