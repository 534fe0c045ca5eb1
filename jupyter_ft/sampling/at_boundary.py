"""The voices of a run where nothing can be shared: the trainer's own model, lent for a whole reply between two steps.

The chat thread leaves its question here and waits. The training thread answers it at its next boundary, or while it is
paused, with the model as if nobody trained it, and finds it afterwards as it was, to the last attribute.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from ..data import Format
from ..errors import Refused
from ..models import Base
from .judge import Judging
from .twin import Tensors, Voices

BELOW = 2**26  # bytes of what is trained below an adapter, of which a copy is kept for `base`: biases and norms, say
SMALL = 2**20  # bytes of a buffer that is copied to be put back: rotary frequencies are, quantised weights are not
Do = Callable[[Any, int, bool], None]
Below = Mapping[str, torch.Tensor]
NOTHING: Below = MappingProxyType({})
_SWITCHED = (".lora_", ".modules_to_save.", ".trainable_tokens_")  # of names: what PEFT switches off with an adapter


class AtBoundary(Voices):
    """Who inherits it says which voices are the trainer's (`lends`), and how the others speak, and all when it is over.

    `nudge` wakes a training thread that is paused.
    """

    abreast = False
    below: Below = NOTHING  # what is trained below an adapter, as it was before

    def _begin(self, waits: str, nudge: Callable[[], None]) -> None:
        self.waits, self._nudge = waits, nudge
        self._guard = threading.Lock()
        self._waiting: deque[tuple[Future[None], str, Do]] = deque()
        self._over = False
        self._last = 0

    def lends(self, at: str) -> bool:
        """Whether it is the trainer's model that speaks for `at`."""
        return at == "live"

    def use(self, at: str, do: Do) -> None:
        """As `Voices.use`; waits for the training thread, which does it."""
        with self._guard:
            future: Future[None] | None = None
            if not self._over and self.lends(at):
                future = Future()
                self._waiting.append((future, at, do))
        if future is None:
            self.use_own(at, do)
            return
        self._nudge()
        try:
            future.result()
        except CancelledError:  # the run has ended meanwhile
            self.use_own(at, do)

    def use_own(self, at: str, do: Do) -> None:
        """What is not lent, on the chat thread."""
        super().use(at, do)

    def publish(self, step: int, trained: Tensors, alpha: float) -> None:
        """The live model is at `step` now."""
        self._last = step

    def speak(self, step: int, model: Any) -> None:
        """Answer what waits, with `model` (training thread, between two steps)."""
        while True:
            with self._guard:
                if not self._waiting:
                    return
                future, at, do = self._waiting.popleft()
            future.set_running_or_notify_cancel()
            try:
                lend(model, at, step, True, do, below=self.below)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to who asked
                error.__traceback__ = None  # it holds what the reply held, and memory may be short
                future.set_exception(error)
            else:
                future.set_result(None)

    def retire(self) -> None:
        """There are no steps any more to speak between."""
        with self._guard:
            self._over = True
            waiting, self._waiting = self._waiting, deque()
        for future, _, _ in waiting:
            future.cancel()


class OwnAtBoundary(AtBoundary):
    """The voices of a run of ours that trains every weight. When it is over, its last checkpoint speaks for `live`."""

    def __init__(
        self,
        base: Base,
        trained_on: Format,
        find: Callable[[int], Path],
        nudge: Callable[[], None],
        waits: str,
        *,
        judging: Judging | None = None,
    ) -> None:
        super().__init__(base, trained_on, find, judging)
        scores = judging is not None and not judging.masks
        self._like = self.shell() if scores else self.base  # made now: later a head would be drawn under others' steps
        self._begin(waits, nudge)

    def voice(self, at: str) -> tuple[Any, int]:
        """`base`, or when the run is over any checkpoint; `Refused` before: it would be a copy."""
        if at == "base":
            return super().voice(at)
        if not self._over:
            raise Refused(f"step {at}: {self.waits}; when the run is over there is room for it")
        return self._visit(self._last if at == "live" else int(at))

    def new_past(self) -> Any:
        """A whole copy of the base."""
        return copy.deepcopy(self._like).eval().requires_grad_(False)


