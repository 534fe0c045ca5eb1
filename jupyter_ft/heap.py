"""The C heap. glibc keeps what is freed: 1.1 GB of 1.7 after the first run of SmolLM2 on the CPU was closed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any


class Heap:
    """What the C library keeps of freed memory. Safe to use from several threads."""

    def __init__(self) -> None:
        self._trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

    def give_back(self) -> None:
        """Give it to the system (some 80 ms)."""
        if self._trim is not None:
            self._trim(0)


HEAP = Heap()
