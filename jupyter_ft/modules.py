"""Copies of a model's modules that share tensors: what a twin, a column and a step of the past are made of."""

from __future__ import annotations

import copy
import io
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch

from . import quantized

_FIXED = (str, int, float, bool, type(None), torch.dtype, torch.device, type)  # cannot change: shared
_PLAIN = (dict, list, set, OrderedDict)  # made again in a moment where they are empty; kinds derived from them are not
UNFOLDABLE = (pickle.PickleError, AttributeError, TypeError, ValueError, RuntimeError)  # as pickle says it
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


class Folded:
    """The modules of `model` as a few kilobytes, to be laid out again over its tensors, but for its `own` parameters.

    SmolLM2's with an adapter are 2,500 modules: 16 kB folded, 8 MB and 20 ms laid out. What is shared are the frozen
    parameters and the buffers; classes and functions are held, so that a cell that defines them anew changes nothing.
    Raises `UNFOLDABLE` where a module cannot be folded and laid out.
    """

    def __init__(self, model: Any, own: Collection[str]) -> None:
        parameters = {id(p): name for name, p in model.named_parameters() if name in own}
        shared = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._held: list[Any] = []  # by their numbers
        self._own: dict[str, torch.Tensor] = {}
        written = io.BytesIO()
        pickler = pickle.Pickler(written, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = partial(self._number, parameters, shared, {})  # type: ignore[method-assign]
        pickler.dump(model)
        self._modules = zlib.compress(written.getvalue(), 1)
        self.unfold()

    def _number(self, own: dict[int, str], shared: set[int], numbers: dict[int, int], thing: Any) -> int | str | None:
        if isinstance(thing, torch.Tensor):
            if (name := own.get(id(thing))) is not None:
                self._own[name] = torch.empty_like(thing, device="meta")
                return name
            if id(thing) not in shared:
                return None  # a module's own affair
        elif isinstance(thing, MethodType):
            if getattr(type(thing.__self__), thing.__name__, None) is not thing.__func__:
                raise pickle.PicklingError(f"{thing.__name__} is a method of one instance")
            return None
        elif not isinstance(thing, type | FunctionType | BuiltinFunctionType):
            return None
        if id(thing) not in numbers:
            numbers[id(thing)] = len(self._held)
            self._held.append(thing)
        return numbers[id(thing)]

    def is_over(self, base: Any) -> bool:
        """Whether it holds no tensor but those of `base`."""
        theirs = {id(tensor) for tensor in (*base.parameters(), *base.buffers())}
        return all(id(held) in theirs for held in self._held if isinstance(held, torch.Tensor))

    def unfold(self) -> Any:
        """The model once more, over the same tensors; its own parameters have a shape and no memory."""
        own = {name: torch.nn.Parameter(like, requires_grad=False) for name, like in self._own.items()}
        unpickler = pickle.Unpickler(io.BytesIO(zlib.decompress(self._modules)))  # noqa: S301 - written above
        unpickler.persistent_load = lambda of: own[of] if isinstance(of, str) else self._held[of]  # type: ignore[method-assign]
        return unpickler.load()


def give_parameters(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Have the parameters of `model` by these names lie where `tensors` do."""
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        part = model.get_submodule(path)
        setattr(part, last, torch.nn.Parameter(tensor.detach(), requires_grad=False))