class AttachedAtBoundary(AtBoundary):
    """The voices of an attached trainer's model; of an adapter, `base` too. Over, the model is the notebook's again."""

    def __init__(self, model: Any, tokenizer: Any, nudge: Callable[[], None], waits: str) -> None:
        self.trained_on: Format = "messages"
        self.tokenizer = tokenizer
        self._model = weakref.ref(model)  # who deletes it when the run is over has the memory back
        below = trained_below(model)
        self._keeps_base = (
            isinstance(model, PeftModel) and sum(p.numel() * p.element_size() for p in below.values()) <= BELOW
        )
        if self._keeps_base:
            self.below = {name: p.detach().clone() for name, p in below.items()}
        self._begin(waits, nudge)

    def lends(self, at: str) -> bool:
        """`live`, and `base` where it is below an adapter."""
        return at == "live" or (at == "base" and self._keeps_base)

    def use_own(self, at: str, do: Do) -> None:
        """The model where the run has left it; `Refused` for what would be a copy."""
        if at == "base" and not self.lends(at):
            raise Refused("base: its own weights are trained, and no copy of the old ones is kept")
        if not self.lends(at):
            raise Refused(f"step {at}: {self.waits}; only the weights of this moment can be talked to")
        model = self._model()
        if model is None:
            raise Refused("the trainer's model is deleted; attach a trainer to talk to it")
        lend(model, at, self._last, False, do, below=self.below)


def lend(model: Any, at: str, step: int, between: bool, do: Do, *, below: Below = NOTHING) -> None:
    """Have `do` speak with `model` as it is, or for `base` with its adapter switched off and `below` put back."""
    base = at == "base"
    with idle(model), _switched_off(model, below) if base else nullcontext():
        do(model, 0 if base else step, between)


def trained_below(model: Any) -> dict[str, torch.Tensor]:
    """The trained tensors of `model` that stay in force where its adapter is switched off, by name."""
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name: p for name, p in found.items() if not any(of in name for of in _SWITCHED)}


@contextmanager
def _switched_off(model: Any, below: Below) -> Iterator[None]:
    """`model` without its adapter, with the tensors `below` in their places; what is there comes back, to the bit.

    PEFT's own `disable_adapter` warns that trained biases stay, which here they do not.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    places = [(p, below[name]) for name, p in model.named_parameters() if name in below]
    now = [p.detach().clone() for p, _ in places]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        with torch.no_grad():
            for p, before in places:
                p.copy_(before)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        with torch.no_grad():
            for (p, _), value in zip(places, now, strict=True):
                p.copy_(value)


@contextmanager
def idle(model: Any) -> Iterator[None]:
    """`model` as if nobody trained it: in eval mode, its `forward` without what trainers lay over it. Put back after.

    Every attribute of every module is put back, buffers and `requires_grad` too: a rotary embedding grows with a long
    prompt, and PEFT makes an adapter trainable when it is switched on again.
    """
    modules = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    small = [(b, b.clone()) for b in model.buffers() if b.numel() * b.element_size() <= SMALL]
    trained = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for part in parts_of(model):
            peel(part)
        model.eval()
        for module, _, _ in modules:
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False  # bitsandbytes would repack the weights, for good
        yield
    finally:
        for module, attributes, buffers in modules:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in small:
                buffer.copy_(value)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


def parts_of(model: Any) -> list[Any]:
    """The model and, below an adapter, the causal model: where trainers patch."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return [model] if inner is model else [model, inner]


def peel(part: Any) -> None:
    """Take accelerate's mixed precision and TRL's loss head (and ours over it) off its `forward`."""
    own = vars(part)
    if "_original_forward" in own:
        own["forward"] = own["_original_forward"]
    code = getattr(getattr(own.get("forward"), "__func__", None), "__code__", None)
    if code is not None and "fused_lm_head" in code.co_varnames:
        del own["forward"]
