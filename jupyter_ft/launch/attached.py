"""A trainer that the user built, lived through in the background: its recipe as read, and the run."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, ProgressCallback, Trainer
from transformers.utils.notebook import NotebookProgressCallback

from ..attached_fields import OWN_METHOD
from ..control.accelerated import States, give_back, own_state
from ..control.ahead import Ahead
from ..control.edits import hf_lambda
from ..control.generations import GenerationCursor, Generations
from ..control.hooks import Hooks
from ..control.lease import LEASE, Streams, Turn
from ..control.own_draws import masks_of, own_draws, put_own_draws
from ..control.port import Port
from ..control.served import Served, ServingInbox
from ..errors import CheckpointError, FineTuneError, RecipeError, Refused
from ..hyperparameters import AnySchedule
from ..messages import Crashed, StateChanged
from ..messages import Refused as RefusedEvent
from ..recipe import Recipe, parse_recipe
from ..sampling.twin import Voices
from ..weights import lora_layers, write_weights
from . import attached_kinds as kinds
from .running import Running, one_line

_AHEAD = "ahead"
HISTORY = 100_000  # entries of `trainer.state.log_history` that are kept
_SCHEDULES: dict[str, AnySchedule] = {  # the others are `trainer`: left alone
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_BY_LOSS = ("reduce_lr_on_plateau", "greedy")
_BATCHES = ("get_train_dataloader", "get_batch_samples", "set_initial_training_values")
_KEPT = ("num_input_tokens_seen", "best_metric", "best_global_step", "best_model_checkpoint")
_PRINTING = (PrinterCallback, ProgressCallback, NotebookProgressCallback)


def check(trainer: Any) -> None:
    """Raises `Refused`, one line, for a trainer that a session cannot take over."""
    if not isinstance(trainer, Trainer):
        raise Refused(f"attach: a transformers or TRL Trainer is wanted, this is a {type(trainer).__name__}")
    if "train" in vars(trainer):
        raise Refused("attach: this trainer already has a session")
    if trainer.is_in_train or trainer.state.global_step > 0:
        raise Refused("attach: this trainer is training or has trained; build it again and attach it first")
    reason = _unfit(trainer) or _no_schedule(trainer.args)
    if reason:
        raise Refused(f"attach: {reason}")


def _no_schedule(args: Any) -> str:
    """Why transformers will not make the schedule, where its settings are incomplete."""
    try:
        hf_lambda("trainer", 1, 2, args)
    except (TypeError, ValueError) as error:
        return f"the schedule '{_shape(args)}' cannot be made: {one_line(error)}; set lr_scheduler_kwargs"
    return ""


def _shape(args: Any) -> str:
    return str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))


def _unfit(trainer: Any) -> str:
    """The first reason against it, or nothing."""
    args, rows = trainer.args, trainer.train_dataset
    shape = _shape(args)
    known = kinds.of_trl(trainer) or Trainer
    own = [name for name in _BATCHES if getattr(type(trainer), name) is not getattr(known, name)]
    counted = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
    several = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or args.world_size > 1
    reasons = {
        "the trainer has no train_dataset": rows is None,
        f"a {type(rows).__name__} has no rows to count; give a dataset with a length": not counted,
        "DeepSpeed, FSDP and several processes are not supported; train on one device": several,
        "several GPUs in one process are not supported; set CUDA_VISIBLE_DEVICES to one": args.n_gpu > 1,
        "model_init rebuilds the model when it trains; build it before": trainer.model_init is not None,
        "auto_find_batch_size starts over in the middle; set the batch size": args.auto_find_batch_size,
        f"{type(trainer).__name__} makes its own batches ({', '.join(own)})": bool(own),
        f"the schedule '{shape}' follows the losses and keeps its state to itself; use one that follows the steps, "
        "such as cosine_with_min_lr": shape in _BY_LOSS,
        "a scheduler of one's own is not supported; leave it to lr_scheduler_type": trainer.lr_scheduler is not None,
        "train_sampling_strategy batch_rebalance makes its own batches": args.train_sampling_strategy
        == "batch_rebalance",
        "dataloader_drop_last leaves no batch of so few rows": counted and _rows(trainer) == 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), "") or kinds.unfit_to_generate(trainer)


def recipe_of(trainer: Any) -> Recipe:
    """What the trainer was asked to be, in our words. Raises `RecipeError` where a value is out of range."""
    args, model = trainer.args, trainer.model
    shape = _shape(args)
    total = args.max_steps if args.max_steps > 0 else None
    steps = total or -int(-args.num_train_epochs * kinds.updates_of(trainer) // 1)
    warmup = 0 if shape == "constant" else args.get_warmup_steps(steps)
    kwargs = args.lr_scheduler_kwargs or {}
    schedule = "trainer" if kwargs else _SCHEDULES.get(shape, "trainer")
    asked: dict[str, Any] = {
        "method": "attached",
        "model": str(getattr(model.config, "_name_or_path", "") or type(model).__name__),
        "data": f"{len(trainer.train_dataset)} rows of the trainer",
        "adapter": _adapter(model),
        "seed": args.seed,
        "learning_rate": args.learning_rate,
        "schedule": schedule,
        "trainer": {"own_schedule": {"type": shape} | kwargs} if schedule == "trainer" else {},
        "warmup_steps": int(warmup),
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm or 0.0,
        "batch_size": args.per_device_train_batch_size,
        "accumulation": args.gradient_accumulation_steps,
        "epochs": args.num_train_epochs,
        "max_steps": total,
    }
    if kind := kinds.kind_of(trainer):
        own = {"trainer": asked["trainer"] | {OWN_METHOD: kind}}
        try:
            return parse_recipe(asked | own | kinds.fields_of(trainer))
        except RecipeError:  # a value beyond the bounds of what is live is TRL's affair
            if kinds.generates(trainer):
                raise
    return parse_recipe(asked)


def _rows(trainer: Any) -> int:
    """Rows of an epoch: without the last batch where it is not full and is to be dropped."""
    rows, batch = len(trainer.train_dataset), trainer.args.per_device_train_batch_size
    return rows // batch * batch if trainer.args.dataloader_drop_last else rows


def _adapter(model: Any) -> dict[str, Any]:
    if not isinstance(model, PeftModel):
        return {"kind": "full"}
    if "default" not in model.peft_config:
        raise Refused(f"attach: name the adapter 'default' (it is '{model.active_adapter}'), as PEFT does by itself")
    config = model.peft_config["default"]
    if not isinstance(config, LoraConfig):
        raise Refused(f"attach: adapters of the kind {config.peft_type} are not supported; LoRA is")
    inside = [getattr(p, "p", 0.0) for layer in lora_layers(model) for p in layer.lora_dropout.values()]
    dropout = max(inside, default=0.0)  # TRL may have switched off what the config says
    kind = "dora" if config.use_dora else "rslora" if config.use_rslora else "lora"
    return {"kind": kind, "r": config.r, "alpha": config.lora_alpha, "dropout": dropout}


def _refuse_rewind(_step: int) -> None:
    raise CheckpointError(
        "an attached trainer is not taken back while it trains; stop it, build it again and attach(…, resume=True)"
    )


class AttachedPort(Port):
    """The port into a user's trainer, whose own log and epochs are to read as if nothing were attached."""

    evaluates = False  # the user's own evaluations go on; the session adds none
    pauses = False  # the cell that waits for `train()` is to end as it did without a session
    shares = False  # what a trainer of the user's overrides may look at the thread that it runs in

    def __init__(self, trainer: Any, *args: Any, **more: Any) -> None:
        accumulation = trainer.args.gradient_accumulation_steps
        super().__init__(trainer, *args, **more)
        trainer.args.gradient_accumulation_steps = accumulation  # batches by length are grouped over it
        self._load_best, trainer._load_best_model = trainer._load_best_model, self._load_best_and_tell
        self._ahead = Ahead(trainer, super().part_of)

    def _frame(self, args: Any, dataloader: Any) -> tuple[int, int, int, int, int, int, int]:
        args.gradient_accumulation_steps = 1
        return super()._frame(args, dataloader)

    def detach(self) -> None:
        """As the port."""
        super().detach()
        vars(self.trainer).pop("_load_best_model", None)

    def _load_best_and_tell(self) -> None:
        self.hooks.change()
        self._load_best()
        self.hooks.changed(self.step)

    def part_of(self, batch: list[int]) -> tuple[dict[str, Any], int]:
        """As the port; what transformers collates one batch ahead is collated then."""
        return self._ahead.take(batch)

    def _fetch(self, device: Any) -> tuple[list[Any], Any]:
        step = super()._fetch(device)
        self._ahead.look(self.cursor.peek())
        return step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any) -> None:
        """As the port; the history stays."""
        history = state.log_history[-HISTORY:]
        super().on_log(args, state, control, logs, **more)
        state.log_history[:] = history

    def own_state(self) -> dict[str, Any]:
        """What transformers keeps of a run in its own checkpoints, less the summary of a part that was stopped."""
        state = self.trainer.state
        kept = {name: getattr(state, name) for name in _KEPT}
        history = [entry for entry in state.log_history if "train_runtime" not in entry]
        flos = state.total_flos + self.trainer.current_flos
        return kept | {"log_history": history, "total_flos": flos, _AHEAD: self._ahead.state()}

    def restore_own(self, state: dict[str, Any]) -> None:
        """The history goes on, as with `resume_from_checkpoint`."""
        self._ahead.restore(state.get(_AHEAD))
        for name in state.keys() - {_AHEAD}:
            setattr(self.trainer.state, name, state[name])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any) -> None:
        """Tell of the user's own evaluation."""
        self.report_step()
        self.evaluation.note(metrics or {}, float((metrics or {}).get("eval_runtime", 0.0)))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """As the port; the epoch is counted in batches, as transformers does."""
        super().on_step_end(args, state, control, **more)
        cursor = self.cursor
        if isinstance(cursor, GenerationCursor):
            return  # it counts in batches itself
        state.epoch = cursor.epoch + -(-cursor.position // cursor.batch_size) / -(-cursor.rows // cursor.batch_size)


class AttachedRun(Running):
    """One `train()` of a user's trainer. `output` is its `TrainOutput` when it has ended."""

    inbox: ServingInbox
    output: Any = None

    def __init__(self, trainer: Any, twin: Voices | None, recipe: Recipe, **rest: Any) -> None:
        super().__init__(trainer, cast(Any, twin), recipe, **rest)
        self._voices = twin

    def prepare(self, states: States, served: Served, streams: Streams, train: Callable[[], Any]) -> None:
        """What was in force at the moment of attach: accelerate's state, the random streams, the trainer's `train`."""
        self._states, self._served, self._streams, self._train = states, served, streams, train

    def live(self, resume: str | None) -> StateChanged:
        """Live through the run; whatever happens is an event, nothing is raised. Gives the last event."""
        self.inbox.serve_here()
        self.inbox.around = self._masks_kept
        try:
            with own_state(self._states):
                end = self.run(resume)
        except FineTuneError as error:
            end = self._failed(str(error), "")
        except BaseException as error:  # noqa: BLE001 - also SystemExit in a user's callback must not end silently
            end = self._failed(one_line(error), traceback.format_exc())
        reason = end.note or "the run is over"
        for command in self.inbox.close():
            self.log.append(RefusedEvent(command=command.id, verb=command.kind, step=end.step, reason=reason))
        if resume is not None and self.log.answer(resume) is None:
            self.log.append(RefusedEvent(command=resume, verb="resume", step=end.step, reason=reason))
        if not self.chat.ready:
            self.chat.fail(reason)
        give_back(self._states)
        self._served.restore()
        with suppress(Exception):
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        with suppress(OSError):
            self.folder.unlock()
        return end

    def run(self, resume: str | None) -> StateChanged:
        """Train to the end with the user's callbacks, but for those that draw from a thread."""
        trainer, args = self.trainer, self.trainer.args
        handler = trainer.callback_handler
        callbacks = list(handler.callbacks)
        before = (args.gradient_accumulation_steps, args.logging_nan_inf_filter)
        handler.callbacks = [callback for callback in callbacks if not isinstance(callback, _PRINTING)]
        trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
        turn = Turn(LEASE, self._streams, draws=True)

        def publish(step: int) -> None:
            if self._voices is not None:
                self._voices.publish(step, trained, port.edits.now.alpha)
                self.chat.begin(self._voices, self.folder.name)

        hooks = Hooks(publish=publish, save=lambda step, **how: self._save(port, step, **how), name=self.folder.name)
        hooks.rewind = _refuse_rewind
        if (voices := self._voices) is not None:
            hooks.change = voices.change
            hooks.changed = lambda step: voices.changed(step, trained, port.edits.now.alpha)
            hooks.speak = partial(voices.speak, model=trainer.model)
        if resume is not None:
            hooks.restore = lambda port: self._restore(port, resume)
        asked = self.recipe.hyperparameters
        hooks.batches, hooks.live = kinds.batches_of(trainer), kinds.live_of(self.recipe)
        port = self._port(trainer, turn, hooks)
        port.edits.plain = (asked.schedule, asked.warmup_steps, port.edits.total_steps(asked))
        try:
            turn.take()
            try:
                self.output = self._train()
            finally:
                turn.give()
            return self._finish(port)
        finally:
            port.report_step()
            port.obedience.refuse_rest("the run is over")
            port.detach()
            if self._voices is not None:
                self._voices.retire()
            args.gradient_accumulation_steps, args.logging_nan_inf_filter = before
            handler.callbacks = callbacks

    def _port(self, trainer: Any, turn: Turn, hooks: Hooks) -> AttachedPort:
        asked = self.recipe.hyperparameters
        port = AttachedPort(trainer, asked, log=self.log, inbox=self.inbox, turn=turn, hooks=hooks)
        if isinstance(port.batching, Generations):
            port.batching.keep = self._keep_some
            port.evaluation.decide_by(kinds.decides(self.recipe))
        else:
            port.cursor.rows = _rows(trainer)
        return port

    @contextmanager
    def _masks_kept(self) -> Iterator[None]:
        """Put back the generators of a collator, from which it masks tokens: an evaluation from a cell draws, too."""
        generator, own = masks_of(self.trainer), own_draws(self.trainer)
        before = None if generator is None else generator.get_state()
        try:
            yield
        finally:
            put_own_draws(self.trainer, own)
            if generator is not None and before is not None:
                generator.set_state(before)

    def _write_result(self, model: Any) -> None:
        full = self.recipe.adapter.kind == "full"
        write_weights(model, self.folder.model if full else self.folder.adapter)
        if full and self._voices is not None:
            self._voices.tokenizer.save_pretrained(str(self.folder.model))

    def _failed(self, error: str, trace: str) -> StateChanged:
        step = self.log.last_step
        self.log.append(Crashed(step=step, error=error, traceback=trace))
        return StateChanged(state="failed", step=step, note=error)
