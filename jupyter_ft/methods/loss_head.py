"""The loss on the trained positions alone, for devices where TRL's fused head would score every position.

TRL gives the causal model of each trainer a `forward` that answers `fused_lm_head=True` with per-token scores. On
Triton devices it scores only the positions that have a label; elsewhere all of them, and twice. The head here takes
that call over on the instance, scores the labelled positions with plain cross-entropy, and answers in TRL's own words,
so that TRL's `compute_loss` and its metrics stay as they are. Every other call goes to TRL's forward.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch.nn.functional import linear, log_softmax
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput

LOGITS_AT_ONCE = 2**23
"""Elements of a tile of logits; 32 MB in float32, of which a few are held at a time."""
_SCALED = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_MORE_THAN_SCORES = ("output_hidden_states", "output_attentions", "output_router_logits")


def install(trainer: Any) -> bool:
    """Put the head on the trainer's causal model where it applies; whether it did. `remove` takes it away."""
    if why_not(trainer):
        return False
    model = _causal(trainer)
    theirs = model.forward

    @functools.wraps(type(model).forward)  # `generate` checks what it passes against this signature
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return theirs(*args, **kwargs)
        asks_more = any(kwargs.get(name) for name in _MORE_THAN_SCORES) or kwargs.get("shift_labels") is not None
        if asks_more or kwargs.get("labels") is None or not forward.on:  # type: ignore[attr-defined]
            return theirs(*args, fused_lm_head=True, **kwargs)
        return _scored(self, *args, **kwargs)

    forward.on = True  # type: ignore[attr-defined]
    forward.theirs = theirs  # type: ignore[attr-defined]
    model.forward = types.MethodType(forward, model)
    trainer.loss_head = forward
    return True


def remove(trainer: Any) -> None:
    """Give the model TRL's forward back. Does nothing where the head was not installed."""
    if "loss_head" not in vars(trainer):
        return
    ours: Any = vars(trainer).pop("loss_head")
    model = _causal(trainer)
    ours.on = False  # accelerate may have wrapped it (mixed precision with full weights)
    if model.forward == types.MethodType(ours, model):
        model.forward = ours.theirs


def why_not(trainer: Any) -> str:
    """Why the head does not apply to this trainer; empty where it does."""
    model = _causal(trainer)
    config, head = model.config, model.get_output_embeddings()
    code = getattr(getattr(model.forward, "__func__", None), "__code__", None)
    if "loss_head" in vars(trainer) or code is None or "fused_lm_head" not in code.co_varnames:
        return "it is there already, or TRL has not patched the model"
    if type(head) is not torch.nn.Linear or type(head.weight) is not torch.nn.Parameter:
        return "the output layer is not a plain linear one"
    reasons = {
        "the output layer is watched or sharded": head._forward_hooks
        or head._forward_pre_hooks
        or "forward" in vars(head)
        or hasattr(head.weight, "ds_id"),
        "the model is one part of another": config.get_text_config() is not config,
        "the logits are scaled or capped": any(getattr(config, name, None) not in (None, 1.0) for name in _SCALED),
        "the loss has a router's part": getattr(config, "output_router_logits", False)
        or getattr(trainer, "aux_loss_enabled", False),
        "a loss scaled for half precision": trainer.args.fp16,
        "several devices": trainer.accelerator.num_processes > 1 or getattr(model, "hf_device_map", None),
        "TRL's own is fast here": _has_triton(head.weight.device),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _has_triton(device: torch.device) -> bool:
    from trl.kernels.chunked_logprob import _use_triton

    return bool(_use_triton(device))


def _causal(trainer: Any) -> Any:
    return trainer.model.get_base_model() if is_peft_model(trainer.model) else trainer.model


# --- the forward ---


def _scored(model: Any, *args: Any, labels: torch.Tensor, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
    """TRL's answer for the labels (batch, length); per-token fields are (batch, length - 1), zero without a label."""
    kwargs |= {"use_cache": False}
    kwargs.pop("shift_labels", None)
    hidden = model.base_model(*args, **kwargs).last_hidden_state[:, :-1]
    labels = labels[:, 1:].to(hidden.device)
    mask = labels != -100
    head = model.get_output_embeddings()
    log_probs, entropy, is_top1 = score(hidden[mask], head.weight, head.bias, labels[mask])
    # `masked_scatter` keeps a batch without any label connected to the model: its gradient is zero, not an error
    log_probs, entropy, is_top1 = (
        x.new_zeros(mask.shape).masked_scatter(mask, x) for x in (log_probs, entropy, is_top1)
    )
    items = mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / items, log_probs=log_probs, entropy=entropy, is_top1=is_top1, label_mask=mask
    )


Scores = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def score(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor) -> Scores:
    """Log-probability of each target, entropy in nats and whether the target is the likeliest; each of shape (N,).

    `hidden` is (N, H), `weight` (V, H), `bias` (V,), `targets` (N,). Entropy carries no gradient. Under autocast the
    product is taken in its dtype, as TRL does; the rest is float32. At most `LOGITS_AT_ONCE` logits are held at a time.
    """
    if not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))):
        scores: Scores = _FrozenHead.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
        return scores
    tiles = _tiles(hidden, targets, len(weight))
    if len(tiles) == 1:
        return _score_and_keep(hidden, weight, bias, targets)
    parts = [  # the backward pass makes the logits of each tile again
        checkpoint(_score_and_keep, h, weight, bias, t, use_reentrant=False, preserve_rng_state=False) for h, t in tiles
    ]
    log_probs, entropy, is_top1 = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_probs, entropy, is_top1


