"""What may change mid-run: `Hyperparameters`, and those of each method.

The metadata of each field (unit, bounds, scale, help) drives validation, the panel's controls, completion and the docs.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .geometry import Geometry

Schedule = Literal["linear", "cosine", "constant"]
AnySchedule = Literal["linear", "cosine", "constant", "trainer"]
"""`trainer`: the shape that an attached trainer was built with."""


def _live(unit: str = "", scale: str = "linear", **more: Any) -> dict[str, Any]:
    return {"unit": unit, "scale": scale, "live": True, **more}


def _fixed(unit: str = "") -> dict[str, Any]:
    """Of a field that a method cannot change while a run lives."""
    return {"unit": unit, "live": False}


class Part(BaseModel):
    """What every part of a recipe is: frozen, of known keys, of finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hyperparameters(Part):
    """What may change mid-run; each field takes effect at the next optimizer step."""

    FULL_RATE: ClassVar[float | None] = None  # the learning rate of full weights, where it is another
    AT_GENERATION: ClassVar[frozenset[str]] = frozenset()  # fields that wait for the next completions to be made

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
        description="Steps between snapshots of the adapter, to be visited; none: a round number, for about 50 in all",
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

    def wrong_together(self) -> str:
        """What is wrong with these values together, and the fix; empty where nothing is."""
        return ""

    def forbids(self, name: str, value: Any) -> str:
        """Why `name` cannot become `value` while a run lives; empty where it can."""
        extra = type(self).model_fields[name].json_schema_extra
        if isinstance(extra, dict) and extra.get("live") is False:
            return f"'{name}' is fixed once a run has started: {self.WHY_FIXED}; start a new run with the new value"
        return ""

    WHY_FIXED: ClassVar[str] = "its trainer is built with it"

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


class PreferenceHyperparameters(OwnHyperparameters):
    """Those of tuning that is held to a reference: small steps, and how strongly it is held."""

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


class DpoHyperparameters(PreferenceHyperparameters):
    """Those of direct preference optimisation (arXiv 2305.18290)."""

    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of the choices taken to be wrong", json_schema_extra=_live(high=0.4)
    )


class KtoHyperparameters(PreferenceHyperparameters):
    """Those of Kahneman-Tversky optimisation (arXiv 2402.01306)."""

    batch_size: int = Field(
        8,
        ge=2,
        le=65536,
        description="Rows in a micro-batch, per device; two at least, since each prompt also meets another's answer",
        json_schema_extra=_live("rows", high=64),
    )
    desirable_weight: float = Field(
        1.0, ge=0, le=1000, description="Weight of the good answers in the loss", json_schema_extra=_live(high=4)
    )
    undesirable_weight: float = Field(
        1.0, ge=0, le=1000, description="Weight of the bad answers in the loss", json_schema_extra=_live(high=4)
    )


class CptHyperparameters(OwnHyperparameters):
    """Those of continued pre-training. With full weights the learning rate is `FULL_RATE` where none is given."""

    FULL_RATE: ClassVar[float | None] = 5e-5
    mask_share: float = Field(
        0.15,
        gt=0,
        le=0.8,
        description="Share of the tokens that an encoder has to guess (arXiv 1810.04805, 3.1); no other model has it",
        json_schema_extra=_live(low=0.05, high=0.5),
    )


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


