"""The live voice and the weights that it speaks with: the trainer's own, copied between two steps when somebody asks.

A run that nobody asks holds its adapter once, and no modules but the trainer's. The chat thread makes and copies; the
training thread says when the weights are about to change, and waits for a copy that is being made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from peft import PeftModel

from ..errors import Refused
from ..modules import give_parameters
from ..weights import set_alpha

Named = dict[str, torch.Tensor]


class Published:
    """The trained tensors `names` of the live voice, and where they come from. `make()` gives its modules.

    `change`, `put` and `end` belong to the training thread, the rest to the chat thread.
    """

    def __init__(self, make: Callable[[], Any], names: Collection[str], alpha: float | None = None) -> None:
        self.names = tuple(names)
        self._make: Callable[[], Any] | None = make
        self._model: Any = None
        self._turn = threading.Condition()
        self._source: Named | None = None  # what the voice is to speak with; None where it has that
        self._trains = self._changing = self._lost = self._fresh = False
        self._alpha = alpha
        self._step = self._held = 0

    @property
    def model(self) -> Any:
        """The live voice, made when it is first wanted; its trained parameters may have no memory before `live`."""
        if self._make is not None:
            self._model, self._make = self._make(), None
        return self._model

    @property
    def own(self) -> dict[str, torch.nn.Parameter]:
        """Its trained parameters."""
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name] for name in self.names}

    def change(self) -> None:
        """The weights are about to be changed; returns when nobody copies them."""
        with self._turn:
            self._changing = True

    def put(self, step: int, trained: Named, alpha: float) -> None:
        """The weights of `step` are in `trained`, the trainer's own, which stay as they are until `change`."""
        with self._turn:
            self._source, self._step, self._alpha = {name: trained[name].detach() for name in self.names}, step, alpha
            self._trains, self._changing, self._fresh = True, False, True
            self._turn.notify_all()

    def live(self) -> tuple[Any, int]:
        """The model with the weights of the last step, and that step. Waits while they are changed.

        Raises `Refused` where the run failed in the middle of that, or no memory was left to keep them.
        """
        with self._turn, torch.no_grad():
            self._turn.wait_for(lambda: not self._changing)
            if self._lost:
                raise Refused("live: its last weights are not in memory any more; ask a step that is kept")
            if self._fresh:
                self._take_up()
            return self.model, self._held

    def lend(self) -> Any:
        """The model, to put other weights in; those of the last step come back at the next `live`."""
        with self._turn:
            own = self.own
            if any(p.is_meta for p in own.values()):
                give_parameters(self.model, with_memory(self.model, own))
            elif self._source is None:
                self._source = {name: p.detach().clone() for name, p in own.items()}
            self._fresh = True
            return self.model

    def end(self, *, keeps: bool) -> None:
        """The weights do not change any more. Where their owner `keeps` them, to change them later, a copy is made."""
        with self._turn:
            if self._trains:
                self._source = self._last(keeps) if self._fresh else None  # else the voice speaks with it already
                self._lost = self._fresh and self._source is None
            self._trains = self._changing = False
            self._turn.notify_all()

    def _last(self, keeps: bool) -> Named | None:
        if self._source is None or self._changing:
            return None
        try:
            return {name: tensor.clone() if keeps else tensor for name, tensor in self._source.items()}
        except (RuntimeError, MemoryError):  # torch has no room; whoever asks is told
            return None

    def _take_up(self) -> None:
        own, source = self.own, self._source
        if source is not None and any(p.is_meta for p in own.values()):
            mine = {name: source[name].clone() for name in own} if self._trains else source
            give_parameters(self.model, mine)
        elif source is not None:
            torch._foreach_copy_(list(own.values()), [source[name] for name in own])
        if not self._trains:
            self._source = None
        if self._alpha is not None and isinstance(self.model, PeftModel):
            set_alpha(self.model, self._alpha)
        self._held, self._fresh = self._step, False


def with_memory(model: Any, parameters: Mapping[str, torch.Tensor]) -> Named:
    """Tensors like `parameters`, which have none, where the others of `model` are."""
    device = next(p.device for p in model.parameters() if not p.is_meta)
    return {name: torch.empty_like(p, device=device) for name, p in parameters.items()}
