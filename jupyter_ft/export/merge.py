"""The whole model of a step, made on the CPU: an adapter merged into its base, or the weights that were trained.

A delta is added in float32 and rounded once, to the base's dtype. What is quantised is dequantised before.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..control.lease import LEASE, seeded_streams
from ..demo import quiet_transformers
from ..models import Base, with_adapter
from ..quantized import whole_copy
from ..recipe import Recipe
from ..sampling.judge import Judging, shell_for
from ..sampling.twin import load
from ..weights import lora_layers
from .origin import Report

SHARD = "5GB"
_OF_GENERATION = "generation_config.json"


def merged(base: Base, recipe: Recipe, judging: Judging | None, weights: Path, report: Report) -> Any:
    """A model of transformers' own class, on the CPU, with the weights in the folder `weights` in it."""
    with LEASE, seeded_streams(recipe.seed):  # what is drawn for a head or an adapter, the weights overwrite
        model = whole_copy(shell_for(base, judging))
        own = model if recipe.adapter.kind == "full" else with_adapter(model, recipe)
    load(own, weights)
    if own is model:
        return model
    layers = lora_layers(own)
    for done, layer in enumerate(layers):
        report("merging", done, len(layers))
        _merge(layer)
    whole = own.unload()
    for name in ("peft_config", "active_adapter"):
        vars(whole).pop(name, None)
    return whole.requires_grad_(False).eval()


def _merge(layer: Any) -> None:
    """Add the adapter's delta to the base's layer below it, in float32."""
    below = layer.get_base_layer()
    dtype = below.weight.dtype
    below.weight.data = below.weight.data.float()
    with torch.no_grad():
        layer.merge()
    below.weight.data = below.weight.data.to(dtype)


def write_model(model: Any, base: Base, folder: Path) -> None:
    """Weights in shards of 5 GB at most, config, and the base's own settings for generating. `OSError`: a full disk."""
    theirs, config = Path(base.path) / _OF_GENERATION, getattr(model, "generation_config", None)
    if config is not None:  # one that is strictly wrong cannot be saved; the base's file is taken as it is
        model.generation_config = type(config)(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    try:
        with quiet_transformers():
            model.save_pretrained(str(folder), max_shard_size=SHARD)
    except SafetensorError as error:  # what safetensors says of a full disk is no OSError
        raise OSError(str(error)) from error
    if config is not None and theirs.is_file():
        shutil.copy(theirs, folder / _OF_GENERATION)


def bytes_of(base: Base) -> int:
    """Bytes of the whole model in the base's dtype, about."""
    each = torch.empty((), dtype=base.model.config.dtype).element_size()
    weights = 0
    for parameter in base.model.parameters():
        state = getattr(parameter, "quant_state", None)
        weights += parameter.numel() if state is None else state.shape.numel()
    return weights * each
