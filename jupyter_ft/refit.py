"""An adapter of one shape as one of another: the same product in more ranks or, as nearly as these can, in fewer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

_PAIRS = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}
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

    Ranks that are more than there were begin as a fresh adapter's do: one of the two as `own` drew it, and the other 0
    (`B`, of an embedding `A`).
    Fewer hold the nearest product that they can (Eckart and Young, by singular values). Layers that `own` has no
    adapter on are left out; those that `stored` has none on stay as `own` drew them.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if ".lora_" in name and name not in own:
            continue
        end = next((end for end in _PAIRS if name.endswith(end)), None)
        if end is not None:
            both = (name, name.removesuffix(end) + _PAIRS[end])
            new = _pair([stored[one] for one in both], [own[one] for one in both], times)
            found |= dict(zip(both, new, strict=True))
        elif not name.endswith(tuple(_PAIRS.values())):
            found[name] = tensor
    return found


def _pair(stored: list[torch.Tensor], own: list[torch.Tensor], times: float) -> tuple[torch.Tensor, torch.Tensor]:
    (down, up), rank = stored, own[0].shape[0]
    if rank < down.shape[0]:
        down, up = _nearest(down, up, rank)
    held = down.shape[0]
    new_down, new_up = (tensor.detach().clone() for tensor in own)
    if (new_down != 0).any():
        new_up.zero_()
    new_down[:held], new_up[:, :held] = down, up * times
    return new_down, new_up


def _nearest(down: torch.Tensor, up: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    u, s, v = torch.linalg.svd(upper @ lower.T)
    root = s[:rank].sqrt()
    return ((root[:, None] * v[:rank]) @ right.T).to(down.dtype), (left @ (u[:, :rank] * root)).to(up.dtype)
