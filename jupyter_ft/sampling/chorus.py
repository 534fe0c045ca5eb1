"""Several adapters over one base speak in one batch: a row each, the base's products shared by all.

Each row's low-rank product is that of its own twin, with the shapes that it has alone; nothing is copied, and adapters
of different ranks and targets go together. What is no plain LoRA over the very same weights speaks by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from peft.utils import AuxiliaryTrainingWrapper

from ..errors import Refused
from ..modules import apart
from .generate import Row, Spoken, speak_rows
from .round import MOST

Layers = dict[str, Any]
"""The adapter's layers of a model by the names of the modules below them; none of a base."""


@dataclass
class Part:
    """One column: a model, where its base's weights lie, its adapter, and what it is to say. Then what came of it."""

    model: Any
    row: Row
    layers: Layers
    storage: frozenset[tuple[str, int]]
    spoken: Spoken | None = None
    began: float = 0.0  # on the clock of `time.perf_counter`
    together: int = 1  # how many spoke at once
    error: str = ""


class Stage:
    """The modules on which rows of several adapters speak: a shell over the base's storage, made when first needed."""

    def __init__(self) -> None:
        self.storage: frozenset[tuple[str, int]] | None = None  # where the base lies
        self._shell: Any = None

    def of(self, part: Part) -> Any:
        """The shell over the base below `part`."""
        if part.storage != self.storage:
            shell = apart(part.model, [*part.model.parameters(), *part.model.buffers()])
            shell = shell.unload() if isinstance(shell, PeftModel) else shell
            self._shell, self.storage = shell.eval(), part.storage
        return self._shell


class _Mixed(Exception):
    """A layer of the model mixes the rows of a batch (experts do): no adapter can be laid over one of them."""


def layers_of(model: Any) -> Layers:
    """The adapter of `model`, to be laid over one row of a batch. `Refused` says why it cannot be."""
    if not isinstance(model, PeftModel):
        return {}
    found: Layers = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            raise Refused("a head or embedding of its own is trained beside its adapter")
        if not isinstance(module, LoraLayer):
            continue
        if type(module) is not Linear or module.merged:
            raise Refused(f"its adapter is no low-rank product over plain linear layers ({type(module).__name__})")
        if module.lora_variant:
            kind = next(type(one).__name__ for one in module.lora_variant.values())
            raise Refused(f"{kind.removesuffix('LinearVariant')} scales the base's rows too")
        found[name] = module
    if not found:
        raise Refused("it is no LoRA adapter")
    return found


def storage_of(model: Any) -> frozenset[tuple[str, int]]:
    """Where the weights below an adapter lie: equal for those that share a base."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    named = ((name.replace(".base_layer", ""), p.data_ptr()) for name, p in inner.named_parameters())
    return frozenset((name, place) for name, place in named if ".lora_" not in name)


def speak_parts(parts: list[Part], stage: Stage) -> None:
    """Have them all speak, in one batch those that share a base; each has `spoken` or an `error` afterwards."""
    for alike in _grouped(parts):
        for start in range(0, len(alike), MOST):
            _speak_alike(alike[start : start + MOST], stage)


def _grouped(parts: list[Part]) -> list[list[Part]]:
    groups: dict[frozenset[tuple[str, int]], list[Part]] = {}
    for part in parts:
        groups.setdefault(part.storage, []).append(part)
    return list(groups.values())


def _speak_alike(parts: list[Part], stage: Stage) -> None:
    began = time.perf_counter()
    try:
        if len(parts) == 1:
            said = speak_rows(parts[0].model, [parts[0].row])
        else:
            model = stage.of(parts[0])
            with laid_over(model, [part.layers for part in parts]):
                said = speak_rows(model, [part.row for part in parts])
    except _Mixed:  # found at the first token: nothing is said yet
        for part in parts:
            _speak_alike([part], stage)
        return
    except Exception as error:  # noqa: BLE001 - each of them is a question that gets its answer
        for part in parts:
            part.error = str(error) or type(error).__name__
        return
    for part, spoken in zip(parts, said, strict=True):
        part.spoken, part.began, part.together = spoken, began, len(parts)


@contextmanager
def laid_over(shell: Any, rows: list[Layers]) -> Iterator[None]:
    """Inside, row n of a batch that `shell` reads has the adapter `rows[n]`."""
    below: dict[str, list[tuple[int, Any]]] = {}
    for number, layers in enumerate(rows):
        for name, layer in layers.items():
            below.setdefault(name, []).append((number, layer))
    hooks = [
        shell.get_submodule(name).register_forward_hook(_adding(layers, len(rows))) for name, layers in below.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(layers: list[tuple[int, Any]], rows: int) -> Callable[[Any, Any, torch.Tensor], None]:
    def add(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if inputs[0].shape[0] != rows:
            raise _Mixed
        for number, layer in layers:
            own = slice(number, number + 1)
            for name in layer.active_adapters:
                if name in layer.lora_A:
                    down, up = layer.lora_A[name], layer.lora_B[name]
                    x = layer._cast_input_dtype(inputs[0][own], down.weight.dtype)
                    output[own] += up(down(x)) * layer.scaling[name]

    return add
