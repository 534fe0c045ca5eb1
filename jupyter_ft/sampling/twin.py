"""The twin: chat's own modules over the base's storage, with trained tensors of its own.

The chat thread copies the adapter that is trained (`published.py`) between two replies and two steps, so that a reply
is spoken by one step from its first token to its last. Full weights take too long for that: there the chat thread says
that it wants them, and gets those of the next boundary.

It is built from the base, or from what will be trained before a trainer has it: TRL replaces `forward` on the instance
with a closure over the live one.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..data import Format
from ..errors import Refused
from ..models import Base, with_adapter
from ..modules import Pattern, apart, give_parameters
from ..recipe import Recipe
from ..weights import alpha_in, put_weights, read_weights, set_alpha, trained_tensors
from .chorus import Stage
from .judge import Judging, shell_for
from .published import Published, with_memory

Tensors = dict[str, torch.Tensor]
KEPT = 8  # steps of a run whose adapters stay in memory when nobody speaks with them


class Voices:
    """What speaks for `base`, and for the checkpoints of a run; who inherits it adds `live`.

    `find(step)` gives the folder of a checkpoint, verified, or raises with those that there are. With `judging` they
    do not speak but score.
    """

    judging: Judging | None = None
    recalls = False  # whether weights of a step can be put into `live` for a while
    abreast = True  # whether the weights of several steps can be held at once
    stage: Stage | None = None  # where they speak together, once they have
    waits = ""  # why the run waits while `live` speaks; empty where chat has weights of its own

    def __init__(
        self, base: Base, trained_on: Format, find: Callable[[int], Path], judging: Judging | None = None
    ) -> None:
        self.trained_on = trained_on  # the layout of the rows, which chat follows where there is no template
        self._keeps = base  # the pool forgets a base that nobody holds
        self.tokenizer = base.new_tokenizer()
        self.judging = judging
        self.base = self.shell() if judging is not None and judging.masks else base.shell()
        self._find = find
        self._visits = Visits()
        self._era = 0  # of steps: those that are taken back are other steps when they come again

    def voice(self, at: str) -> tuple[Any, int]:
        """The model that speaks for `base` (its step is 0), `live`, or the checkpoint of a step, and its step."""
        if at == "base" and self.judging is not None and not self.judging.masks:
            raise Refused("base: its head is new and has learnt nothing; ask live, or a step")
        if at == "base":
            return self.base, 0
        return self.live_voice() if at == "live" else self._visit(int(at))

    def use(self, at: str, do: Callable[[Any, int, bool], None]) -> None:
        """Have `do(model, step, between)` speak for `at`; `between`: the run waits for it, between two steps."""
        model, step = self.voice(at)
        do(model, step, False)
        self.settle()

    # --- told by the training thread ---

    def change(self) -> None:
        """The optimizer is about to change the weights."""

    def changed(self, step: int, trained: Tensors, alpha: float) -> None:
        """It has: they are those of `step`."""

    def publish(self, step: int, trained: Tensors, alpha: float) -> None:
        """The weights of `step` are there."""
        raise NotImplementedError

    def speak(self, step: int, model: Any) -> None:
        """Between two steps: answer here what waits for the trainer's own model. Nothing does."""

    def forget(self) -> None:
        """Steps are taken back: what is held of one is of that step no more."""
        self._era += 1
        self._visits.clear()

    def retire(self) -> None:
        """The weights will not change any more, and the trainer goes."""

    def recall(self, folder: Path) -> Any:
        """The live model with the weights in `folder`, until the next call of `live_voice` (chat thread).

        Only where it `recalls`: of an adapter.
        """
        raise NotImplementedError

    # --- the models ---

    def shell(self) -> Any:
        """A model over the base's storage, of the class that is trained; a head in it is not drawn from the user's."""
        if self.judging is None:
            return self._keeps.shell()
        with torch.random.fork_rng(devices=[]):
            return shell_for(self._keeps, self.judging)

    def live_voice(self) -> tuple[Any, int]:
        """The model with the weights of the last step, and that step."""
        raise NotImplementedError

    def new_past(self) -> Any:
        """A model to put the weights of a checkpoint into."""
        raise NotImplementedError

    def _visit(self, step: int) -> tuple[Any, int]:
        folder = self._find(step)  # also where it is held already: what is gone from disk is gone
        model, era = self._visits.take(step), self._era
        if model is None:
            if not self.abreast:
                self._visits.keep(0)
            model = self.new_past()
            load(model, folder)
        if era == self._era:
            self._visits.put(step, model)
        return model, step

    def settle(self) -> None:
        """Let go of the steps that were visited longest ago; nobody speaks."""
        self._visits.keep(KEPT)


