"""What may change mid-run: `Hyperparameters`, and those of each method.

The metadata of each field (unit, bounds, scale, help) drives validation, the panel's controls, completion and the docs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Schedule = Literal["linear", "cosine", "constant"]
AnySchedule = Literal["linear", "cosine", "constant", "trainer"]
"""`trainer`: the shape that an attached trainer was built with."""


def _live(unit: str = "", scale: str = "linear", **more: Any) -> dict[str, Any]:
    return {"unit": unit, "scale": scale, "live": True, **more}


class Part(BaseModel):
    """What every part of a recipe is: frozen, of known keys, of finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hyperparameters(Part):
    """What may change mid-run; each field takes effect at the next optimizer step."""

    FULL_RATE: ClassVar[float | None] = None  # the learning rate of full weights, where it is another

    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="Step size of the optimizer",
        json_schema_extra=_live(scale="log", low=1e-6, high=1e-2),
    )
    schedule: AnySchedule = Field(
        "linear", description="How the learning rate falls after the warm-up", json_schema_extra=_live()
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        le=10**6,
        description="Steps over which the learning rate rises",
        json_schema_extra=_live("steps", high=100),
    )
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="Decoupled weight decay (AdamW)", json_schema_extra=_live(high=0.3)
    )
    max_grad_norm: float = Field(
        1.0, ge=0, le=1e6, description="Gradients are clipped to this norm; 0: never", json_schema_extra=_live(high=10)
    )
    batch_size: int = Field(
        8, ge=1, le=65536, description="Rows in a micro-batch, per device", json_schema_extra=_live("rows", high=64)
    )
    accumulation: int = Field(
        1, ge=1, le=65536, description="Micro-batches in an optimizer step", json_schema_extra=_live("batches", high=64)
    )
    epochs: float = Field(
        1.0, gt=0, le=10**6, description="Passes over the data", json_schema_extra=_live("epochs", high=20)
    )
    max_steps: int | None = Field(
        None, ge=1, le=10**9, description="Optimizer steps in all; overrides epochs", json_schema_extra=_live("steps")
    )
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Steps between checkpoints; none: every 60 s or 10 % of the run, whichever is first",
        json_schema_extra=_live("steps"),
    )
    snapshot_steps: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Steps between snapshots of the adapter, to be visited; none: about 50 in the run",
        json_schema_extra=_live("steps"),
    )
    eval_steps: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Steps between evaluations on the held-out rows; none: ten in the run",
        json_schema_extra=_live("steps"),
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="Evaluations in a row without a better eval_loss (best_metric) that end the run; none: never",
        json_schema_extra=_live("evaluations", high=20),
    )
    probe_steps: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Steps between the answers to the probes; none: ten in the run",
        json_schema_extra=_live("steps"),
    )
    alpha: float = Field(
        32.0,
        gt=0,
        le=10**4,
        description="Scale of the adapter: its update is multiplied by alpha / r",
        json_schema_extra=_live(scale="log", low=1, high=256),
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the adapter's input", json_schema_extra=_live(high=0.5)
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object) -> object:
        if isinstance(value, bool):  # pydantic would take it for 1 or 0
            raise ValueError("a number, not true or false")
        return value


class OwnHyperparameters(Hyperparameters):
    """Those of a run whose trainer we build: it has no other schedules than ours."""

    schedule: Schedule = Field(
        "linear", description="How the learning rate falls after the warm-up", json_schema_extra=_live()
    )


class SftHyperparameters(OwnHyperparameters):
    """Supervised tuning has no live fields of its own."""


class DpoHyperparameters(OwnHyperparameters):
    """Those of direct preference optimisation (arXiv 2305.18290)."""

    learning_rate: float = Field(
        5e-5,
        gt=0,
        le=1,
        description="Step size of the optimizer",
        json_schema_extra=_live(scale="log", low=1e-7, high=1e-3),
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="How closely the answers stay to the reference's (equation 7); larger: closer",
        json_schema_extra=_live(scale="log", low=0.01, high=1),
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of the choices taken to be wrong", json_schema_extra=_live(high=0.4)
    )


class KtoHyperparameters(OwnHyperparameters):
    """Those of Kahneman-Tversky optimisation (arXiv 2402.01306)."""

    learning_rate: float = Field(
        5e-5,
        gt=0,
        le=1,
        description="Step size of the optimizer",
        json_schema_extra=_live(scale="log", low=1e-7, high=1e-3),
    )
    batch_size: int = Field(
        8,
        ge=2,
        le=65536,
        description="Rows in a micro-batch, per device; two at least, since each prompt also meets another's answer",
        json_schema_extra=_live("rows", high=64),
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="How closely the answers stay to the reference's (equation 7); larger: closer",
        json_schema_extra=_live(scale="log", low=0.01, high=1),
    )
    desirable_weight: float = Field(
        1.0, ge=0, le=1000, description="Weight of the good answers in the loss", json_schema_extra=_live(high=4)
    )
    undesirable_weight: float = Field(
        1.0, ge=0, le=1000, description="Weight of the bad answers in the loss", json_schema_extra=_live(high=4)
    )


class CptHyperparameters(OwnHyperparameters):
    """Continued pre-training has no live fields of its own."""


class ClassificationHyperparameters(OwnHyperparameters):
    """Those of classification. With full weights the learning rate is `FULL_RATE` where none is given."""

    FULL_RATE: ClassVar[float | None] = 2e-5
    epochs: float = Field(
        3.0, gt=0, le=10**6, description="Passes over the data", json_schema_extra=_live("epochs", high=20)
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of a row's label that is spread over all labels (arXiv 1512.00567)",
        json_schema_extra=_live(high=0.4),
    )


class RewardHyperparameters(OwnHyperparameters):
    """Those of a reward model. With full weights the learning rate is `FULL_RATE` where none is given."""

    FULL_RATE: ClassVar[float | None] = 1e-5
    center_rewards_coefficient: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Pull of the two scores' sum towards 0 (arXiv 2312.09244, equation 2); 0: none, 0.01 is usual",
        json_schema_extra=_live(high=0.1),
    )


HF_SCHEDULES: dict[AnySchedule, str] = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
"""Our words for a schedule, and transformers'."""

METHODS: dict[str, type[Hyperparameters]] = {
    "sft": SftHyperparameters,
    "dpo": DpoHyperparameters,
    "kto": KtoHyperparameters,
    "cpt": CptHyperparameters,
    "reward": RewardHyperparameters,
    "classification": ClassificationHyperparameters,
    "attached": Hyperparameters,
}
METHOD_WORDS = {
    "supervised": "sft",
    "preference": "dpo",
    "self-supervised": "cpt",
    "reward-model": "reward",
    "classify": "classification",
    "sentiment": "classification",
}
ANSWERED = ("sft", "dpo")
"""Methods whose held-out rows have an answer that others can be compared with."""
PACKED = ("sft",)
"""Methods whose short rows may be put into one."""
