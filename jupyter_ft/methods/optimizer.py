"""The optimizers of bitsandbytes: what the device at hand has of them, and what they leave behind in the process."""

from __future__ import annotations

import sys
from typing import Any

import torch

from ..errors import RecipeError
from ..optimizers import BITSANDBYTES

_STEPS = {8: "bitsandbytes::optimizer_update_8bit_blockwise", 32: "bitsandbytes::optimizer_update_32bit"}

_KEYS = {"cpu": "CPU", "cuda": "CUDA", "xpu": "XPU"}


def on_device(asked: str, device: torch.device) -> str:
    """What is used for the optimizer that is asked for: on the CPU nothing is paged, the mathematics are the same.

    Raises `RecipeError` where bitsandbytes is missing, or has no such optimizer for `device`.
    """
    if asked not in BITSANDBYTES:
        return asked
    bits = 8 if "8bit" in asked else 32
    name = asked.removeprefix("paged_") if device.type == "cpu" else asked
    if name == "adamw_32bit":  # a name that transformers has for the paged one alone
        return "adamw_torch"
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:  # noqa: BLE001 - whatever its native library says
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(f"optim: {asked} needs bitsandbytes, which cannot be imported ({first})") from None
    key = _KEYS.get(device.type)
    if key is None or not torch._C._dispatch_has_kernel_for_dispatch_key(_STEPS[bits], key):
        raise RecipeError(f"optim: bitsandbytes has no {asked} for {device.type}; take adamw_torch")
    return name


def forget(trainer: Any) -> None:
    """Have bitsandbytes let go of a trainer that is over: it keeps embeddings and paged state for the process."""
    theirs = sys.modules.get("bitsandbytes")
    if theirs is None:
        return
    modules = {id(module) for module in trainer.model.modules()}
    overrides = theirs.optim.GlobalOptimManager.get_instance()
    overrides.module_weight_config_triple[:] = [
        entry for entry in overrides.module_weight_config_triple if id(entry[0]) not in modules
    ]
    state = trainer.optimizer.state if trainer.optimizer is not None else {}
    paged = {id(tensor) for slots in state.values() for tensor in slots.values()}
    pages = theirs.functional.GlobalPageManager.get_instance()
    pages.paged_tensors[:] = [tensor for tensor in pages.paged_tensors if id(tensor) not in paged]
