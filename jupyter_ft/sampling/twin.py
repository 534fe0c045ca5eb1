"""The twin: chat's own modules over the base's storage, with adapter tensors of its own.

The training thread publishes the adapter into a spare buffer at each boundary; the chat thread copies the spare into
the twin between two replies, so that a reply is spoken by one step from its first token to its last. It is built from
the base and never from the trainer's model: TRL replaces `forward` on the instance with a closure over the live one.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from ..data import Format
from ..models import Base, with_adapter
from ..recipe import Recipe


class Twin:
    """Two voices over one base: `live` (the adapter as last published) and `base` (the untouched weights)."""

    def __init__(self, base: Base, recipe: Recipe, trained_on: Format = "messages") -> None:
        self.trained_on = trained_on  # the layout of the rows, which chat follows where there is no template
        self._keeps = base  # the pool forgets a base that nobody holds
        self.tokenizer = base.new_tokenizer()
        self.base = base.shell()
        self.live = with_adapter(base.shell(), recipe).eval().requires_grad_(False)
        self._own = {name: p for name, p in self.live.named_parameters() if "lora_" in name}
        for name, parameter in self._own.items():
            if name.rpartition(".lora_")[2].startswith("B"):
                parameter.data.zero_()  # until the first publication the twin says what the base says
        self._spare = {name: p.detach().clone() for name, p in self._own.items()}
        self._lock = threading.Lock()
        self._published = self._held = 0
        self._fresh = False

    def publish(self, step: int, trained: dict[str, torch.Tensor]) -> None:
        """Take the adapter of `step` into the spare buffer (training thread; the cost of copying the adapter)."""
        with self._lock, torch.no_grad():
            torch._foreach_copy_(list(self._spare.values()), [trained[name].detach() for name in self._spare])
            self._published, self._fresh = step, True

    def refresh(self) -> int:
        """Bring the twin up to the last publication (chat thread, between replies); the step that it now speaks for."""
        with self._lock, torch.no_grad():
            if self._fresh:
                torch._foreach_copy_(list(self._own.values()), list(self._spare.values()))
                self._held, self._fresh = self._published, False
            return self._held

    def voice(self, at: str) -> tuple[Any, int]:
        """The model that speaks for `live` or `base`, and its step (0 for the base)."""
        return (self.base, 0) if at == "base" else (self.live, self.refresh())


def trained_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The trainable tensors of a trainer's model by name, as a twin built the same way names them."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
