"""Which of TRL's trainers an attached one is: what is live besides, and what cannot be where it generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from ..attached_fields import ATTACHED
from ..control.batches import Batches
from ..control.generations import Generations
from ..geometry import Geometry
from ..hyperparameters import REWARDED, RlooHyperparameters
from ..methods import METHODS
from ..recipe import Recipe

_KINDS = {
    "DPOTrainer": "dpo",
    "KTOTrainer": "kto",
    "RewardTrainer": "reward",
    "GRPOTrainer": "grpo",
    "RLOOTrainer": "rloo",
}
_SAME = ("num_generations", "steps_per_generation", "num_iterations", "temperature", "epsilon")
_PATTERN = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_generations",
    "num_iterations",
)


def of_trl(trainer: Any) -> type | None:
    """TRL's own class that the trainer is of, where that is one whose fields are live; found without importing TRL."""
    return next((c for c in type(trainer).__mro__ if c.__name__ in _KINDS and c.__module__.startswith("trl.")), None)


def kind_of(trainer: Any) -> str:
    """The method that it is of: a key of `ATTACHED`, or nothing."""
    made_by = of_trl(trainer)
    kind = "" if made_by is None else _KINDS[made_by.__name__]
    fused = kind not in REWARDED and getattr(trainer.args, "use_liger_kernel", False)  # it keeps its beta to itself
    return "" if fused else kind


def generates(trainer: Any) -> bool:
    """Whether it learns from answers of its own."""
    return kind_of(trainer) in REWARDED


def fields_of(trainer: Any) -> dict[str, Any]:
    """The values of its method's own fields."""
    args, kind = trainer.args, kind_of(trainer)
    if kind == "reward":
        return {"center_rewards_coefficient": args.center_rewards_coefficient or 0.0}
    if kind not in REWARDED:
        return {name: getattr(args, name) for name in METHODS[kind].live} if kind else {}
    own = {name: getattr(args, name) for name in (*_SAME, "beta")}
    # None is "no limit" to TRL; the field has to have a number, and nothing reads it
    own["max_completion_length"] = args.max_completion_length or 10**6
    return own | {"reward_weights": trainer.reward_weights.tolist()}


def live_of(recipe: Recipe) -> Mapping[str, Callable[[Any, Any], None]]:
    """What a change of those means to the trainer."""
    kind = next((kind for kind, fields in ATTACHED.items() if type(recipe.hyperparameters) is fields), None)
    own = METHODS[kind].live if kind else {}
    return {name: do for name, do in own.items() if name != "reward_timeout"}


def batches_of(trainer: Any) -> type[Batches]:
    """Where the micro-batches of its steps come from."""
    return Generations if generates(trainer) else Batches


def updates_of(trainer: Any) -> int:
    """Optimizer steps of an epoch."""
    args = trainer.args
    rows, each = len(trainer.train_dataset), int(args.per_device_train_batch_size)
    if generates(trainer):
        return geometry_of(trainer).updates(rows)
    if args.dataloader_drop_last:
        rows = rows // each * each
    return ceil(ceil(rows / each) / int(args.gradient_accumulation_steps))


def geometry_of(trainer: Any) -> Geometry:
    """How many answers are made at once."""
    return Geometry(*(getattr(trainer.args, name) for name in _PATTERN))


def unfit_to_generate(trainer: Any) -> str:
    """The first reason against a trainer that generates, or nothing."""
    if not generates(trainer):
        return ""
    args, geometry = trainer.args, geometry_of(trainer)
    reasons = {
        "use_vllm is not supported; leave it out, and transformers generates": args.use_vllm,
        "sync_ref_model moves the reference, which no checkpoint keeps; leave it out": args.sync_ref_model,
        "use_liger_kernel keeps beta and temperature to itself; leave it out": args.use_liger_kernel,
        "use_adaptive_entropy keeps a state that no checkpoint of a session has; leave it out": getattr(
            args, "use_adaptive_entropy", False
        ),
        geometry.wrong(): True,
        geometry.too_few(len(trainer.train_dataset)): True,
    }
    return next((reason for reason, holds in reasons.items() if reason and holds), "")


def decides(recipe: Recipe) -> str:
    """The metric by which a step is the best."""
    return METHODS["rloo" if isinstance(recipe.hyperparameters, RlooHyperparameters) else "grpo"].judged_by
