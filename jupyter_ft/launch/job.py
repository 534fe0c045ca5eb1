"""One run from loading to its last checkpoint, as the training thread lives it."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..control.accelerated import own_state
from ..control.batches import Batches
from ..control.generations import Generations
from ..control.inbox import Inbox
from ..control.lease import LEASE, seeded_streams
from ..control.memory import ADVICE, free_memory, is_out_of_memory
from ..data import Examples, Rendered, hold_out, labels_of
from ..data.again import key_of, made_before
from ..data.look import keep_about
from ..data.tokens import PACKED_COLUMNS, save_tokens
from ..errors import FineTuneError, ModelError
from ..event_log import EventLog
from ..heads import check_masks
from ..hyperparameters import PolicyHyperparameters
from ..memory.waiting import Ticket
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
from ..methods import loss_head, method_of, optimizer
from ..methods.packing import pack
from ..models import Base
from ..recipe import Recipe
from ..runs import RunFolder, copy_weights
from ..sampling.chat import Chat
from ..sampling.judge import shell_for
from ..sampling.metrics import Metrics
from ..sampling.probes import Probes, probes_of
from ..sampling.twin import Twin, Voices
from ..told import FREED
from ..weights import described, to_train
from . import rough
from .admission import Admission
from .machine import note_machine
from .meanwhile import Meanwhile
from .rewards import Functions, rewards_of
from .running import Freed, Running, one_line
from .same_base import note_base
from .short import fit_before, refuse_too_large, warning
from .voices import base_of, chat_waits, judging_of, most_tokens, voices_of_all_weights


@dataclass
class Job:
    """What a run needs. `resume` is the id of the command that asked to go on from the newest good checkpoint.

    `room`: bytes that the weights and chat's copy of them may take (None: what is free). `rewards` are the reward
    functions by name; who holds the mapping may put another in the place of one.
    """

    recipe: Recipe
    examples: Examples
    folder: RunFolder
    log: EventLog
    inbox: Inbox
    chat: Chat
    resume: str | None = None
    room: int | None = None
    rewards: Functions = field(default_factory=dict)
    ticket: InitVar[Ticket | None] = None  # its place in the queue for memory
    admission: Admission = field(init=False)
    _labels: tuple[str, ...] = ()  # of a classifier
    _probes: Probes | None = None
    _metrics: Metrics | None = None
    _made_by: str = ""  # the run that has tokenised the same rows before

    def __post_init__(self, ticket: Ticket | None) -> None:
        """Wait by `ticket` before anything is loaded."""
        self.admission = Admission(ticket, self.log, self.inbox, self.chat)

    def run(self) -> StateChanged:
        """Live through the run; whatever happens is an event, nothing is raised. Gives the last event, to be logged.

        By then each command is answered and the lock and the memory are given back.
        """
        try:
            with own_state():
                if not self.admission.fits(self.recipe, self.examples):
                    self._stop_early("stopped while it was queued")
                end = self._train()
                while isinstance(end, Freed):
                    end = self._rest(end)
        except _StoppedEarly as early:
            end = StateChanged(state="stopped", step=self._step(), note=str(early))
        except FineTuneError as error:
            end = self._failed(str(error), "")
        except BaseException as error:  # noqa: BLE001 - also SystemExit in a user's callback must not end silently
            end = self._failed(self._told(error), traceback.format_exc())
        self._refuse_rest(end.note or "the run is over")
        rough.forget()  # of one that came to no base
        free_memory()
        self.admission.leave()
        self.chat.rest("")
        with suppress(OSError):  # a disk that has become read-only: the lock is stale when this process is gone
            self.folder.unlock()
        return end

    # --- loading ---

    def _train(self) -> StateChanged | Freed:
        self.log.append(StateChanged(state="loading", note=f"loading {self.recipe.model}"))
        refuse_too_large(self.recipe)
        note_machine(self.folder)
        base = base_of(self.recipe, self._progress, self.folder)
        rough.forget()
        note_base(self.folder, Path(base.path), base.files)
        method = method_of(self.recipe, base.speaks)
        if method.masks:
            check_masks(base)
        elif not base.speaks and not method.scores:
            kind = type(base.model).__name__
            raise ModelError(f"{base.path} does not speak (a {kind}); method: classification, reward or cpt trains it")
        rows, held_out, behind = self._render(base)
        self._stop_early()
        self._warn(base, rows)
        more: dict[str, Any] = {"rewards": rewards_of(self, base)} if method.generates else {}
        more["start"] = self.folder.start if self.folder.start.is_dir() else None
        judging = judging_of(base, self.recipe, self._labels)
        voices: Voices | None = None
        if self.recipe.adapter.kind == "full":
            own = (base, self.recipe, self.examples.format, self.folder, self.inbox.nudge)
            voices = voices_of_all_weights(*own, judging=judging, room=self.room)
        with LEASE, seeded_streams(self.recipe.seed):  # the same first adapter whatever was drawn before
            model = shell_for(base, judging)
            if voices is None:
                model = to_train(model, self.recipe, more["start"])
                voices = Twin(base, self.recipe, self.examples.format, self.folder.visit, judging, like=model)
            trainer = method.build(
                model, base.new_tokenizer(), self.recipe, rows, self.folder.path, held_out=held_out, **more
            )
        if voices.waits:
            self.log.append(ChatWaits(said=chat_waits(voices)))
        self._say_what_is_trained(base, trainer)
        running = Running(
            trainer, voices, self.recipe, folder=self.folder, log=self.log, inbox=self.inbox, chat=self.chat
        )
        running.behind, running.setters, running.probes = behind, method.live, self._probes
        running.metrics = self._metrics
        running.best_metric = self.recipe.best_metric if self.recipe.best_metric != "eval_loss" else method.judged_by
        running.batches = Generations if method.generates else Batches
        running.meanwhile = self._meanwhile(base)
        try:
            return running.run(self.resume)
        finally:
            loss_head.remove(trainer)
            optimizer.forget(trainer)
            if self._metrics is not None:
                self._metrics.rest()
            for reward in more.get("rewards", ()):
                reward.rest()

    def _say_what_is_trained(self, base: Base, trainer: Any) -> None:
        if self.resume is not None:
            return
        self.log.append(Logged(level="info", text=f"it trains {described(self.recipe, base)}"))
        asked, used = self.recipe.trainer.get("optim"), str(getattr(trainer.args.optim, "value", trainer.args.optim))
        if asked is not None and used != asked:
            text = f"optim: on {trainer.args.device.type} there is nothing to page {asked} to; {used} takes its place"
            self.log.append(Logged(level="info", text=text))

    def _warn(self, base: Base, rows: Any) -> None:
        try:
            fit = fit_before(base, self.recipe, rows, self._labels, self.room)
        except Exception as error:  # noqa: BLE001 - an estimate that fails must not cost the run
            self.log.append(Logged(level="debug", text=f"no estimate of memory: {one_line(error)}"))
            return
        if fit is not None:
            self.admission.refine(base, fit)
        if fit is not None and not fit.fits:
            self.log.append(warning(fit, self.folder.name))

    def _stop_early(self, note: str = "stopped while loading") -> None:
        stops = self.inbox.take_all(Stop)
        if not stops:
            return
        self.log.append(Applied(command=stops[0].id, verb="stop", step=self._step()))
        for again in stops[1:]:
            self.log.append(Refused(command=again.id, verb="stop", step=self._step(), reason="it is stopping"))
        raise _StoppedEarly(note)

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
        if isinstance(live := recipe.hyperparameters, PolicyHyperparameters) and (
            left := live.geometry.left_over(len(rows))
        ):
            said = f"{said}; {left}"
        if apart is not None:
            said = f"{said}; {apart.said}"
        self._find_probes(apart)
        if apart is not None and recipe.metrics:
            self._metrics = Metrics(
                recipe, apart, base.new_tokenizer(), log=self.log, stops=lambda: self.inbox.holds(Stop)
            )
        if self._made_by:
            said = f"{said}; tokens of {self._made_by}, made before"
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
        file, method = self.folder.rows.with_name(name), method_of(self.recipe, base.speaks)
        settings: dict[str, Any] = {"system": self.recipe.system, "max_length": most_tokens(base, self.recipe)}
        settings |= {"labels": self._labels} if self._labels else {}
        key = key_of(examples, base.tokenizer, method=self.recipe.method, masks=method.masks, **settings)
        found = made_before(key, file, self.folder.path.parent)
        if found is None:
            rendered = method.render(
                examples,
                base.tokenizer,
                progress=lambda done, total: self._progress(what, done, total),
                file=file,
                **settings,
            )
        else:
            rendered, self._made_by = found
        keep_about(file, rendered, (examples.said, *examples.notes), key)
        return rendered

    def _meanwhile(self, base: Base) -> Meanwhile | None:
        def render(examples: Examples) -> Sequence[Any]:
            longest, method = most_tokens(base, self.recipe), method_of(self.recipe, base.speaks)
            return method.render(examples, base.tokenizer, system=self.recipe.system, max_length=longest).rows

        return Meanwhile.of(self.recipe, self.examples, self.folder.path, self.log, render)

    def _progress(self, what: str, done: int, total: int) -> None:
        self.log.append(Progress(what=what, done=done, total=total))
        self._stop_early()

    # --- without memory ---

    def _rest(self, freed: Freed) -> StateChanged | Freed:
        """Hold nothing until told to go on, from the checkpoint that was written for it."""
        self.chat.rest("the run is paused and its memory is given back; resume it first")
        free_memory()
        self.admission.leave()
        self.log.append(StateChanged(state="paused", step=freed.step, total_steps=freed.total_steps, note=FREED))
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
                self._save_freed(command, freed)
            elif isinstance(command, Pause):
                self.log.append(
                    Refused(command=command.id, verb="pause", step=freed.step, reason="it is paused already")
                )
            elif isinstance(command, Rewind):
                reason = "its memory is given back; resume it first"
                self.log.append(Refused(command=command.id, verb="rewind", step=freed.step, reason=reason))
            else:
                self.inbox.put_back([*held, *waiting])
                return self._go_on(command, freed) if isinstance(command, Resume) else self._stop_freed(command, freed)

    def _save_freed(self, command: Save, freed: Freed) -> None:
        """The checkpoint is there; one that a person asks for stays."""
        try:
            if command.keep:
                self.folder.mark_saved(freed.step)
        except OSError as error:
            reason = f"the checkpoint could not be marked: {one_line(error)}"
            self.log.append(Refused(command=command.id, verb="save", step=freed.step, reason=reason))
            return
        self._apply(command, freed)

    def _apply(self, command: ForTrainer, freed: Freed) -> None:
        total = freed.total_steps
        self.log.append(Applied(command=command.id, verb=command.kind, step=freed.step, total_steps=total))

    def _go_on(self, command: Resume, freed: Freed) -> StateChanged | Freed:
        self.resume = command.id
        self.admission.again(self.folder.name)
        if not self.admission.fits(self.recipe, self.examples, freed.total_steps):
            stop, *others = [command for command in self.inbox.take_all(Stop) if isinstance(command, Stop)]
            self.inbox.put_back(others)
            return self._stop_freed(stop, freed)
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
