"""One run from loading to its last checkpoint, as the training thread lives it."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from ..control.accelerated import own_state
from ..control.inbox import Inbox
from ..control.lease import LEASE, seeded_streams
from ..data import Examples, Format, Rendered, hold_out, render
from ..errors import FineTuneError
from ..event_log import EventLog
from ..messages import (
    Applied,
    Crashed,
    DataReady,
    Progress,
    Refused,
    StateChanged,
    Stop,
)
from ..methods import BUILDERS, loss_head
from ..methods.packing import pack
from ..models import POOL, Base
from ..recipe import Recipe
from ..runs import RunFolder
from ..sampling.chat import Chat
from ..sampling.twin import FullTwin, Twin
from ..weights import alpha_in, plain_name, read_weights
from .running import Running, one_line


@dataclass
class Job:
    """What a run needs. `resume` is the id of the command that asked to go on from the newest good checkpoint."""

    recipe: Recipe
    examples: Examples
    folder: RunFolder
    log: EventLog
    inbox: Inbox
    chat: Chat
    resume: str | None = None
    _numbers: list[int] | None = None  # of the rows that were kept, from 1

    def run(self) -> StateChanged:
        """Live through the run; whatever happens is an event, nothing is raised. Gives the last event, to be logged.

        By then each command is answered and the lock and the memory are given back.
        """
        try:
            with own_state():
                end = self._train()
        except _StoppedEarly:
            end = StateChanged(state="stopped", step=self._step(), note="stopped while loading")
        except FineTuneError as error:
            end = self._failed(str(error), "")
        except BaseException as error:  # noqa: BLE001 - also SystemExit in a user's callback must not end silently
            end = self._failed(one_line(error), traceback.format_exc())
        self._refuse_rest(end.note or "the run is over")
        with suppress(Exception):  # a device in a bad state must not keep the end from being told
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        with suppress(OSError):  # a disk that has become read-only: the lock is stale when this process is gone
            self.folder.unlock()
        return end

    # --- loading ---

    def _train(self) -> StateChanged:
        self.log.append(StateChanged(state="loading", note=f"loading {self.recipe.model}"))
        base = POOL.get(
            self.recipe.model, revision=self.recipe.revision, dtype=self.recipe.dtype, report=self._progress
        )
        rows, held_out = self._render(base)
        self._stop_early()
        twin = _twin(base, self.recipe, self.examples.format, self.folder, self.inbox.nudge)
        build = BUILDERS[self.recipe.method]
        with LEASE, seeded_streams(self.recipe.seed):  # the same first adapter whatever was drawn before
            trainer = build(base.shell(), base.new_tokenizer(), self.recipe, rows, self.folder.path, held_out=held_out)
        running = Running(
            trainer, twin, self.recipe, folder=self.folder, log=self.log, inbox=self.inbox, chat=self.chat
        )
        running.numbers = self._numbers
        try:
            return running.run(self.resume)
        finally:
            loss_head.remove(trainer)

    def _stop_early(self) -> None:
        stops = self.inbox.take_all(Stop)
        if not stops:
            return
        self.log.append(Applied(command=stops[0].id, verb="stop", step=self._step()))
        for again in stops[1:]:
            self.log.append(Refused(command=again.id, verb="stop", step=self._step(), reason="it is stopping"))
        raise _StoppedEarly

    def _render(self, base: Base) -> tuple[Any, Any]:
        recipe = self.recipe
        train, apart = hold_out(self.examples, recipe.held_out, recipe.columns, recipe.seed)
        rendered = self._rendered(train, base, "tokenising", "tokens.arrow")
        held_out = self._rendered(apart, base, "tokenising the held-out rows", "held_out.arrow") if apart else None
        rows: Any = rendered.rows
        said = rendered.said
        if recipe.packing:
            rows, packed = pack(rows, recipe.max_length)
            said = f"{said}; {packed}"
        if apart is not None:
            said = f"{said}; {apart.said}"
        self.log.append(
            DataReady(
                said=said,
                rows=len(rendered.rows),
                dropped=rendered.left_out,
                tokens=rendered.tokens,
                trained_tokens=rendered.trained_tokens,
            )
        )
        if recipe.packing or recipe.held_out is not None or rendered.left_out > len(rendered.dropped):
            self._numbers = []  # a row of the trainer is not one of the user's, or it is not known which
        elif rendered.dropped:
            dropped = {number for number, _ in rendered.dropped}
            self._numbers = [n for n in range(1, len(self.examples.rows) + 1) if n not in dropped]
        return rows, held_out.rows if held_out else None

    def _rendered(self, examples: Examples, base: Base, what: str, file: str) -> Rendered:
        return render(
            examples,
            base.tokenizer,
            system=self.recipe.system,
            max_length=self.recipe.max_length,
            progress=lambda done, total: self._progress(what, done, total),
            file=self.folder.rows.with_name(file),
        )

    def _progress(self, what: str, done: int, total: int) -> None:
        self.log.append(Progress(what=what, done=done, total=total))
        self._stop_early()

    # --- the end ---

    def _failed(self, error: str, trace: str) -> StateChanged:
        self.log.append(Crashed(step=self._step(), error=error, traceback=trace))
        return StateChanged(state="failed", step=self._step(), note=error)

    def _step(self) -> int:
        return self.log.last_step

    def _refuse_rest(self, reason: str) -> None:
        for command in self.inbox.close():
            self.log.append(Refused(command=command.id, verb=command.kind, step=self._step(), reason=reason))
        if self.resume is not None and self.log.answer(self.resume) is None:
            self.log.append(Refused(command=self.resume, verb="resume", step=self._step(), reason=reason))
        if not self.chat.ready:
            self.chat.fail(reason)


class _StoppedEarly(Exception):
    """A stop that came before the first step."""


def voices_of(folder: RunFolder, step: int, recipe: Recipe, trained_on: Format, log: EventLog) -> Twin | FullTwin:
    """The voices of a past run: its base, and the weights of the checkpoint at `step` for `live`."""
    base = POOL.get(
        recipe.model,
        revision=recipe.revision,
        dtype=recipe.dtype,
        report=lambda what, done, total: log.append(Progress(what=what, done=done, total=total)),
    )
    twin = _twin(base, recipe, trained_on, folder)
    checkpoint = folder.visit(step)
    if isinstance(twin, FullTwin):
        twin.publish(step, {}, 0.0)
        twin.retire()
    else:
        stored = read_weights(checkpoint)
        tensors = {name: stored[plain_name(name)] for name, p in twin.live.named_parameters() if "lora_" in name}
        twin.publish(step, tensors, alpha_in(checkpoint) or recipe.hyperparameters.alpha)
    return twin


def _twin(
    base: Base, recipe: Recipe, trained_on: Format, folder: RunFolder, nudge: Callable[[], None] = lambda: None
) -> Twin | FullTwin:
    if recipe.adapter.kind == "full":
        return FullTwin(base, trained_on, folder.visit, nudge)
    with LEASE, seeded_streams(recipe.seed):  # PEFT draws the adapter that the first publication overwrites
        return Twin(base, recipe, trained_on, folder.visit)