def _tiles(hidden: Any, targets: Any, vocabulary: int) -> list[tuple[Any, Any]]:
    rows = max(1, LOGITS_AT_ONCE // vocabulary)
    return list(zip(hidden.split(rows), targets.split(rows), strict=True))


def _score_and_keep(hidden: Any, weight: Any, bias: Any, targets: Any) -> Scores:
    """The scores by autograd, for a head that is trained itself."""
    every = log_softmax(linear(hidden, weight, bias).float(), dim=-1)
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(every.exp(), every)
        is_top1 = every.argmax(-1) == targets
    return every.gather(1, targets[:, None])[:, 0], entropy, is_top1


class _FrozenHead(torch.autograd.Function):
    """The scores where only `hidden` is trained: its gradient is known before the logits of a tile are thrown away."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, bias: Any, targets: Any) -> Scores:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        tiles = _tiles(hidden.to(dtype), targets, len(weight))
        found, slopes = [], []
        with torch.autocast(kind, enabled=False):
            for h, t in tiles:
                logits = linear(h, weight, bias)
                is_top1 = logits.argmax(-1) == t
                every = log_softmax(logits, dim=-1, dtype=torch.float32)
                log_probs = every.gather(1, t[:, None])
                chances = every.exp()
                found.append((log_probs[:, 0], -torch.linalg.vecdot(chances, every), is_top1))
                if ctx.needs_input_grad[0]:  # d log p(t) / d logits is one at t, less the chances
                    chances.neg_().scatter_add_(1, t[:, None], torch.ones_like(log_probs))
                    slopes.append(logits.copy_(chances) @ weight)
        log_probs, entropy, is_top1 = (torch.cat(part) for part in zip(*found, strict=True))
        ctx.save_for_backward(torch.cat(slopes) if slopes else None)
        ctx.dtype = hidden.dtype
        ctx.mark_non_differentiable(entropy, is_top1)
        return log_probs, entropy, is_top1

    @staticmethod
    def backward(ctx: Any, gradient: Any, *_: Any) -> Any:
        (slopes,) = ctx.saved_tensors
        return (gradient[:, None] * slopes).to(ctx.dtype), None, None, None