class Visits:
    """Models with the weights of steps, to come back to without the disk. Safe to use from two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[int, Any] = {}  # the last visited at the end

    def take(self, step: int) -> Any:
        """The model of `step`, out of here; None where it is not held."""
        with self._lock:
            return self._models.pop(step, None)

    def put(self, step: int, model: Any) -> None:
        """Hold it."""
        with self._lock:
            self._models[step] = model

    def keep(self, most: int) -> None:
        """The last `most` stay."""
        with self._lock:
            while len(self._models) > most:
                del self._models[next(iter(self._models))]

    def clear(self) -> None:
        """Hold none."""
        self.keep(0)


def load(model: Any, folder: Path) -> None:
    """Put the weights in `folder` into a twin's model, an adapter's scale too."""
    put_weights(model, read_weights(folder))
    alpha = alpha_in(folder)
    if alpha is not None:
        set_alpha(model, alpha)


class Twin(Voices):
    """The voices of a run that trains an adapter: megabytes beside the base's storage.

    `like` is the model that will be trained, not yet given to a trainer: the pattern of its modules, one for all runs
    of a base, is copied when somebody asks, which is faster than to have PEFT make them once more.
    """

    recalls = True

    def __init__(
        self,
        base: Base,
        recipe: Recipe,
        trained_on: Format,
        find: Callable[[int], Path],
        judging: Judging | None = None,
        *,
        like: Any = None,
    ) -> None:
        super().__init__(base, trained_on, find, judging)
        model = with_adapter(self.shell(), recipe) if like is None else like
        names = trained_tensors(model)
        self._pattern: Pattern | None = None
        if like is not None and base.quantization != "none":  # each needs parameters of its own, over the same weights
            model = _over_base(like, names)
        elif like is not None:
            kind = f"{recipe.adapter!r} {recipe.hyperparameters.alpha} {recipe.hyperparameters.dropout}"
            self._pattern = Pattern(like, names) if judging is not None else base.pattern(like, names, kind)
        make = partial(_copied, self._pattern) if self._pattern is not None else lambda: _quiet(model)
        self._published = Published(make, names, recipe.hyperparameters.alpha)

    @property
    def live(self) -> Any:
        """The model that speaks for the run as it is; see `live_voice`."""
        return self._published.model

    def change(self) -> None:
        """As `Voices.change`."""
        self._published.change()

    def changed(self, step: int, trained: Tensors, alpha: float) -> None:
        """As `Voices.changed`."""
        self._published.put(step, trained, alpha)

    def publish(self, step: int, trained: Tensors, alpha: float) -> None:
        """The adapter of `step` is in `trained`, to be copied where somebody asks."""
        self._published.put(step, trained, alpha)

    def recall(self, folder: Path) -> Any:
        """As `Voices.recall`."""
        load(self._published.lend(), folder)
        return self.live

    def retire(self) -> None:
        """As `Voices.retire`."""
        self._published.end(keeps=False)

    @property
    def trained(self) -> list[str]:
        """The names of the tensors that it takes from the trainer."""
        return list(self._published.names)

    def live_voice(self) -> tuple[Any, int]:
        """The twin with the weights of the last step (chat thread, between replies), and that step."""
        return self._published.live()

    def new_past(self) -> Any:
        """A copy of the twin with an adapter of its own."""
        names = self._published.names
        if self._pattern is None:
            return _over_base(self.live, names)
        model = _copied(self._pattern)
        own = {name: p for name, p in model.named_parameters() if name in names}
        give_parameters(model, with_memory(model, own))
        return model


def _over_base(model: Any, own: Collection[str]) -> Any:
    """A copy of `model` that shares all tensors but its `own`."""
    shared = [*(p for name, p in model.named_parameters() if name not in own), *model.buffers()]
    return apart(model, shared)


def _copied(pattern: Pattern) -> Any:
    return _quiet(pattern.copied())


def _quiet(model: Any) -> Any:
    return model.eval().requires_grad_(False)


class FullTwin(Voices):
    """The voices of a run that trains every weight: a whole copy in the base's dtype, filled when somebody asks.

    `nudge` wakes a training thread that is paused, so that it publishes.
    """

    abreast = False

    def __init__(
        self,
        base: Base,
        trained_on: Format,
        find: Callable[[int], Path],
        nudge: Callable[[], None] = lambda: None,
        judging: Judging | None = None,
    ) -> None:
        super().__init__(base, trained_on, find, judging)
        self.live = copy.deepcopy(self.shell()).eval().requires_grad_(False)
        self._own = dict(self.live.named_parameters())
        self._nudge = nudge
        self._changed = threading.Condition()
        self._wanted = self._retired = False
        self._held, self._last = -1, 0

    def new_past(self) -> Any:
        """A whole copy of the base."""
        return copy.deepcopy(self.live)

    def publish(self, step: int, trained: Tensors, alpha: float) -> None:
        """Copy the weights of `step` where a question waits for them (training thread)."""
        with self._changed, torch.no_grad():
            self._last = step
            if self._wanted:
                torch._foreach_copy_(list(self._own.values()), [trained[name].detach() for name in self._own])
                self._held, self._wanted = step, False
                self._changed.notify_all()

    def forget(self) -> None:
        """As `Voices.forget`, of the live weights too."""
        super().forget()
        with self._changed:
            self._held = -1

    def retire(self) -> None:
        """The last weights are those of the checkpoint at the last step."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    def live_voice(self) -> tuple[Any, int]:
        """The copy with the weights of the next boundary or, when the run is over, of its last checkpoint."""
        with self._changed:
            if not self._retired and self._held != self._last:
                self._wanted = True
                self._nudge()
                self._changed.wait_for(lambda: self._retired or not self._wanted)
                self._wanted = False
            if self._retired and self._held != self._last:
                load(self.live, self._find(self._last))
                self._held = self._last
            return self.live, self._held
