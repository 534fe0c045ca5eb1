"""Copies of a model's modules that share tensors: what a twin, a column and a step of the past are made of."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from . import quantized

_FIXED = (str, int, float, bool, type(None), torch.dtype, torch.device, type)  # cannot change: shared
_PLAIN = (dict, list, set, OrderedDict)  # made again in a moment where they are empty; kinds derived from them are not
_OWN_WAY = ("__new__", "__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")


def apart(model: Any, shared: Iterable[torch.Tensor]) -> Any:
    """A copy of `model` whose tensors are its own but for those that are `shared`.

    What `copy.deepcopy` with a memo gives, three times as fast: most of what a module holds is empty or cannot change.
    """
    return _copied(model, {id(tensor): tensor for tensor in shared} | quantized.shared(model))


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    kind = type(module)
    if id(module) in memo or any(getattr(kind, way, 0) is not getattr(torch.nn.Module, way, 0) for way in _OWN_WAY):
        return copy.deepcopy(module, memo)
    memo[id(module)] = own = object.__new__(kind)
    for name, value in vars(module).items():
        if isinstance(value, _FIXED):
            vars(own)[name] = value
        elif name == "_modules":
            vars(own)[name] = type(value)((key, _copied(part, memo)) for key, part in value.items())
        elif type(value) in _PLAIN and not value:
            vars(own)[name] = memo.setdefault(id(value), type(value)())  # one that several modules hold stays one
        else:
            vars(own)[name] = copy.deepcopy(value, memo)
    return own


class Pattern:
    """The modules of `model` to copy from, over its tensors, but for its `own` parameters: these have no memory."""

    def __init__(self, model: Any, own: Collection[str]) -> None:
        named = [*model.named_parameters(), *model.named_buffers()]
        self._shared = [tensor for name, tensor in named if name not in own]
        self._model = apart(model, [tensor for _, tensor in named])
        for name, parameter in list(self._model.named_parameters()):
            if name in own:
                _set(self._model, name, torch.empty_like(parameter, device="meta"))

    def is_over(self, base: Any) -> bool:
        """Whether it holds no tensor but those of `base`."""
        theirs = {id(tensor) for tensor in (*base.parameters(), *base.buffers())}
        return all(id(tensor) in theirs for tensor in self._shared)

    def copied(self) -> Any:
        """The model once more, over the same tensors; its own parameters have a shape and no memory."""
        return apart(self._model, self._shared)


def give_parameters(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Have the parameters of `model` by these names lie where `tensors` do."""
    for name, tensor in tensors.items():
        _set(model, name, tensor.detach())


def _set(model: Any, name: str, tensor: torch.Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, torch.nn.Parameter(tensor, requires_grad=False))
