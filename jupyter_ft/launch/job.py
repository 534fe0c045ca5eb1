"""One run from loading to its last checkpoint, as the training thread lives it."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..control.accelerated import own_state
from ..control.inbox import Inbox
from ..control.lease import LEASE, seeded_streams
from ..control.memory import ADVICE, free_memory, is_out_of_memory
from ..data import Examples, Format, Rendered, hold_out, labels_of
from ..data.look import keep_about
from ..data.tokens import PACKED_COLUMNS, save_tokens
from ..errors import FineTuneError, ModelError
from ..event_log import EventLog
from ..heads import scoring_model
from ..messages import (
    Applied,
    ChatWaits,
    Crashed,
    DataReady,
    ForTrainer,
    Logged,
    Pause,
    Progress,
    Refused,
    Resume,
    Rewind,
    Save,
    Set,
    StateChanged,
    Stop,
)
from ..methods import METHODS, loss_head, optimizer
from ..methods.packing import pack
from ..models import POOL, Base
from ..quantization import SAID
from ..recipe import Recipe
from ..runs import RunFolder, copy_weights
from ..sampling.at_boundary import OwnAtBoundary
from ..sampling.chat import Chat
from ..sampling.judge import Judging
from ..sampling.metrics import Metrics
from ..sampling.probes import Probes, probes_of
from ..sampling.room import no_room
from ..sampling.twin import FullTwin, Twin, Voices
from ..weights import alpha_in, described, labels_in, plain_name, put_weights, read_weights
from .running import Freed, Running, one_line


@dataclass
class Job:
    """What a run needs. `resume` is the id of the command that asked to go on from the newest good checkpoint.

    `room`: bytes that the weights and chat's copy of them may take (None: what is free).
    """

    recipe: Recipe
    examples: Examples
    folder: RunFolder
    log: EventLog
    inbox: Inbox
    chat: Chat
    resume: str | None = None
    room: int | None = None
    _labels: tuple[str, ...] = ()  # of a classifier
    _probes: Probes | None = None
    _metrics: Metrics | None = None

    def run(self) -> StateChanged:
        """Live through the run; whatever happens is an event, nothing is raised. Gives the last event, to be logged.

        By then each command is answered and the lock and the memory are given back.
        """
        try:
            with own_state():
                end = self._train()
                while isinstance(end, Freed):
                    end = self._rest(end)
        except _StoppedEarly:
            end = StateChanged(state="stopped", step=self._step(), note="stopped while loading")
        except FineTuneError as error:
            end = self._failed(str(error), "")
        except BaseException as error:  # noqa: BLE001 - also SystemExit in a user's callback must not end silently
            end = self._failed(self._told(error), traceback.format_exc())
        self._refuse_rest(end.note or "the run is over")
        free_memory()
        self.chat.rest("")
        with suppress(OSError):  # a disk that has become read-only: the lock is stale when this process is gone
            self.folder.unlock()
        return end

    # --- loading ---

    def _train(self) -> StateChanged | Freed:
        self.log.append(StateChanged(state="loading", note=f"loading {self.recipe.model}"))
        base = base_of(self.recipe, self._progress)
        method = METHODS[self.recipe.method]
        if not base.speaks and not method.scores:
            kind = type(base.model).__name__
            raise ModelError(f"{base.path} does not speak (a {kind}); method: classification or reward trains it")
        rows, held_out, behind = self._render(base)
        self._stop_early()
        twin = self._choose_voices(base)
        if twin.waits:
            self.log.append(ChatWaits(said=chat_waits(twin)))
        with LEASE, seeded_streams(self.recipe.seed):  # the same first adapter whatever was drawn before
            trainer = method.build(
                scoring_model(base, self._labels) if method.scores else base.shell(),
                base.new_tokenizer(),
                self.recipe,
                rows,
                self.folder.path,
                held_out=held_out,
                start=self.folder.start if self.folder.start.is_dir() else None,
            )
        self._say_what_is_trained(base, trainer)
        running = Running(
            trainer, twin, self.recipe, folder=self.folder, log=self.log, inbox=self.inbox, chat=self.chat
        )
        running.behind, running.setters, running.probes = behind, method.live, self._probes
        running.metrics = self._metrics
        try:
            return running.run(self.resume)
        finally:
            loss_head.remove(trainer)
            optimizer.forget(trainer)

    def _say_what_is_trained(self, base: Base, trainer: Any) -> None:
        if self.resume is not None:
            return
        self.log.append(Logged(level="info", text=f"it trains {described(self.recipe, base)}"))
        asked, used = self.recipe.trainer.get("optim"), str(getattr(trainer.args.optim, "value", trainer.args.optim))
        if asked is not None and used != asked:
            text = f"optim: on {trainer.args.device.type} there is nothing to page {asked} to; {used} takes its place"
            self.log.append(Logged(level="info", text=text))

    def _choose_voices(self, base: Base) -> Voices:
        """A twin; for full weights that have no room for a copy, the trainer's own model between two steps.

        The trainer will take 16 bytes a weight: itself in float32, its gradient and Adam's two moments.
        """
        trained_on, find, nudge = self.examples.format, self.folder.visit, self.inbox.nudge
        if self.recipe.adapter.kind == "full":
            weights = list(base.model.parameters())
            copy, count = sum(p.numel() * p.element_size() for p in weights), sum(p.numel() for p in weights)
            why = no_room(copy, 16 * count, weights[0].device, self.room)
            if why:
                judging = _judging(base, self.recipe, self._labels)
                return OwnAtBoundary(base, trained_on, find, nudge, why, judging=judging)
        return _twin(base, self.recipe, trained_on, self.folder, nudge, labels=self._labels)

    def _stop_early(self) -> None:
        stops = self.inbox.take_all(Stop)
        if not stops:
            return
        self.log.append(Applied(command=stops[0].id, verb="stop", step=self._step()))
        for again in stops[1:]:
            self.log.append(Refused(command=again.id, verb="stop", step=self._step(), reason="it is stopping"))
        raise _StoppedEarly

    def _render(self, base: Base) -> tuple[Any, Any, Callable[[int], list[int]]]:
        """The rows to train on and to evaluate on, and which of the user's rows (from 1) are behind one of them."""
        recipe = self.recipe
        train, apart = hold_out(self.examples, recipe.held_out, recipe.columns, recipe.seed, recipe.method)
        if self.examples.format == "labelled":
            self._labels = labels_of(train, apart)
        rendered = self._rendered(train, base, "tokenising", "tokens.arrow")
        held_out = self._rendered(apart, base, "tokenising the held-out rows", "held_out.arrow") if apart else None
        rows: Any = rendered.rows
        said, numbers, inside = rendered.said, np.frombuffer(rendered.numbers, np.uint32), None
        if recipe.packing:
            rows, packed, inside = pack(rows, recipe.max_length)
            save_tokens(self.folder.rows.with_name("packed.arrow"), rows, PACKED_COLUMNS)
            said = f"{said}; {packed}"
        if apart is not None:
            said = f"{said}; {apart.said}"
        self._find_probes(apart)
        if apart is not None and recipe.metrics:
            self._metrics = Metrics(recipe, apart, base.new_tokenizer(), log=self.log)
        self.log.append(
            DataReady(
                said=said,
                rows=len(rendered.rows),
                dropped=rendered.left_out,
                tokens=rendered.tokens,
                trained_tokens=rendered.trained_tokens,
                labels=list(self._labels),
            )
        )

        def behind(row: int) -> list[int]:
            found: list[int] = numbers[[row] if inside is None else inside[row]].tolist()
            return found

        return rows, held_out.rows if held_out else None, behind

    def _find_probes(self, apart: Examples | None) -> None:
        wanted, recipe = self.recipe.probes, self.recipe
        if wanted is not None and not isinstance(wanted, str) and self._probes is None:
            found = probes_of(wanted, apart, recipe.method)
            self._probes = Probes(
                found,
                self.folder.path / "probes",
                log=self.log,
                chat=self.chat,
                nudge=self.inbox.nudge,
                system=recipe.system,
            )

    def _rendered(self, examples: Examples, base: Base, what: str, name: str) -> Rendered:
        file = self.folder.rows.with_name(name)
        rendered = METHODS[self.recipe.method].render(
            examples,
            base.tokenizer,
            system=self.recipe.system,
            max_length=_most_tokens(base, self.recipe),
            progress=lambda done, total: self._progress(what, done, total),
            file=file,
            **({"labels": self._labels} if self._labels else {}),
        )
        keep_about(file, rendered, (examples.said, *examples.notes))
        return rendered

    def _progress(self, what: str, done: int, total: int) -> None:
        self.log.append(Progress(what=what, done=done, total=total))
        self._stop_early()

    # --- without memory ---

    def _rest(self, freed: Freed) -> StateChanged | Freed:
        """Hold nothing until told to go on, from the checkpoint that was written for it."""
        self.chat.rest("the run is paused and its memory is given back; resume it first")
        free_memory()
        self.log.append(StateChanged(state="paused", step=freed.step, total_steps=freed.total_steps))
        self._apply(Pause(id=freed.command), freed)
        held: list[ForTrainer] = []
        waiting: deque[ForTrainer] = deque()
        while True:
            while not waiting:  # a nudge of the chat thread brings nothing
                waiting.extend(self.inbox.take(wait=True))
            command = waiting.popleft()
            if isinstance(command, Set):  # answered by the step that it is made at
                held.append(command)
            elif isinstance(command, Save):
                self._apply(command, freed)  # it is there
            elif isinstance(command, Pause):
                self.log.append(
                    Refused(command=command.id, verb="pause", step=freed.step, reason="it is paused already")
                )
            elif isinstance(command, Rewind):
                reason = "its memory is given back; resume it first"
                self.log.append(Refused(command=command.id, verb="rewind", step=freed.step, reason=reason))
            else:
                self.inbox.put_back([*held, *waiting])
                return self._go_on(command) if isinstance(command, Resume) else self._stop_freed(command, freed)

    def _apply(self, command: ForTrainer, freed: Freed) -> None:
        total = freed.total_steps
        self.log.append(Applied(command=command.id, verb=command.kind, step=freed.step, total_steps=total))

    def _go_on(self, command: Resume) -> StateChanged | Freed:
        self.resume = command.id
        self.chat.rest("")  # questions wait for the new voices from now on
        return self._train()

    def _stop_freed(self, command: Stop, freed: Freed) -> StateChanged:
        self._apply(command, freed)
        note = ""
        try:
            result = self.folder.model if self.recipe.adapter.kind == "full" else self.folder.adapter
            copy_weights(self.folder.checkpoint(freed.step), result)
        except OSError as error:
            note = f"the result could not be written ({one_line(error)}); make room and resume"
        return StateChanged(state="stopped", step=freed.step, total_steps=freed.total_steps, note=note)

    # --- the end ---

    def _told(self, error: BaseException) -> str:
        if not is_out_of_memory(error):
            return one_line(error)
        where = f"after step {self._step()}" if self._step() else f"while loading {self.recipe.model}"
        return f"out of memory {where} ({one_line(error)[:200]}); {ADVICE}"

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


