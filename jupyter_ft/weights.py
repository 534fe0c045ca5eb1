"""What a run trains and keeps: a LoRA adapter beside the frozen base, or every weight of a copy of its own.

In a run folder an adapter is in PEFT's own format; full weights are `model.safetensors` and `config.json`, which
transformers loads. Names of tensors are those of PEFT's files: without the adapter's name in them.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import CheckpointError
from .models import Base, with_adapter
from .quantization import SAID
from .quantized import size
from .recipe import Recipe
from .refit import refit, shape_in, shape_of

ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"
_NAME = "default"  # PEFT's name of the adapter
Tensors = Mapping[str, torch.Tensor]


def to_train(model: Any, recipe: Recipe, start: Path | None = None) -> Any:
    """The model that a trainer is given: `model` under a fresh adapter, or a copy of it in float32, all trainable.

    Full weights are trained in float32 whatever the base is in: an update is too small for bfloat16 to hold. `start`
    holds the weights of another run to begin with.
    """
    if isinstance(model, PeftModel):  # it has its adapter, with those weights
        return model
    if recipe.adapter.kind != "full":
        own = with_adapter(model, recipe)
    else:
        own = copy.deepcopy(model).float().requires_grad_(True)
        own.config.dtype = torch.float32
    if start is not None:
        begin_with(own, start)
    return own


def described(recipe: Recipe, base: Base) -> str:
    """What a run trains, and how large the base is under it."""
    weights, held = size(base.model)
    own = base.quantization if recipe.quantization == "none" else "none"
    as_found = f", {SAID[own]} as it was found" if own != "none" else ""
    return f"{recipe.trains}; the base{as_found}: {weights / 1e6:,.1f} M weights in {held / 1e6:,.1f} MB"


def begin_with(model: Any, folder: Path) -> None:
    """Put the weights of another run in, and those of its head where this one's is of the same kind and labels."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    stored, backbone = _in_its_shape(model, folder), f"{inner.base_model_prefix}."
    head = {name for name in stored if not name.removeprefix("base_model.model.").startswith(backbone)}
    own = {plain_name(name): p.shape for name, p in model.named_parameters()}
    same = all(own.get(name) == stored[name].shape for name in head)
    if same and head and hasattr(inner, "head_modules"):
        same = (folder / "config.json").is_file() and labels_in(folder) == tuple(inner.config.id2label.values())
    head = set() if same else head
    gone = {name for name in stored if ".pooler." in name and name not in own}  # one that guesses has none
    put_weights(model, {name: tensor for name, tensor in stored.items() if name not in head | gone})


def _in_its_shape(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The weights in `folder`; of an adapter of other ranks, in those of `model`'s."""
    stored, was = read_weights(folder), shape_in(folder)
    if was is None or not isinstance(model, PeftModel):
        return stored
    own = {plain_name(name): p for name, p in model.named_parameters()}
    now = shape_of(model.peft_config[_NAME])
    if (now.rank, now.rslora) == (was.rank, was.rslora):  # its alpha is what a person made it
        return {name: tensor for name, tensor in stored.items() if ".lora_" not in name or name in own}
    return refit(stored, own, was.scale / now.scale)


def plain_name(name: str) -> str:
    """The name of a tensor as files have it."""
    name = name.replace(f".lora_magnitude_vector.{_NAME}.weight", ".lora_magnitude_vector")
    name = name.replace(f".modules_to_save.{_NAME}.", ".").replace(f".{_NAME}.", ".")
    return name.removesuffix(f".{_NAME}")  # an embedding's adapter is two parameters, and no layers


def trained_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The trainable tensors of a model, under the names of its parameters."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def draws_randomness(model: Any) -> bool:
    """Whether a training step of `model` draws from the global generators (dropout anywhere)."""
    if any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules()):
        return True
    settings = model.config.to_dict()
    return any(isinstance(v, float) and v > 0 for k, v in settings.items() if "dropout" in k or k.endswith("_pdrop"))


# --- files ------------------------------------------------------------------------------------------------------------


def write_weights(model: Any, folder: Path, dtype: torch.dtype | None = None) -> None:
    """What was trained, into `folder`; full weights in `dtype` where given. `OSError` where the disk refuses.

    Embeddings are left out of an adapter: to look for changed ones, PEFT would ask the hub.
    """
    try:
        if isinstance(model, PeftModel):
            with _without_card(model):
                model.save_pretrained(str(folder), selected_adapters=[_NAME], save_embedding_layers=False)
            if hasattr(model.get_base_model(), "head_modules"):
                model.get_base_model().config.save_pretrained(str(folder))  # the labels
            return
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(model.config)
        config.dtype = dtype or config.dtype
        config.save_pretrained(str(folder))
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(str(folder))
        tensors = {n: p.detach().to("cpu", dtype or p.dtype).contiguous() for n, p in model.named_parameters()}
        save_file(tensors, folder / MODEL, metadata={"format": "pt"})
    except SafetensorError as error:  # what safetensors says of a full disk is no OSError
        raise OSError(str(error)) from error


@contextmanager
def _without_card(model: PeftModel) -> Iterator[None]:
    """PEFT compiles a template to write an empty model card beside each file: a seventh of what a small run takes."""
    model.create_or_update_model_card = lambda _folder: None
    try:
        yield
    finally:
        del model.create_or_update_model_card


def read_weights(folder: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """What `write_weights` wrote; `CheckpointError` where there is nothing."""
    for name in (ADAPTER, MODEL):
        if (folder / name).is_file():
            found: dict[str, torch.Tensor] = load_file(folder / name, device=device)
            return found
    raise CheckpointError(f"{folder} holds no weights")


def labels_in(folder: Path) -> tuple[str, ...]:
    """The labels of the classifier in `folder`, in their order."""
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
    return tuple(said[number] for number in sorted(said, key=int))


def alpha_in(folder: Path) -> float | None:
    """The `alpha` with which the adapter in `folder` was trained last; None for full weights."""
    file = folder / "adapter_config.json"
    return float(json.loads(file.read_text(encoding="utf-8"))["lora_alpha"]) if file.is_file() else None


def put_weights(model: Any, tensors: Tensors) -> None:
    """Copy `tensors` into the parameters of those names; `CheckpointError` where names or shapes do not fit."""
    own = {plain_name(name): p for name, p in model.named_parameters()}
    for name, tensor in tensors.items():
        if name not in own or own[name].shape != tensor.shape:
            raise CheckpointError(f"the weights do not fit ({name}): they are of another model, or of other labels")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


# --- an adapter's live settings ---------------------------------------------------------------------------------------


def lora_layers(model: Any) -> list[Any]:
    """The layers of `model` that carry an adapter."""
    return [module for module in model.modules() if isinstance(module, LoraLayer) and _NAME in module.r]


def set_alpha(model: Any, alpha: float) -> None:
    """Scale the adapter by `alpha / r`, or of rsLoRA by `alpha / √r`, from the next forward on.

    A file that is written later says so too.
    """
    config = model.peft_config[_NAME]
    for layer in lora_layers(model):
        rank = layer.r[_NAME]
        layer.lora_alpha[_NAME] = alpha
        layer.scaling[_NAME] = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    config.lora_alpha = alpha


def set_dropout(model: Any, p: float) -> None:
    """Dropout `p` on the adapter's input from the next forward on (PEFT has no module for a 0)."""
    for layer in lora_layers(model):
        now = layer.lora_dropout[_NAME]
        layer.lora_dropout[_NAME] = (torch.nn.Dropout(p) if p > 0 else torch.nn.Identity()).train(now.training)
    model.peft_config[_NAME].lora_dropout = p
