"""The hyperparameters of an attached trainer of TRL's: its method's live fields, and the schedule it was built with."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .hyperparameters import (
    AnySchedule,
    DpoHyperparameters,
    GrpoHyperparameters,
    Hyperparameters,
    KtoHyperparameters,
    RewardHyperparameters,
    RlooHyperparameters,
    _fixed,
    _live,
)


def _shape() -> Any:
    return Field("linear", description="How the learning rate falls after the warm-up", json_schema_extra=_live())


def _no_timeout() -> Any:
    return Field(60.0, description="The reward functions are the trainer's own", json_schema_extra=_fixed("seconds"))


class AttachedDpo(DpoHyperparameters):
    """Those of a `DPOTrainer` that the user built."""

    schedule: AnySchedule = _shape()  # type: ignore[assignment]


class AttachedKto(KtoHyperparameters):
    """Those of a `KTOTrainer`."""

    schedule: AnySchedule = _shape()  # type: ignore[assignment]


class AttachedReward(RewardHyperparameters):
    """Those of a `RewardTrainer`."""

    schedule: AnySchedule = _shape()  # type: ignore[assignment]


class AttachedGrpo(GrpoHyperparameters):
    """Those of a `GRPOTrainer`; nothing bounds the time that its rewards take."""

    schedule: AnySchedule = _shape()  # type: ignore[assignment]
    reward_timeout: float = _no_timeout()


class AttachedRloo(RlooHyperparameters):
    """Those of an `RLOOTrainer`; nothing bounds the time that its rewards take."""

    schedule: AnySchedule = _shape()  # type: ignore[assignment]
    reward_timeout: float = _no_timeout()


ATTACHED: dict[str, type[Hyperparameters]] = {
    "dpo": AttachedDpo,
    "kto": AttachedKto,
    "reward": AttachedReward,
    "grpo": AttachedGrpo,
    "rloo": AttachedRloo,
}
"""By the method that the trainer is of."""
OWN_METHOD = "own_method"
"""Where the `trainer:` of an attached run's recipe says which that is."""
