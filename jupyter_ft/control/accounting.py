"""How much memory a piece of work takes at most, counted: by CUDA's own allocator, elsewhere tensor by tensor.

The resident size of a process tells of allocators and of other threads as well. Here only the tensors count that the
counting thread makes, from when their storage is made until it is freed; what a kernel takes and gives back inside
itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Accounting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, the bytes of the tensors that this thread makes are counted; `peak` is the most that lived at once.

    Nothing is computed differently for it. A backward pass on the CPU runs on the thread that asks for it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}  # by the address of the storage object, which lives as long as the storage
        self._watched: dict[int, weakref.ref[Any]] = {}

    def hold(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors that are there already, each storage once; what they take in bytes."""
        before = self.now
        for tensor in tensors:
            self._count(tensor)
        self.peak = max(self.peak, self.now)
        return self.now - before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        self.peak = max(self.peak, self.now)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        if tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._watched:
            self._watched[key] = weakref.ref(storage, partial(self._freed, key))
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _freed(self, key: int, _: object) -> None:
        self._watched.pop(key, None)
        self.now -= self._sizes.pop(key, 0)
