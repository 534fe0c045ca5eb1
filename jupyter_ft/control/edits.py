"""Live edits: what a change of a hyperparameter means to a running trainer.

Everything here happens on the training thread between two steps. What the trainer itself ignores or misapplies
(`args.learning_rate`, a group's `lr`, accumulation in the middle of an epoch) is done where it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from pydantic import JsonValue

from ..errors import RecipeError
from ..hyperparameters import HF_SCHEDULES, AnySchedule, Hyperparameters
from ..recipe import ALIASES, change
from ..weights import lora_layers, set_alpha, set_dropout
from .cursor import RowCursor
from .lease import Turn
from .schedule import Anchor, Curve, decay_progress, falls

Changes = dict[str, tuple[JsonValue, JsonValue]]
_HORIZON = {"batch_size", "accumulation", "epochs", "max_steps"}


class LiveEdits:
    """The hyperparameters of a run as they are now, and how to change them."""

    def __init__(
        self,
        trainer: Any,
        cursor: RowCursor,
        asked: Hyperparameters,
        turn: Turn,
        own: Mapping[str, Callable[[Any, Any], None]] = MappingProxyType({}),
    ) -> None:
        self._trainer = trainer
        self._setters = own  # what a change of a method's own field means to its trainer
        self._turn = turn
        self._cursor = cursor
        self.now = asked
        self.probes = False  # whether there are any
        self.anchor: Anchor | None = None
        self.plain: tuple[AnySchedule, int, int]  # shape, warm-up, total: in force until there is an anchor
        self.plain = (asked.schedule, asked.warmup_steps, self.total_steps(asked))
        self.warm: tuple[int, int] | None = None  # from which step on, and how many: a fresh optimizer in mid-run
        self._cold: Callable[[float], float]  # the multiplier without that warm-up
        self._ratios: list[float] = []

    # --- how long the run is ---

    def total_steps(self, of: Hyperparameters | None = None) -> int:
        """Optimizer steps in all: `max_steps`, else what the epochs take with today's batch geometry."""
        of = of or self.now
        return of.max_steps or self._trainer.state.global_step + self._cursor.steps_left(of.epochs)

    def longer(self) -> None:
        """The cursor has more rows: the run is longer and so is its schedule, unless `max_steps` decides."""
        total = self.total_steps()
        if total != self._trainer.state.max_steps:
            self._reschedule(["epochs"], total)
            self._trainer.state.max_steps = total

    # --- changing ---

    def apply(self, changes: Mapping[str, Any]) -> Changes:
        """Make the changes, all or none, in force from the next step on; the old and new values.

        Raises `RecipeError` with the reason where one of them cannot be made.
        """
        new = change(self.now, changes)
        done = self._trainer.state.global_step
        names = [name for name in type(new).model_fields if name in _resolved(changes)]
        if "learning_rate" in names and new.schedule == "trainer" and not falls(self._own(), self._progress()):
            new = change(new, {"schedule": "constant"})
            names.append("schedule")
        self._check_warmup(names)
        self._check_there(names)
        if "epochs" in names and new.max_steps is not None:
            raise RecipeError(f"epochs: max_steps = {new.max_steps} decides how long the run is; set that")
        old = self.now.model_dump(mode="json") | {"learning_rate": self._warm_rate()}
        geometry = (self._cursor.batch_size, self._cursor.accumulation)
        self._cursor.batch_size, self._cursor.accumulation = new.batch_size, new.accumulation
        total = self.total_steps(new)
        if total <= done:
            self._cursor.batch_size, self._cursor.accumulation = geometry
            raise RecipeError(f"with that the run would be {total} steps long and {done} are done; use stop to end it")
        self.now = new
        self._edit_adapter(names)
        self._edit_own(names)
        self._trainer.args.max_grad_norm = new.max_grad_norm
        if "weight_decay" in names:
            self._trainer.optimizer.param_groups[0]["weight_decay"] = new.weight_decay  # the others are exempt: 0
        self._reschedule(names, total)
        self._trainer.state.max_steps = total
        made = new.model_dump(mode="json")
        return {name: (old[name], made[name]) for name in names}

    def _check_warmup(self, names: list[str]) -> None:
        if "warmup_steps" in names and (
            self.anchor is not None or self._trainer.lr_scheduler.last_epoch >= self.plain[1]
        ):
            raise RecipeError("warmup_steps: the warm-up is over; set learning_rate instead")
        if {"warmup_steps", "learning_rate"} <= set(names):
            raise RecipeError("learning_rate ends the warm-up, so warmup_steps would do nothing; set one of the two")

    def _check_there(self, names: list[str]) -> None:
        if {"alpha", "dropout"} & set(names) and not lora_layers(self._trainer.model):
            raise RecipeError("alpha and dropout belong to a LoRA adapter; this run trains every weight")
        if "probe_steps" in names and not self.probes:
            raise RecipeError("there are no prompts to answer; start a run with probes: [a prompt, another]")
        if "mask_share" in names and "mask_share" not in self._setters:
            raise RecipeError(
                "mask_share belongs to encoders, which guess masked tokens; this model predicts the next one"
            )
        if {"eval_steps", "early_stopping_patience"} & set(names) and self._trainer.eval_dataset is None:
            raise RecipeError("there are no rows to evaluate on; start a run with held_out: 10%")

    def _edit_adapter(self, names: Iterable[str]) -> None:
        if "alpha" in names:
            set_alpha(self._trainer.model, self.now.alpha)
        if "dropout" in names:
            set_dropout(self._trainer.model, self.now.dropout)
            if self.now.dropout > 0:
                self._turn.begin_drawing()

    def _edit_own(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._setters:
                self._setters[name](self._trainer, getattr(self.now, name))

    def _reschedule(self, names: list[str], total: int) -> None:
        at, warmup = self._trainer.lr_scheduler.last_epoch, self.plain[1]
        if "learning_rate" in names or (_touches(names) and (self.anchor is not None or at >= warmup)):
            rate = self.now.learning_rate if "learning_rate" in names else self._warm_rate()
            if "learning_rate" in names and self.warm is not None and at > self.warm[0]:
                self.warm = None  # the rate that was asked for is the one to use; a fork's own is what it warms up to
            self.anchor = Anchor(self.now.schedule, at, total, self._progress(), rate, self._own())
            self.install()
        elif _touches(names):  # still warming up, at the rate that was asked: only what comes after it changes
            self.plain = (self.now.schedule, self.now.warmup_steps, total)
            self.install()

    def _progress(self) -> float:
        """The share of the decay that is done."""
        at, (_, warmup, total) = self._trainer.lr_scheduler.last_epoch, self.plain
        return self.anchor.progress_at(at) if self.anchor else decay_progress(at, warmup, total)

    def _own(self) -> Curve:
        """The shape of the schedule that the trainer was built with."""
        _, warmup, total = self.plain
        height = hf_lambda("trainer", warmup, total, self._trainer.args)
        return lambda p: height(warmup + p * (total - warmup))

    # --- the scheduler ---

    def current_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._trainer.optimizer.param_groups[0]["lr"])

    def _warm_rate(self) -> float:
        """That rate but for the warm-up of a fresh optimizer."""
        if self.warm is None:
            return self.current_rate()
        scheduler = self._trainer.lr_scheduler
        return float(scheduler.base_lrs[0] * self._cold(scheduler.last_epoch))

    def warm_up(self, steps: int) -> None:
        """Let the learning rate rise over the coming `steps` steps: the optimizer has seen no gradient yet."""
        self.warm = (int(self._trainer.lr_scheduler.last_epoch), steps)
        self.install()

    def install(self) -> None:
        """Put the schedule in force into the trainer's scheduler (a `LambdaLR`), for the next step on."""
        scheduler, groups = self._trainer.lr_scheduler, self._trainer.optimizer.param_groups
        if self.anchor is None:
            shape, warmup, total = self.plain
            scheduler.base_lrs = [group["initial_lr"] for group in groups]  # taken back to before there was an anchor
            scheduler.lr_lambdas = [hf_lambda(shape, warmup, total, self._trainer.args)] * len(groups)
        else:
            if not self._ratios:
                first = groups[0]["initial_lr"]
                self._ratios = [group["initial_lr"] / first if first else 1.0 for group in groups]
            scheduler.base_lrs = list(self._ratios)  # 1.0 for one group: the rate reaches the optimizer to the bit
            scheduler.lr_lambdas = [self.anchor.at] * len(groups)
        self._cold = scheduler.lr_lambdas[0]
        if self.warm is not None:
            scheduler.lr_lambdas = [_warming(f, *self.warm) for f in scheduler.lr_lambdas]
        rates = [b * f(scheduler.last_epoch) for b, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates

    # --- checkpoints ---

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "hyperparameters": self.now.model_dump(mode="json"),
            "anchor": self.anchor.state() if self.anchor else None,
            "plain": list(self.plain),
            "warm": list(self.warm) if self.warm else None,
            "last_epoch": self._trainer.lr_scheduler.last_epoch,
            "step_count": self._trainer.lr_scheduler._step_count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state()` described; the optimizer's own state comes separately."""
        self.now = type(self.now).model_validate(state["hyperparameters"])
        shape, warmup, total = state["plain"]
        self.plain = (shape, int(warmup), int(total))
        self.warm = tuple(state["warm"]) if state.get("warm") else None
        self.anchor = Anchor(**state["anchor"], own=self._own()) if state["anchor"] else None
        scheduler = self._trainer.lr_scheduler
        scheduler.last_epoch, scheduler._step_count = state["last_epoch"], state["step_count"]
        self._trainer.args.max_grad_norm = self.now.max_grad_norm
        if lora_layers(self._trainer.model):
            self._edit_adapter(("alpha", "dropout"))
        self._edit_own(self._setters)
        self.install()


def _warming(multiplier: Callable[[float], float], since: int, steps: int) -> Callable[[float], float]:
    """`multiplier`, rising to its own over `steps` steps after `since`."""
    return lambda at: multiplier(at) * _warmth(at, since, steps)


def _warmth(at: float, since: int, steps: int) -> float:
    """The share of its rate that an optimizer has which was fresh at `since`."""
    return min(1.0, (at - since + 1) / (steps + 1))


def _touches(names: list[str]) -> bool:
    return bool(_HORIZON & set(names)) or "schedule" in names or "warmup_steps" in names


def _resolved(changes: Mapping[str, Any]) -> set[str]:
    return {ALIASES.get(key, key) for key in changes}


def hf_lambda(shape: AnySchedule, warmup: int, total: int, args: Any) -> Callable[[float], float]:
    """transformers' own multiplier for a schedule, as a function of the steps done; `args` say what `trainer` is.

    Raises what transformers raises where `lr_scheduler_kwargs` do not fit.
    """
    from transformers import get_scheduler

    own = shape == "trainer"
    throwaway = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate if own else 1.0)
    scheduler = get_scheduler(
        args.lr_scheduler_type if own else HF_SCHEDULES[shape],
        throwaway,
        num_warmup_steps=warmup,
        num_training_steps=total,
        scheduler_specific_kwargs=(args.lr_scheduler_kwargs or {}) if own else {},
    )
    multiplier: Callable[[float], float] = scheduler.lr_lambdas[0]
    return multiplier