def base_of(recipe: Recipe, report: Callable[[str, int, int], None]) -> Base:
    """The base of a recipe, from the pool. `ModelError` where it cannot be had, or not be trained as asked."""
    base = POOL.get(
        recipe.model,
        revision=recipe.revision,
        dtype=recipe.dtype,
        report=report,
        quantization=recipe.quantization,
    )
    if base.quantization != "none" and recipe.adapter.kind == "full":
        raise ModelError(
            f"{base.path}: its weights are {SAID[base.quantization]} and cannot be trained; adapter: lora can"
        )
    return base


def voices_of(folder: RunFolder, step: int, recipe: Recipe, trained_on: Format, log: EventLog) -> Twin | FullTwin:
    """The voices of a past run: its base, and the weights of the checkpoint at `step` for `live`."""
    base = base_of(recipe, lambda what, done, total: log.append(Progress(what=what, done=done, total=total)))
    checkpoint = folder.visit(step)
    labels = labels_in(checkpoint) if trained_on == "labelled" else ()
    twin = _twin(base, recipe, trained_on, folder, labels=labels)
    if isinstance(twin, FullTwin):
        twin.publish(step, {}, 0.0)
        twin.retire()
    else:
        stored = read_weights(checkpoint)
        put_weights(twin.live, stored)  # refuses what is of another base
        tensors = {name: stored[plain_name(name)] for name in twin.trained}
        twin.publish(step, tensors, alpha_in(checkpoint) or recipe.hyperparameters.alpha)
    return twin


def chat_waits(voices: Voices) -> str:
    """The sentence for people where a run waits for its replies."""
    return f"no copy of the weights for chat ({voices.waits}): the run waits, between two steps, while it answers"


def _judging(base: Base, recipe: Recipe, labels: tuple[str, ...]) -> Judging | None:
    return Judging(labels, _most_tokens(base, recipe)) if METHODS[recipe.method].scores else None


def _most_tokens(base: Base, recipe: Recipe) -> int:
    return min(recipe.max_length, base.longest or recipe.max_length)


def _twin(
    base: Base,
    recipe: Recipe,
    trained_on: Format,
    folder: RunFolder,
    nudge: Callable[[], None] = lambda: None,
    *,
    labels: tuple[str, ...],
) -> Twin | FullTwin:
    judging = _judging(base, recipe, labels)
    with LEASE, seeded_streams(recipe.seed):  # what is drawn for an adapter or a head, the first publication overwrites
        if recipe.adapter.kind == "full":
            return FullTwin(base, trained_on, folder.visit, nudge, judging)
        return Twin(base, recipe, trained_on, folder.visit, judging)