class PolicyHyperparameters(OwnHyperparameters):
    """Those of the methods that learn from rewards for answers of their own (grpo and rloo).

    The defaults are for a small card: two prompts an update, eight answers to each of at most 128 tokens.
    """

    FULL_RATE: ClassVar[float | None] = 1e-6
    AT_GENERATION: ClassVar[frozenset[str]] = frozenset({"temperature", "reward_weights"})
    WHY_FIXED: ClassVar[str] = "how many answers are made at once, and how long they get, decides the order of the rows"

    learning_rate: float = Field(
        1e-5,
        gt=0,
        le=1,
        description="Step size of the optimizer",
        json_schema_extra=_live(scale="log", low=1e-7, high=1e-3),
    )
    batch_size: int = Field(
        8, ge=1, le=65536, description="Answers in a micro-batch, per device", json_schema_extra=_fixed("answers")
    )
    accumulation: int = Field(
        2, ge=1, le=65536, description="Micro-batches in an optimizer step", json_schema_extra=_fixed("batches")
    )
    num_generations: int = Field(
        8, ge=2, le=65536, description="Answers to each prompt, compared with each other", json_schema_extra=_fixed()
    )
    steps_per_generation: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="Micro-batches of answers that are made at once; none: those of an optimizer step",
        json_schema_extra=_fixed("batches"),
    )
    num_iterations: int = Field(
        1, ge=1, le=1000, description="How often the same answers are learned from", json_schema_extra=_fixed()
    )
    max_completion_length: int = Field(
        128, ge=1, le=10**6, description="Longer answers are broken off; in tokens", json_schema_extra=_fixed("tokens")
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Of the sampling of answers, from the next ones on; lower: more alike",
        json_schema_extra=_live(low=0.1, high=2),
    )
    reward_weights: tuple[float, ...] = Field(
        (), description="Weight of each reward in the sum, in their order", json_schema_extra=_live()
    )
    reward_timeout: float = Field(
        60.0,
        gt=0,
        le=10**6,
        description="Seconds that a reward function may take for the answers of one generation",
        json_schema_extra=_live("seconds", high=600),
    )
    epsilon: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="How far an update may move the chance of an answer before its gradient is cut off",
        json_schema_extra=_live(low=0.05, high=0.5),
    )

    @property
    def geometry(self) -> Geometry:
        """How many answers are made at once."""
        steps = self.steps_per_generation or self.accumulation
        return Geometry(self.batch_size, self.accumulation, steps, self.num_generations, self.num_iterations)

    def wrong_together(self) -> str:
        """That the answers of a generation are whole groups, and a step does not end in the middle of one."""
        return self.geometry.wrong()

    def forbids(self, name: str, value: Any) -> str:
        """Besides what is fixed, `beta` to or from 0: with 0 no reference is kept."""
        if name == "beta" and (value == 0) != (getattr(self, name) == 0):
            return "beta: with 0 a run keeps no reference, so there is no way to or from 0 while it lives; fork it"
        if name == "reward_weights" and len(value) != len(self.reward_weights):
            return f"reward_weights: one for each of the {len(self.reward_weights)} rewards, in their order"
        return super().forbids(name, value)

    @field_validator("reward_weights", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        """A single number is a list of one, and a text is numbers with commas between."""
        if isinstance(value, str):
            value = [part for part in value.strip("[]() ").replace(",", " ").split() if part]
        return [value] if isinstance(value, int | float) else value


class GrpoHyperparameters(PolicyHyperparameters):
    """Those of group relative policy optimisation (arXiv 2402.03300); `beta` is the paper's."""

    beta: float = Field(
        0.04,
        ge=0,
        le=100,
        description="Weight of the divergence from the reference in the loss (equation 3); 0: no reference is kept",
        json_schema_extra=_live(scale="log", low=0.001, high=1),
    )


class RlooHyperparameters(PolicyHyperparameters):
    """Those of REINFORCE leave-one-out (arXiv 2402.14740); `beta` is TRL's own default."""

    AT_GENERATION: ClassVar[frozenset[str]] = PolicyHyperparameters.AT_GENERATION | {"beta"}  # it is in the rewards

    beta: float = Field(
        0.05,
        ge=0,
        le=100,
        description="Weight of the divergence from the reference in the reward; 0: no reference is kept",
        json_schema_extra=_live(scale="log", low=0.001, high=1),
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
    "grpo": GrpoHyperparameters,
    "rloo": RlooHyperparameters,
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
REWARDED = ("grpo", "rloo")
"""Methods that learn from rewards for their own answers."""
PACKED = ("sft",)
"""Methods whose short rows may be put into one."""
