"""How many threads a reply computes with, so that a run beside it keeps its cores.

On a CPU, decoding waits for memory and gains little from a second thread, while a step waits for its slowest one. The
run's own number of threads is never changed: a sum over more than 32,768 elements, such as the norm of a gradient, is
taken in one part a thread, and its last bits depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..threads import openmp

SHARE = 4
"""A reply beside a run computes with one of so many threads, one at least."""


@contextmanager
def sparing(beside: bool) -> Iterator[None]:
    """Inside, the calling thread computes with fewer threads where it is `beside` a run. No other thread is touched."""
    if not beside:
        yield
        return
    with openmp().limit(limits=max(1, torch.get_num_threads() // SHARE)):
        yield
