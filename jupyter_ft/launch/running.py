"""A trainer that is ready, lived through to its last checkpoint: whoever built it, the session is the same."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from peft import PeftModel

from ..completions import FILE, keep_some
from ..control.batches import Batches
from ..control.checkpoint import as_json, place_of, restore_checkpoint, schedule_again, write_checkpoint
from ..control.computing import COMPUTING
from ..control.generations import Generations
from ..control.hooks import Hooks
from ..control.inbox import Inbox
from ..control.lease import LEASE, Streams, Turn
from ..control.memory import Halted
from ..control.port import Port
from ..errors import CheckpointError
from ..event_log import EventLog
from ..heap import HEAP
from ..messages import (
    Applied,
    CheckpointSaved,
    ForTrainer,
    Logged,
    Progress,
    Resumed,
    RunState,
    SaveFailed,
    StateChanged,
    Stop,
)
from ..recipe import Recipe
from ..runs import RunFolder, steps_between
from ..sampling.at_boundary import idle
from ..sampling.chat import Chat
from ..sampling.metrics import Metrics
from ..sampling.probes import Probes
from ..sampling.twin import Voices
from ..weights import draws_randomness, trained_tensors, write_weights
from .meanwhile import Meanwhile
from .ordered import await_ordered, ordered
from .snapshots import Snapshots


@dataclass(frozen=True)
class Freed:
    """A run that is paused with its memory given back, by `command`: it goes on from the checkpoint of `step`."""

    command: str
    step: int
    total_steps: int


class Running:
    """One `train()` of a trainer under a port, with its chat and its checkpoints. Lives on the training thread."""

    def __init__(
        self,
        trainer: Any,
        twin: Voices,
        recipe: Recipe,
        *,
        folder: RunFolder,
        log: EventLog,
        inbox: Inbox,
        chat: Chat,
    ) -> None:
        self.trainer, self.twin, self.recipe = trainer, twin, recipe
        self.folder, self.log, self.inbox, self.chat = folder, log, inbox, chat
        self.snapshots = Snapshots(folder, log, recipe.disk_budget)
        self._begun = False
        self.setters: Mapping[str, Callable[[Any, Any], None]] = {}  # the method's own live fields, see `Method`
        self.probes: Probes | None = None
        self.metrics: Metrics | None = None
        self.meanwhile: Meanwhile | None = None
        self.behind: Callable[[int], list[int]] = lambda row: [row + 1]  # the user's rows in one of the trainer's
        self.batches: type[Batches] = Batches
        self.best_metric = recipe.best_metric

    def run(self, resume: str | None) -> StateChanged | Freed:
        """Train to the end. `resume` is the id of the command that asked to go on from the newest good checkpoint.

        Gives the last event, to be logged, or that the memory is to be given back. Raises what the trainer raises, with
        every command answered.
        """
        args = self.trainer.args
        draws = args.neftune_noise_alpha is not None or args.train_sampling_strategy != "random"
        draws = draws or self.batches.draws or draws_randomness(self.trainer.model)
        turn = Turn(LEASE, Streams.seeded(self.recipe.seed), draws)
        hooks = self._hooks(lambda: port)
        if resume is not None:
            hooks.restore = lambda port: self._restore(port, resume)
        port = Port(self.trainer, self.recipe.hyperparameters, log=self.log, inbox=self.inbox, turn=turn, hooks=hooks)
        ordered(port, self.folder, anew=resume is None)
        port.edits.probes = self.probes is not None
        port.evaluation.decide_by(self.best_metric)
        if isinstance(port.batching, Generations):
            port.batching.keep = self._keep_some
        turn.take()
        try:
            HEAP.give_back()  # what building left lies in the arena of this thread, where no step will use it
            with COMPUTING.among(), suppress(Halted):  # stopped in the middle of a step that memory was too short for
                self.trainer.train()
        except BaseException as error:
            port.report_step()
            port.obedience.refuse_rest(f"the run failed: {one_line(error)}")
            raise
        finally:
            self.snapshots.finish()
            turn.give()
            if sys.exc_info()[0] is not None:
                self.twin.retire()
        freeing = port.obedience.freeing
        if freeing is not None:
            self.twin.retire()
            port.detach()
            return Freed(freeing.id, port.step, int(self.trainer.state.max_steps))
        end = self._finish(port)
        self.twin.retire()
        if end.state == "finished":
            self._wait_for_probes(port)
        port.obedience.refuse_rest("the run is over")
        port.detach()
        return end

    def _hooks(self, port: Callable[[], Port]) -> Hooks:
        trained = trained_tensors(self.trainer.model)

        def publish(step: int) -> None:
            self.twin.publish(step, trained, port().edits.now.alpha)
            self.chat.begin(self.twin, self.folder.name)  # from the first boundary on: it never speaks for nobody
            self._snapshot(port(), step, trained)

        hooks = Hooks(
            publish, lambda step, **how: self._save(port(), step, **how), name=self.folder.name, behind=self.behind
        )
        hooks.change = self.twin.change
        hooks.changed = lambda step: self.twin.changed(step, trained, port().edits.now.alpha)
        hooks.rewind = lambda step: self._rewind(port(), step)
        hooks.speak, hooks.live = lambda step: self.twin.speak(step, self.trainer.model), self.setters
        hooks.probe = lambda step, at_end: self._probe(port(), step, at_end)
        hooks.measure, hooks.batches = self._measure, self.batches
        hooks.held = lambda: self.probes is not None and self.probes.hold
        if self.meanwhile is not None:
            hooks.join, hooks.joined = self.meanwhile.at_epoch, self.meanwhile.before
        return hooks

    def _measure(self) -> dict[str, float]:
        if self.metrics is None:
            return {}
        with idle(self.trainer.model):
            return self.metrics.measure(self.trainer.model)

    # --- the probes ---

    def _probe(self, port: Port, step: int, at_end: bool) -> None:
        if self.probes is None:
            return
        every = self.probes.every(port.edits.now.probe_steps, int(self.trainer.state.max_steps))
        if not self._begun:
            self._begun = True
            self.probes.begin(self.twin, step)
        if at_end or (step % every == 0 and (step > 0 or self.folder.start.is_dir())):
            self.probes.at(step, self.twin, self.trainer.model)

    def _wait_for_probes(self, port: Port) -> None:
        """The run is over when its probes are answered, or when it is told to stop waiting for them."""
        others: list[ForTrainer] = []
        asked, told = self.probes.left if self.probes is not None else 0, 0.0
        while self.probes is not None and self.probes.left and not any(isinstance(c, Stop) for c in others):
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                done = asked - self.probes.left
                self.log.append(Progress(what="answering the probes", done=done, total=asked))
            others += self.inbox.take(wait=True)
        for command in others:
            if isinstance(command, Stop):
                self.log.append(Applied(command=command.id, verb="stop", step=port.step))
        self.inbox.put_back([command for command in others if not isinstance(command, Stop)])

    def _keep_some(self, step: int, made: list[dict[str, Any]]) -> None:
        with suppress(OSError):  # they are for people; a checkpoint that cannot be written is said
            keep_some(self.folder.path / FILE, step, made, self.trainer.num_generations)

    def _restore(self, port: Port, resume: str) -> None:
        step = 0
        if self.folder.checkpoints():
            step, checkpoint, wrong = self.folder.newest_good()
            for complaint in wrong:
                text = f"passed over a damaged checkpoint: {complaint}; going on from step {step}"
                self.log.append(Logged(level="warning", text=text))
            restore_checkpoint(port, checkpoint)
            self.folder.drop_after(step)
        else:  # it ended before the first one was due: from the beginning, which the seed fixes
            schedule_again(port)
        await_ordered(port, self.folder)
        self.log.append(Resumed(step=step, ahead=list(port.obedience.ahead)))
        total = int(port.trainer.state.max_steps)
        self.log.append(Applied(command=resume, verb="resume", step=step, total_steps=total))

    def _rewind(self, port: Port, step: int) -> None:
        """Put the checkpoint of `step` back, at a boundary. `CheckpointError` where it is not there, or damaged."""
        if step >= port.step:
            raise CheckpointError(f"step {step} is not behind: the run is at step {port.step}")
        checkpoint = self.folder.resumable(step)
        self.twin.change()
        try:
            restore_checkpoint(port, checkpoint)
            self.snapshots.finish()
            self.folder.drop_after(step)
            port.begin_again()
            self.log.append(Resumed(step=step, ahead=list(port.obedience.ahead), rewound=True))
            self.twin.forget()
        finally:
            self.twin.publish(port.step, trained_tensors(self.trainer.model), port.edits.now.alpha)
        if self.probes is not None:
            self.probes.begin(self.twin, step)

    def _snapshot(self, port: Port, step: int, trained: dict[str, Any]) -> None:
        model = self.trainer.model
        if isinstance(model, PeftModel) and port.batching.whole and not port.watch.suspicious:
            total, every = int(self.trainer.state.max_steps), port.edits.now.snapshot_steps
            every, pinned = every or steps_between(total), {port.evaluation.best_step}
            self.snapshots.if_due(step, every, model, trained, pinned=pinned, place=lambda: as_json(place_of(port)))

    def _save(self, port: Port, step: int, *, asked: bool = False) -> None:
        began = time.perf_counter()
        port.last_save = (step, time.monotonic())
        try:
            best = {port.evaluation.best_step}
            write = partial(write_checkpoint, port)
            path, size = self.folder.publish(step, write, best, asked=asked)
        except OSError as error:
            self.log.append(SaveFailed(step=step, reason=one_line(error)))
            raise
        seconds = time.perf_counter() - began
        kept = self.folder.visitable()
        told = {"path": str(path), "bytes": size, "seconds": seconds}
        self.log.append(CheckpointSaved(step=step, kept=kept, asked=asked, **told))

    def _finish(self, port: Port) -> StateChanged:
        state: RunState = "stopped" if port.obedience.stopping else "finished"
        note, total = "", int(port.trainer.state.max_steps)
        if port.evaluation.exhausted:
            patience, best = port.edits.now.early_stopping_patience, port.evaluation.best_step
            better = "lower eval_loss" if port.evaluation.metric == "eval_loss" else f"better {port.evaluation.metric}"
            note = f"stopped early: no {better} in {patience} evaluations; the best is step {best}"
        try:
            if state == "finished" or port.batching.whole:
                self._save(port, port.step)
            self._write_result(port.trainer.model)
        except OSError as error:
            state, note = "stopped", f"the result could not be written ({one_line(error)}); make room and resume"
        return StateChanged(state=state, step=port.step, total_steps=total, note=note)

    def _write_result(self, model: Any) -> None:
        if self.recipe.adapter.kind != "full":
            write_weights(model, self.folder.adapter)
            return
        write_weights(model, self.folder.model, next(self.twin.base.parameters()).dtype)
        self.twin.tokenizer.save_pretrained(str(self.folder.model))


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
