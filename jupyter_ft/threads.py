"""How many threads a thread computes with: OpenMP counts for each, and torch's own call sets more than that."""

from __future__ import annotations

from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache
def openmp() -> Any:
    """OpenMP's pools; `limit(limits=n)` is for the calling thread alone.

    (`torch.set_num_threads` would not do: it sets MKL's number for all threads, and that of threads to come.)
    """
    return ThreadpoolController().select(user_api="openmp")
