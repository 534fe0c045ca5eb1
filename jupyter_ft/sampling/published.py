"""The live voice and the weights that it speaks with: the trainer's own, copied between two steps when somebody asks.

Until then its tensors are the trainer's, so that a run that nobody asks holds one copy of its adapter. The chat thread
copies; the training thread says when the weights are about to change, and waits for a copy that is being made.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from peft import PeftModel

from ..errors import Refused
from ..weights import set_alpha

Named = dict[str, torch.Tensor]


class Published:
    """The trained tensors of `model` (the live voice), `names` of its parameters, and where they come from.

    `change`, `put` and `end` belong to the training thread, the rest to the chat thread.
    """

    def __init__(self, model: Any, names: set[str], alpha: float | None = None) -> None:
        self.model = model
        self.own = {name: p for name, p in model.named_parameters() if name in names}
        self._turn = threading.Condition()
        self._source: Named | None = None  # what `own` is to become; None where it is that
        self._trains = self._changing = self._lost = self._over = False
        self._asked = False  # whether `own` has memory of its own since training began
        self._alpha = alpha
        self._step = self._held = 0
        self._fresh = False

    def change(self) -> None:
        """The weights are about to be changed; returns when nobody copies them."""
        with self._turn:
            self._changing = True

    def put(self, step: int, trained: Named, alpha: float) -> None:
        """The weights of `step` are in `trained`, the trainer's own, which stay as they are until `change`."""
        with self._turn:
            self._source, self._step, self._alpha = {name: trained[name].detach() for name in self.own}, step, alpha
            self._trains, self._changing, self._fresh = True, False, True
            if not self._asked:
                self._point()
            self._turn.notify_all()

    def live(self) -> tuple[Any, int]:
        """The model with the weights of the last step, and that step. Waits while they are changed.

        Raises `Refused` where the run failed in the middle of that, or no memory was left to keep them.
        """
        with self._turn, torch.no_grad():
            self._turn.wait_for(lambda: not self._changing)
            if self._lost:
                raise Refused("live: its last weights are not in memory any more; ask a step that is kept")
            if not self._over:
                self._part()
            if self._fresh:
                self._take_up()
            return self.model, self._held

    def lend(self) -> Any:
        """The model, to put other weights in; those of the last step come back at the next `live`."""
        with self._turn:
            self._part()
            if self._source is None:
                self._source = {name: p.detach().clone() for name, p in self.own.items()}
            self._fresh = True
            return self.model

    def end(self) -> None:
        """The trainer's tensors are its own again: what they are now is kept, where memory has room for it."""
        with self._turn:
            if self._trains:
                self._source = self._kept()
                self._lost = self._source is None
            if self._trains and not self._asked and not self._lost:
                self._point()
            self._trains = self._changing = False
            self._fresh = self._over = True
            self._turn.notify_all()

    def _kept(self) -> Named | None:
        if self._source is None or self._changing:
            return None
        try:
            return {name: tensor.clone() for name, tensor in self._source.items()}
        except (RuntimeError, MemoryError):  # torch has no room; whoever asks is told
            return None

    def _take_up(self) -> None:
        if self._source is not None:
            torch._foreach_copy_(list(self.own.values()), [self._source[name] for name in self.own])
        if not self._trains:
            self._source = None
        if self._alpha is not None and isinstance(self.model, PeftModel):
            set_alpha(self.model, self._alpha)
        self._held, self._fresh = self._step, False

    def _point(self) -> None:
        """Have no memory of one's own: be what is the source."""
        assert self._source is not None
        for name, p in self.own.items():
            if (source := self._source[name]).dtype == p.dtype and source.device == p.device:
                p.data = source

    def _part(self) -> None:
        if not self._asked:
            for p, copy in [(p, p.detach().clone()) for p in self.own.values()]:
                p.data = copy
            self._asked = True
