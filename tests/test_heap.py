"""Freed memory goes back to the system when it is short, and is kept for the next step when it is not."""

from __future__ import annotations

import sys

import psutil
import pytest

MB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap alone is given back")
def test_what_is_freed_is_given_back_where_memory_is_short() -> None:
    import torch

    from jupyter_ft.heap import Heap

    def resident() -> float:
        return psutil.Process().memory_info().rss / MB

    heap = Heap()
    blocks = [torch.ones(25_000) for _ in range(2000)]  # small enough for the heap, 190 MB in all
    held = resident()
    del blocks[:-1]  # the last keeps the rest from the end of the heap, from where glibc gives it back by itself
    heap.change_hands(free=10**15)
    assert resident() > held - 50
    heap.change_hands(free=0)
    assert resident() < held - 100
    again = [torch.ones(25_000) for _ in range(2000)]
    held = resident()
    del again[:-1]
    heap.change_hands(free=0)  # within a second of the last
    assert resident() > held - 50
    heap.give_back()
    assert resident() < held - 100
    assert blocks[0].sum() == again[0].sum() == 25_000
