"""The port into a running trainer: one callback and a handful of attributes of the instance, listed in `PATCHED`.

The trainer keeps accumulation 1 and sees one batch per optimizer step. Before each step `get_batch_samples` comes here:
the boundary. There the last step is reported, the weights published for chat, a checkpoint written when due, the turn
given up, the inbox obeyed, and the next rows taken from the cursor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, wraps
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainerCallback

from ..event_log import EventLog
from ..health import Watch
from ..hyperparameters import Hyperparameters
from ..messages import Health, StateChanged, StepDone, StepRefused
from .batches import Batches, Parts, count_tokens
from .computing import COMPUTING
from .edits import LiveEdits
from .evaluation import Evaluation
from .hooks import Hooks
from .inbox import Inbox
from .lease import Turn
from .memory import Patience
from .obey import Obedience
from .optimizer_state import OptimizerState

PATCHED = ("training_step", "get_batch_samples", "set_initial_training_values", "accelerator.clip_grad_norm_")
ENDLESS = 10**9  # the frame that the trainer's loop runs in; epochs and the end are ours to call
_OURS = {"loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "step"}


class MicroBatches(dict[str, Any]):
    """What the trainer's loop carries as one batch: the collated micro-batches of an optimizer step."""

    parts: Parts


class Port(TrainerCallback):  # type: ignore[misc]
    """Attached to one trainer for one `train()`; every method here runs on the training thread.

    `evaluates`: the session evaluates by `eval_steps`. `pauses`: the run pauses by itself when it has gone red.
    `shares`: on the CPU it computes where the other runs do.
    """

    evaluates = pauses = shares = True

    def __init__(
        self, trainer: Any, asked: Hyperparameters, *, log: EventLog, inbox: Inbox, turn: Turn, hooks: Hooks
    ) -> None:
        if any(isinstance(callback, Port) for callback in trainer.callback_handler.callbacks):
            raise RuntimeError("this trainer already has a session")
        self.trainer, self.log, self.turn, self.hooks = trainer, log, turn, hooks
        args = trainer.args
        self.batching = hooks.batches(trainer, asked)
        self.cursor = self.batching.cursor
        args.gradient_accumulation_steps = 1
        args.logging_nan_inf_filter = False  # the loss is measured here, and a bad one is kept from the weights
        self.edits = LiveEdits(trainer, self.cursor, asked, turn, hooks.live)
        self.evaluation = Evaluation(self)
        self.obedience = Obedience(self, inbox)
        self.watch = self._new_watch()
        self.last_save = (0, time.monotonic())
        self.patience = Patience(self)
        self.batches: list[list[int]] = []  # the rows of the step that was begun last, in its micro-batches
        self._rows: list[int] = []  # of the step that was begun last, from 1
        self._loader: Any = None
        self._own_rows = self.cursor.rows
        self._rows_now: Any = None  # where others have joined
        self._pending: StepDone | None = None
        self._loss: torch.Tensor | None = None
        self._norm, self._rate, self._began = math.nan, math.nan, 0.0
        self._optimizer_state = OptimizerState()
        self._unwatch: Callable[[], None] = lambda: None
        self._patch()

    def _patch(self) -> None:
        trainer = self.trainer
        self._training_step, self._get_batch_samples = trainer.training_step, trainer.get_batch_samples
        self._clip = trainer.accelerator.clip_grad_norm_
        trainer.training_step = self._step_in_micro_batches
        trainer.get_batch_samples = self._boundary_and_fetch
        trainer.set_initial_training_values = self._frame
        trainer.accelerator.clip_grad_norm_ = self._clip_and_note
        trainer.add_callback(self)

    def detach(self) -> None:
        """Give the trainer its own methods back."""
        for name in PATCHED:
            owner = self.trainer.accelerator if "." in name else self.trainer
            owner.__dict__.pop(name.rpartition(".")[2], None)
        self._unwatch()
        self.trainer.remove_callback(self)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.trainer.state.global_step)

    def compute(self, work: Callable[[], Any]) -> Any:
        """What `work()` gives; it leaves much freed memory behind."""
        return COMPUTING.do(work) if self._computes_together else work()

    @property
    def _computes_together(self) -> bool:
        return self.shares and self.trainer.args.device.type == "cpu"

    def own_state(self) -> dict[str, Any]:
        """What this kind of port adds to a checkpoint."""
        return {}

    def restore_own(self, state: dict[str, Any]) -> None:
        """Put back what `own_state()` described (empty: a checkpoint of before there was one)."""

    # --- the frame ---

    def _frame(self, args: Any, dataloader: Any) -> tuple[int, int, int, int, int, int, int]:
        self._loader = dataloader
        rows, per_step = self.cursor.rows, self.cursor.rows_per_step
        return ENDLESS, ENDLESS, rows, int(rows * args.num_train_epochs), per_step, ENDLESS, self.edits.total_steps()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restore where this is a resumption, and say that the run goes."""
        self._watch_weights(self.trainer.optimizer)
        if self.hooks.restore is not None:
            self.hooks.restore(self)
            changed = self.watch.look(self.log)
            self._tell(self.watch.go_on() or changed)  # a person has seen the red, and wants it to go on
        self._said_running()

    def _new_watch(self) -> Watch:
        return Watch(self.hooks.name, by_loss=self.hooks.batches is Batches)  # the loss of a policy has no level

    def begin_again(self) -> None:
        """Forget what was seen of the steps that are taken back."""
        self.watch, self._optimizer_state = self._new_watch(), OptimizerState()
        self.last_save = (self.step, time.monotonic())

    def _said_running(self) -> None:
        self.log.append(StateChanged(state="running", step=self.step, total_steps=int(self.trainer.state.max_steps)))
        self._began = time.perf_counter()
        self.last_save = (self.step, time.monotonic())

    # --- the boundary ---

    def _boundary_and_fetch(self, _iterator: Iterator[Any], _count: int, device: Any) -> tuple[list[Any], Any]:
        self.report_step()
        self._look()
        self.hooks.publish(self.step)
        self.hooks.probe(self.step, False)
        whole = self.batching.whole
        better = whole and self.evaluation.if_due()  # the best weights so far are kept at once
        if whole and (better or self._checkpoint_due()) and not self.watch.suspicious:
            with suppress(OSError):  # said by an event already; the run goes on and tries again later
                self.hooks.save(self.step)
        self._look()
        go_on = self.give_way()
        over = self.step >= self.trainer.state.max_steps  # restored from a checkpoint of the last step
        if not go_on or over or self.evaluation.exhausted:
            self.trainer.control.should_training_stop = True
            return [], None
        self._began = time.perf_counter()
        return self._fetch(device)

    def give_way(self) -> bool:
        """Let others have their turns, and obey the inbox meanwhile. False where the run is to stop."""
        if self._computes_together:
            self._optimizer_state.wait(self.trainer.optimizer, COMPUTING.shared)
        self.turn.give()
        try:
            return self.obedience.at_boundary()
        finally:
            self.turn.take()

    def _fetch(self, device: Any) -> tuple[list[Any], Any]:
        if self.cursor.order is None:
            if self.turn.draws:
                torch.empty((), dtype=torch.int64).random_()  # the draw that the DataLoader's iterator makes
            if self.cursor.position == 0:  # a fork of a snapshot comes into the middle of an epoch
                self._join()
            self.cursor.begin_epoch(self._loader.batch_sampler.sampler)  # after it: a sampler may draw too
        self.batches = self.cursor.take()
        rows = dict.fromkeys(row for batch in self.batches for row in batch)
        self._rows = [number for row in rows for number in self._behind(row)]
        parts = self._collate()
        parts, items = self._get_batch_samples(iter(parts), len(parts), device)
        step = MicroBatches()
        step.parts = parts
        name = getattr(self.trainer.model, "main_input_name", "input_ids")
        step[name] = torch.empty(sum(part[name].numel() for part in parts if name in part), device="meta")  # for flos
        return [step], items

    def _behind(self, row: int) -> list[int]:
        return self.hooks.behind(row) if row < self._own_rows else []  # what has joined is in no file of the user's

    def _join(self) -> None:
        """At the beginning of an epoch but the first: rows that came meanwhile are among those of it."""
        rows = self.hooks.join(self.cursor.epoch, self.step) if self.cursor.epoch else []
        if rows:
            self.extend(rows)
            self.edits.longer()
            total = int(self.trainer.state.max_steps)
            self.log.append(StateChanged(state="running", step=self.step, total_steps=total))

    def extend(self, rows: list[dict[str, Any]]) -> None:
        """Put `rows` behind those of the trainer, whose sampler must take them from `data_source`."""
        now = self._dataset
        more = Dataset.from_list(rows).select_columns(now.column_names).cast(now.features)
        self._rows_now = concatenate_datasets([now, more])
        self._loader.batch_sampler.sampler.data_source = self._rows_now
        self.cursor.rows = len(self._rows_now)

    def have_rows(self, count: int) -> None:
        """Have the rows that a checkpoint was written with: the trainer's own, and the first of those that joined."""
        if count == self.cursor.rows or count < self._own_rows:
            return
        self._rows_now, self.cursor.rows = None, self._own_rows
        self._loader.batch_sampler.sampler.data_source = self._dataset
        joined = self.hooks.joined(count - self._own_rows)
        if joined:
            self.extend(joined)

    @property
    def _dataset(self) -> Any:
        return self._loader.dataset if self._rows_now is None else self._rows_now

    def _collate(self) -> Parts:
        return self.batching.collate(self._loader, self.batches, self.part_of)

    def part_of(self, batch: list[int]) -> tuple[Any, int]:
        """The rows of these numbers, collated, and their tokens."""
        rows = [self._dataset[row] for row in batch]
        part = self._loader.collate_fn(rows)
        return part, count_tokens(part, rows)

    def again(self) -> tuple[Parts, Any]:
        """The rows of this step once more, in micro-batches of what memory holds, and their items: masks may differ."""
        self.cursor.give_back(self.batches)
        self.batches = self.cursor.take()
        parts = self._collate()
        got: tuple[Parts, Any] = self._get_batch_samples(iter(parts), len(parts), self.trainer.args.device)
        return got

    def anew(self) -> tuple[Parts, Any]:
        """The next step fetched once more after a pause in the middle of it, in which it may have been changed."""
        self._began = time.perf_counter()
        steps, items = self._fetch(self.trainer.args.device)
        return steps[0].parts, items

    def _checkpoint_due(self) -> bool:
        since = self.step - self.last_save[0]
        if since <= 0 or self.step >= self.trainer.state.max_steps:  # the end has a checkpoint of its own
            return False
        every = self.edits.now.checkpoint_steps
        if every is not None:
            return since >= every
        return since >= math.ceil(0.1 * self.trainer.state.max_steps) or time.monotonic() - self.last_save[1] >= 60.0

    # --- health ---

    def _look(self) -> None:
        self._tell(self.watch.look(self.log, self._rows))

    def _tell(self, health: Health | None) -> None:
        """Log a change of health; a run that has gone red pauses by itself, its last good checkpoints kept."""
        if health is not None:
            self.log.append(health)
            if health.level == "red" and self.pauses:
                self.obedience.pause_itself(health.said)

    # --- the step ---

    def _step_in_micro_batches(self, model: Any, inputs: MicroBatches, items: Any = None) -> torch.Tensor:
        args = self.trainer.args

        def do(parts: Parts, items: Any) -> torch.Tensor:
            self.trainer.current_gradient_accumulation_steps = len(parts)
            total: torch.Tensor | None = None
            for part in parts:
                loss = self.compute(partial(self._training_step, model, part, items))
                self.batching.done(part)
                total = loss if total is None else total + loss
            if total is None:
                raise RuntimeError("a step without rows")
            return total

        parts, inputs.parts = inputs.parts, []
        args.gradient_accumulation_steps = self.cursor.accumulation  # what a trainer that asks in a step should see
        try:
            self._loss = self.patience.step(parts, items, do)
        finally:
            args.gradient_accumulation_steps = 1
        return self._loss

    def _watch_weights(self, optimizer: Any) -> None:
        """Tell of the optimizer's steps those who read the weights."""
        own, step = vars(optimizer).get("step"), optimizer.step  # torch's schedulers leave a step of theirs on it

        def change(*args: Any, **kwargs: Any) -> Any:
            self._optimizer_state.have(optimizer)
            self.hooks.change()
            return step(*args, **kwargs)

        @wraps(step)  # with the mark by which they know it
        def told(*args: Any, **kwargs: Any) -> Any:
            done = self.compute(partial(change, *args, **kwargs))
            self.hooks.changed(self.step + 1)
            return done

        def unwatch() -> None:
            vars(optimizer).pop("step")
            if own is not None:
                optimizer.step = own

        optimizer.step, self._unwatch = told, unwatch

    def _clip_and_note(self, parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        norm = self.compute(partial(self._clip, parameters, max_norm, *args, **kwargs))
        self._norm = float(norm) if norm is not None else math.nan
        return norm

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the learning rate in use, and keep a non-finite gradient away from the weights."""
        optimizer = self.trainer.optimizer
        self._rate = float(optimizer.param_groups[0]["lr"])
        loss = float(self._loss) if self._loss is not None else math.nan
        scaled = (
            getattr(self.trainer.accelerator, "scaler", None) is not None
        )  # an fp16 overflow is the scaler's to skip
        if not scaled and not (math.isfinite(loss) and math.isfinite(self._norm)):
            optimizer.zero_grad(set_to_none=True)
            self.log.append(StepRefused(step=self.step + 1, loss=loss, grad_norm=self._norm, rows=self._rows))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note what the step was, and end the epoch or the run where it is over."""
        loss = float(self._loss) if self._loss is not None else math.nan
        progress = self.cursor.progress
        self.obedience.ahead.clear()
        self._pending = StepDone(
            step=state.global_step,
            loss=loss,
            learning_rate=self._rate,
            grad_norm=self._norm,
            tokens=self.batching.tokens,
            seconds=time.perf_counter() - self._began,
            epoch=progress,
        )
        if self.cursor.end_epoch_if_done():
            control.should_epoch_stop = True
        state.epoch = progress
        if state.global_step >= state.max_steps:
            control.should_training_stop = not self.obedience.goes_on()  # transformers' own callback has set it

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the method's own metrics of this step, and report it."""
        if self._pending is None or self._pending.step != state.global_step:
            state.log_history.clear()
            return
        new = {k: v for k, v in (logs or {}).items() if k not in _OURS and not k.startswith("eval_")}
        own = {k: float(v) for k, v in new.items() if isinstance(v, int | float)}
        self._pending = self._pending.model_copy(update={"metrics": own})
        self.report_step()
        state.log_history.clear()  # the log is ours; transformers' own grows with every step

    def report_step(self) -> None:
        """Tell the log of the last step, once."""
        if self._pending is not None:
            self.log.append(self._pending)
            self._pending = None

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the last step, evaluate and publish the last weights."""
        self.report_step()
        self._look()
        ended = not self.obedience.stopping and self.obedience.freeing is None
        if ended:
            self.evaluation.if_due(at_end=True)
        self._look()
        self.hooks.publish(self.step)
        if ended:
            self.hooks.probe(self.step, True)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of the progress of an evaluation."""
        self.evaluation.count(len(kwargs.get("eval_dataloader") or ()))
