"""A base's modules made from its files: on meta and filled where the names match one to one, else by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


def shards(path: Path) -> list[Path]:
    """The safetensors files of a model folder; none where it has others."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        return sorted({path / name for name in json.loads(index.read_text())["weight_map"].values()})
    single = path / "model.safetensors"
    return [single] if single.exists() else []


Built = tuple[Any, frozenset[str]]
"""A model, and its parameters that no file holds (of a model that speaks: none)."""


def build_from_meta(path: Path, config: Any, dtype: torch.dtype | None, speaks: bool) -> Built | None:
    """The model built on meta and filled from safetensors, or None where the names do not match one to one.

    Without a `dtype` its tensors are those of the files, not read before they are used.
    A model that does not speak may have a new head, and what the file has beside its backbone is passed over.
    `from_pretrained(dtype=…)` sets torch's default dtype for the whole process while it runs, under the user's cells.
    """
    files = shards(path)
    if not files or getattr(config, "quantization_config", None) is not None:
        return None
    auto = AutoModelForCausalLM if speaks else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = auto.from_config(config, dtype=torch.get_default_dtype())
    weights = {
        name: tensor if dtype is None else tensor.to(dtype)
        for file in files
        for name, tensor in load_file(file).items()
    }
    backbone = "" if speaks else f"{model.base_model_prefix}."
    if not any(name.startswith(backbone) for name in weights):
        return None
    try:
        loaded = model.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError:  # a tensor of another shape
        return None
    model.tie_weights()
    if any(name.startswith(backbone) for name in loaded.unexpected_keys):
        return None
    missing = frozenset() if speaks else _fill(model)
    for module in model.modules():
        if any(b is not None and b.is_meta for b in module._buffers.values()):
            _make_buffers(model, module)
    if any(t.is_meta for t in [*model.parameters(), *model.buffers()]):
        return None
    if dtype is not None:
        model.config.dtype = dtype
    if speaks and (path / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(path)
    return model, missing


def _make_buffers(model: Any, module: Any) -> None:
    """Rotary frequencies, an embedding's scale and the like, which no file holds; what one holds stays as it is.

    `_init_weights` draws new weights as well: for tensors on meta, where that draws nothing.
    """
    held = [own for part in module.modules() for own in (part._parameters, part._buffers)]
    loaded = [(own, name, t) for own in held for name, t in own.items() if t is not None and not t.is_meta]
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
    for own, name, tensor in loaded:
        own[name] = tensor.to("meta") if isinstance(tensor, torch.nn.Parameter) else tensor.clone()
    with torch.no_grad():
        model._init_weights(module)
    for own, name, tensor in loaded:
        own[name] = tensor


def _fill(model: Any) -> frozenset[str]:
    """Put zeros where no file has a parameter, and tell which those are."""
    missing = frozenset(name for name, p in model.named_parameters() if p.is_meta)
    for name in missing:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        module._parameters[own] = torch.nn.Parameter(torch.zeros_like(module._parameters[own], device="cpu"))
    return missing


def build_by_transformers(
    path: Path, dtype: torch.dtype | None, speaks: bool, device: torch.device | None = None
) -> Built:
    """transformers' own loading, in the default dtype (so that it is not changed) and cast afterwards.

    `device` is given for files that are quantised: those are loaded onto it, and not cast.
    """
    more = {"dtype": torch.get_default_dtype()} | ({} if device is None else {"device_map": {"": device}})
    missing: list[str] = []
    with torch.random.fork_rng(devices=[]):  # it draws what the files do not hold, and nobody uses that
        if speaks:
            model = AutoModelForCausalLM.from_pretrained(path, **more)
        else:
            model, told = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True, **more)
            missing = told["missing_keys"]
    if dtype is not None and device is None:
        cast(model, dtype)
    return model, frozenset(missing)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """As `from_pretrained(dtype=…)` leaves it: what no file holds, rotary frequencies for one, stays as it was made."""
    for module in model.modules():
        held = [b for name, b in module._buffers.items() if name not in module._non_persistent_buffers_set]
        for tensor in [*module._parameters.values(), *held]:
            if tensor is not None and tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype
    return model
