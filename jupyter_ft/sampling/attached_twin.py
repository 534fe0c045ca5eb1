"""The twin of a model that the user built: a copy of its modules that shares the storage of all that is not trained.

TRL's `forward` on the model's instance is a closure over the live model; the copy drops it, and so speaks for itself
whether it was made before or after a trainer was built.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from ..data import Format
from ..errors import Refused
from ..weights import set_alpha
from .twin import Voices

PATCHED_METHODS = ("forward", "generate", "save_pretrained")


class AttachedTwin(Voices):
    """The voices of an attached trainer's model: `live`, checkpoints, and `base` where an adapter is trained."""

    def __init__(self, model: Any, tokenizer: Any, find: Callable[[int], Path]) -> None:
        self.trained_on: Format = "messages"
        self.tokenizer = copy.deepcopy(tokenizer)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.live = _shell(model, [t for t in _tensors(model) if not t.requires_grad]).eval().requires_grad_(False)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self._own = {name: p for name, p in self.live.named_parameters() if name in trained}
        self._spare = {name: p.detach().clone() for name, p in self._own.items()}
        self.base = _shell(model, _tensors(model)).unload().eval() if isinstance(model, PeftModel) else None
        self._lock = threading.Lock()
        self._published = self._held = 0
        self._fresh = False
        self._alpha: float | None = None
        self._find = find
        self._past: Any = None
        self._visiting: int | None = None

    def publish(self, step: int, trained: dict[str, torch.Tensor], alpha: float) -> None:
        """Take the weights of `step` into the spare buffer (training thread)."""
        with self._lock, torch.no_grad():
            torch._foreach_copy_(list(self._spare.values()), [trained[name].detach() for name in self._spare])
            self._published, self._alpha, self._fresh = step, alpha, True

    def voice(self, at: str) -> tuple[Any, int]:
        """The model that speaks, and its step. `Refused` for the base where its own weights are what is trained."""
        if at == "base" and self.base is None:
            raise Refused("base: the weights themselves are trained, and no copy of the old ones is kept")
        return super().voice(at)

    def new_past(self) -> Any:
        """A copy of the live voice with trained tensors of its own."""
        return _shell(self.live, [t for name, t in self.live.named_parameters() if name not in self._own])

    def live_voice(self) -> tuple[Any, int]:
        """The model of the last publication and its step."""
        with self._lock, torch.no_grad():
            if self._fresh:
                torch._foreach_copy_(list(self._own.values()), list(self._spare.values()))
                if self._alpha is not None and isinstance(self.live, PeftModel):
                    set_alpha(self.live, self._alpha)
                self._held, self._fresh = self._published, False
            return self.live, self._held


def why_silent(model: Any, tokenizer: Any) -> str:
    """The reason for which there can be no chat with `model`; empty where there can."""
    can_generate = getattr(model, "can_generate", None)
    if not callable(can_generate) or not can_generate():
        return f"a {type(model).__name__} does not generate text"
    if not hasattr(tokenizer, "decode") or not hasattr(tokenizer, "eos_token"):
        return "the trainer has no tokenizer: build it with processing_class=tokenizer to chat"
    needed = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    device = next(model.parameters()).device
    room = _room(device)
    if needed > room:
        return f"a copy of the trained weights takes {needed / 1e9:.1f} GB and {device} has {room / 1e9:.1f} GB left"
    return ""


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _tensors(model: Any) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _shell(model: Any, shared: list[torch.Tensor]) -> Any:
    shell = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    inner = shell.get_base_model() if isinstance(shell, PeftModel) else shell
    for part in (shell, inner):
        for name in PATCHED_METHODS:
            vars(part).pop(name, None)
    return shell
