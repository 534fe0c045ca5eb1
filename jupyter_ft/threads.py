"""How many threads a thread computes with: a reply with fewer, so that a run beside it keeps its cores.

On a CPU, decoding waits for memory and gains little from a second thread, while a step waits for its slowest one. The
run's own number of threads is never changed: a sum over more than 32,768 elements, such as the norm of a gradient, is
taken in one part a thread, and its last bits depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

SHARE = 4
"""A reply beside a run computes with one of so many threads, one at least."""


@cache
def openmp() -> Any:
    """OpenMP's pools; `limit(limits=n)` is for the calling thread alone.

    (`torch.set_num_threads` would not do: it sets MKL's number for all threads, and that of threads to come.)
    """
    return ThreadpoolController().select(user_api="openmp")


@contextmanager
def sparing(beside: bool) -> Iterator[None]:
    """Inside, the calling thread computes with fewer threads where it is `beside` a run. No other thread is touched."""
    if not beside:
        yield
        return
    with openmp().limit(limits=max(1, torch.get_num_threads() // SHARE)):
        yield
