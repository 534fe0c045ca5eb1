"""An adapter of one shape as one of another: the same product in more ranks or, as nearly as these can, in fewer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
Tensors = Mapping[str, torch.Tensor]


class Shape(NamedTuple):
    """What the scale of an adapter follows from, besides its `alpha`, and that scale."""

    rank: int
    rslora: bool
    scale: float


def shape_in(folder: Path) -> Shape | None:
    """That of the adapter in `folder`; None of full weights."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    return _shape(told["r"], told["lora_alpha"], told.get("use_rslora", False))


def shape_of(config: Any) -> Shape:
    """That of PEFT's configuration of an adapter."""
    return _shape(config.r, config.lora_alpha, config.use_rslora)


def _shape(rank: int, alpha: float, rslora: bool) -> Shape:
    return Shape(rank, rslora, alpha / (math.sqrt(rank) if rslora else rank))


def refit(stored: Tensors, own: Tensors, times: float) -> dict[str, torch.Tensor]:
    """`stored` in the ranks of `own`: `B A` of each layer is what it was, multiplied by `times`.

    Ranks that are more than there were begin as a fresh adapter's do: with the rows of `A` that `own` drew, and `B` 0.
    Fewer hold the nearest product that they can (Eckart and Young, by singular values). Layers that `own` has no
    adapter on are left out; those that `stored` has none on stay as `own` drew them.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if ".lora_" in name and name not in own:
            continue
        if name.endswith(_DOWN):
            beside = name.removesuffix(_DOWN) + _UP
            found |= dict(zip((name, beside), _pair(tensor, stored[beside], own[name], times), strict=True))
        elif not name.endswith(_UP):
            found[name] = tensor
    return found


def _pair(down: torch.Tensor, up: torch.Tensor, own: torch.Tensor, times: float) -> tuple[torch.Tensor, torch.Tensor]:
    rank = own.shape[0]
    if rank < down.shape[0]:
        down, up = _nearest(down, up, rank)
    held = down.shape[0]
    new_down, new_up = own.detach().clone(), up.new_zeros(up.shape[0], rank)
    new_down[:held], new_up[:, :held] = down, up * times
    return new_down, new_up


def _nearest(down: torch.Tensor, up: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    u, s, v = torch.linalg.svd(upper @ lower.T)
    root = s[:rank].sqrt()
    return ((root[:, None] * v[:rank]) @ right.T).to(down.dtype), (left @ (u[:, :rank] * root)).to(up.dtype)
