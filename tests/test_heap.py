"""Freed memory goes back to the system when it is told to."""

from __future__ import annotations

import sys

import psutil
import pytest

MB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap alone is given back")
def test_what_is_freed_is_given_back() -> None:
    import torch

    from jupyter_ft.heap import Heap

    def resident() -> float:
        return psutil.Process().memory_info().rss / MB

    blocks = [torch.ones(25_000) for _ in range(2000)]  # small enough for the heap, 190 MB in all
    held = resident()
    del blocks[:-1]  # the last keeps the rest from the end of the heap, from where glibc gives it back by itself
    assert resident() > held - 50
    Heap().give_back()
    assert resident() < held - 100
    assert blocks[0].sum() == 25_000
