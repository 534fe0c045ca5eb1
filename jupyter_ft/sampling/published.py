"""What the training thread publishes at each boundary, and the live voice that takes it up between two replies.

Until somebody speaks the two are one: what is published lands in the tensors of the live voice, so that a run that
nobody asks holds one copy of its adapter here and not two.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from peft import PeftModel

from ..weights import set_alpha


class Published:
    """The trained tensors of `model` (the live voice), `names` of its parameters, as they were at one boundary.

    `put` belongs to the training thread, the rest to the chat thread.
    """

    def __init__(self, model: Any, names: set[str], alpha: float | None = None) -> None:
        self.model = model
        self.own = {name: p for name, p in model.named_parameters() if name in names}
        self._lock = threading.Lock()
        self._alpha = alpha
        self._step = self._held = 0
        self._fresh = self._over = False
        self._join()

    def put(self, step: int, trained: dict[str, torch.Tensor], alpha: float) -> None:
        """Take the tensors of `step` (the cost of copying them)."""
        with self._lock, torch.no_grad():
            torch._foreach_copy_(list(self._spare.values()), [trained[name].detach() for name in self._spare])
            self._step, self._alpha, self._fresh = step, alpha, True

    def live(self) -> tuple[Any, int]:
        """The model, brought up to the last publication, and the step it speaks for."""
        with self._lock, torch.no_grad():
            if self._fresh and not self._one:
                torch._foreach_copy_(list(self.own.values()), list(self._spare.values()))
            if self._over:
                self._join()
            else:
                self._part()
            if self._fresh and self._alpha is not None and isinstance(self.model, PeftModel):
                set_alpha(self.model, self._alpha)
            if self._fresh:
                self._held, self._fresh = self._step, False
            return self.model, self._held

    def lend(self) -> Any:
        """The model, to put other weights in; what is published is kept, and comes back at the next `live`."""
        with self._lock:
            self._part()
            self._fresh = True
            return self.model

    def end(self) -> None:
        """No publication will come any more: one copy is enough."""
        with self._lock:
            self._over = True

    def _join(self) -> None:
        self._spare, self._one = {name: p.detach() for name, p in self.own.items()}, True

    def _part(self) -> None:
        if self._one:
            self._spare, self._one = {name: p.detach().clone() for name, p in self.own.items()}, False
