"""What a run is asked to be: a `Recipe`, frozen at the start, and the `Hyperparameters` inside it, live to the end."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, JsonValue, PrivateAttr, ValidationError, field_validator

from .attached_fields import ATTACHED, OWN_METHOD
from .complaints import complaint
from .errors import RecipeError, nearest_or_all
from .hyperparameters import (
    METHOD_WORDS,
    METHODS,
    REWARDED,
    Hyperparameters,
    Part,
    SftHyperparameters,
)
from .names import ALIASES as ALIASES  # noqa: PLC0414 - who reads a recipe resolves them
from .names import check_trainer_keys
from .optimizers import optimizer
from .quantization import OTHERS, SAID, WORDS, Quantization, quantization_word, without_qlora
from .together import check_together


class Adapter(Part):
    """What is trained: a low-rank adapter (LoRA, arXiv 2106.09685), `W + (alpha / r) B A` on each target layer, or
    with `full` every weight of a copy of the base. `alpha` and `dropout` are live, see `Hyperparameters`.

    `rslora` divides by the root of `r` (arXiv 2312.03732), so that a high rank learns as fast as a low one; `dora`
    trains the length of each row of the sum besides (arXiv 2402.09353)."""

    kind: Literal["lora", "rslora", "dora", "full"] = Field(
        "lora",
        description="lora: beside the frozen base; rslora: scaled for high ranks; dora: lengths and directions apart; "
        "full: every weight; qlora is lora with quantization: nf4",
    )
    r: int = Field(16, ge=1, le=1024, description="Rank")
    targets: str | tuple[str, ...] = Field("all-linear", description="Layers by name, or all-linear")


MOST_PROBES = 20


class Recipe(Part):
    """Everything that a run is asked to be. `hyperparameters` are the values at the start."""

    method: Literal["sft", "dpo", "kto", "cpt", "reward", "classification", "grpo", "rloo", "attached"] = Field(
        "sft",
        description="How it learns: sft (or: supervised) from answers, dpo (or: preference) from choices between two, "
        "kto from answers rated one by one, cpt (or: self-supervised) from raw text, reward to score answers from "
        "choices between two, classification (or: sentiment) from texts with labels, grpo or rloo from rewards for "
        "answers of its own; "
        "attached: a trainer that the user built",
    )
    model: str = Field("demo", min_length=1, description="demo, a local folder, or a hub id")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model")
    data: str = Field("", description="Where the rows came from")
    start_from: str | None = Field(None, description="Weights of another run to go on from: RUN, RUN@best or RUN@STEP")
    columns: dict[str, str] = Field(default_factory=dict, description="Our column names mapped to theirs")
    held_out: float | str | None = Field(
        None, description="Rows kept apart to evaluate on: a share (0.1 or 10%), a number of rows, or a file"
    )
    probes: int | str | tuple[str, ...] | None = Field(
        None, description="Answered along the run: a list of prompts, a file of them, or so many held-out rows' prompts"
    )
    metrics: tuple[str, ...] = Field((), description="Of answers to held-out rows: exact_match, token_f1, functions")
    metric_rows: int = Field(32, ge=1, le=10**5, description="Held-out rows that are answered for metrics")
    best_metric: str = Field("eval_loss", description="What best is told by; max or min may precede its name")
    rewards: tuple[str, ...] = Field(
        (), description="What answers are rewarded by: functions of the notebook, or reward runs (RUN, RUN@best)"
    )
    system: str | None = Field(None, description="Precedes every row and chat that has none")
    adapter: Adapter = Field(
        default_factory=Adapter,
        description="lora, qlora, rslora, dora, full, or a mapping: {kind, r, alpha, dropout, targets}",
    )
    quantization: Quantization = Field(
        "none", description="Of the frozen base: nf4 (or: 4bit), int8 (or: 8bit), or none"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the base")
    max_length: int = Field(1024, ge=8, le=10**6, description="Longer rows are cut; in tokens")
    packing: bool = Field(False, description="Put several short rows into one, each attending to itself alone")
    disk_budget: int = Field(
        2 * 10**9, ge=1, description="Bytes that its snapshots (not checkpoints) may take: 2 GB or 500 MB"
    )
    loss_head: Literal["auto", "trl"] = Field(
        "auto", description="auto: score the trained tokens alone where that is faster; trl: as TRL does"
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Decides data order and initial adapter")
    record_chats: bool = Field(True, description="Keep chats in the saved notebook")
    trainer: dict[str, JsonValue] = Field(default_factory=dict, description="Passed on to TRL's config as it is")
    hyperparameters: Annotated[Hyperparameters, Field(default_factory=SftHyperparameters)]

    _functions: dict[str, Callable[..., Any]] = PrivateAttr(default_factory=dict)

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The user's own behind names in `metrics`; they are of this kernel and no part of what is written down."""
        return self._functions

    def with_functions(self, functions: Mapping[str, Callable[..., Any]]) -> Recipe:
        """The same, with these."""
        copy = self.model_copy()
        copy._functions = dict(functions)
        return copy

    LIVE: ClassVar[frozenset[str]] = frozenset(Hyperparameters.model_fields)

    @property
    def trains(self) -> str:
        """What is trained, and over what, in a few words."""
        if self.adapter.kind == "full":
            return "every weight, in float32"
        over = "" if self.quantization == "none" else f" over a {SAID[self.quantization]} base"
        return f"{_KINDS[self.adapter.kind]} r={self.adapter.r}{over}"

    @field_validator("held_out", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        if isinstance(value, str) and value.strip().endswith("%"):
            with suppress(ValueError):
                value = float(value.strip()[:-1]) / 100
                value = value if value < 1 else math.nan  # 200% is no two rows
        wrong = isinstance(value, bool) or (isinstance(value, str) and not value.strip())
        if isinstance(value, int | float) and not (0 < value < 1 or (value >= 1 and value == int(value))):
            wrong = True
        if wrong:
            raise ValueError("a share like 0.1 or 10%, a number of rows, or a file")
        return value

    @field_validator("disk_budget", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        match = re.fullmatch(r"\s*([\d.]+)\s*([kMGT]?)i?B?\s*", value) if isinstance(value, str) else None
        if match is None and not isinstance(value, int):
            raise ValueError("a size like 2 GB or 500 MB")
        return round(float(match[1]) * 1000 ** " kMGT".index(match[2] or " ")) if match else value

    @field_validator("trainer", mode="before")
    @classmethod
    def _optimizer_word(cls, value: object) -> object:
        return {**value, "optim": optimizer(value["optim"])} if isinstance(value, dict) and "optim" in value else value

    @field_validator("quantization", mode="before")
    @classmethod
    def _quantization_word(cls, value: object) -> object:
        return quantization_word(value)

    @field_validator("probes", mode="before")
    @classmethod
    def _some_prompts(cls, value: object) -> object:
        prompts = list(value) if isinstance(value, list | tuple) else ["named"]
        count = value if isinstance(value, int) else len(prompts)
        empty = value == "" or any(not isinstance(one, str) or not one.strip() for one in prompts)
        if isinstance(value, bool | float) or empty or not 1 <= count <= MOST_PROBES:
            raise ValueError(f"a list of prompts, a file, or a number of held-out rows, {MOST_PROBES} at most")
        return value

    @field_validator("metrics", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("best_metric")
    @classmethod
    def _directed(cls, value: str) -> str:
        *way, name = value.split() or [""]
        if way not in ([], ["max"], ["min"]) or not name:
            raise ValueError("a metric's name, like eval_token_f1 or: min eval_wer")
        return " ".join([*way, name if name.startswith("eval_") else f"eval_{name}"])

    @field_validator("rewards", mode="before")
    @classmethod
    def _one_reward(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("adapter", mode="before")
    @classmethod
    def _adapter_word(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value


_FIXED = [name for name in Recipe.model_fields if name != "hyperparameters"]
FIXED_NAMES = frozenset(_FIXED)
SHAPE = frozenset({"adapter", "model", "revision", "dtype", "quantization"})
"""Fixed settings that weights of another value do not fit into: a fork cannot change them."""
_CHOICES = {
    "method": list(METHOD_WORDS),
    "adapter.kind": ["qlora"],
    "quantization": [known for known in WORDS if isinstance(known, str)],
}
_KINDS = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA"}
_MAPPINGS = {
    "columns": "a mapping of our column names to yours, like {prompt: Question, completion: Answer}",
    "adapter": "lora, qlora, rslora, dora, full, or a mapping like {kind: lora, r: 16}",
    "metrics": "a list of names like [exact_match, token_f1]",
    "trainer": "a mapping of TRL's own settings, like {optim: adamw_torch}",
    "rewards": "a name, a list of names, or a mapping of names to weights like {brevity: 0.5, judge@best: 1}",
}


def parse_recipe(asked: Mapping[str, Any]) -> Recipe:
    """The recipe for flat or dotted keys; aliases are resolved.

    Raises `RecipeError`, one line, for an unknown key, a wrong type or a value out of range.
    """
    fixed: dict[str, Any] = {}
    asked = lift(asked)
    _refuse_twice(asked)
    for key, value in asked.items():
        _put(fixed, ALIASES.get(key, key), as_plain(value))
    method = fixed.get("method", "sft")
    fixed["method"] = METHOD_WORDS.get(method, method) if isinstance(method, str) else method
    live_model = _live_model(str(fixed["method"]), fixed.get("trainer"))
    for key in fixed:
        if key not in FIXED_NAMES and key not in live_model.model_fields:
            known = [*_FIXED, *live_model.model_fields]
            if key in OTHERS:
                raise RecipeError(f"unknown key '{key}'; write {OTHERS[key]}")
            raise RecipeError(f"unknown key '{key}'{nearest_or_all(key, [*known, *ALIASES], known)}")
    check_trainer_keys(fixed.get("trainer"))
    live = _weighted(fixed) | {key: fixed.pop(key) for key in list(fixed) if key in live_model.model_fields}
    if live_model.FULL_RATE is not None and _kind(fixed.get("adapter")) == "full":
        live = {"learning_rate": live_model.FULL_RATE} | live
    try:
        hyperparameters = live_model.model_validate(live)
        recipe = Recipe.model_validate({**fixed, "hyperparameters": hyperparameters})
    except ValidationError as error:
        raise RecipeError(first_complaint(error)) from None
    check_together(recipe)
    return recipe


def _live_model(method: str, passed: Any) -> type[Hyperparameters]:
    if method == "attached" and isinstance(passed, Mapping) and passed.get(OWN_METHOD) in ATTACHED:
        return ATTACHED[passed[OWN_METHOD]]
    return METHODS.get(method, Hyperparameters)


def lift(asked: Mapping[str, Any]) -> dict[str, Any]:
    """`asked` with what an `adapter:` mapping says of live fields (alpha, dropout) beside it, under dotted names.

    `qlora` is written as what it is. Raises `RecipeError` where that does not go with another key.
    """
    asked = without_qlora(asked)
    adapter = asked.get("adapter")
    if not isinstance(adapter, Mapping):
        return asked
    lifted = {f"adapter.{key}": adapter[key] for key in ("alpha", "dropout") if key in adapter}
    return {**asked, "adapter": {k: v for k, v in adapter.items() if f"adapter.{k}" not in lifted}, **lifted}


def _weighted(fixed: dict[str, Any]) -> dict[str, Any]:
    """The weights that `rewards` gives, as a mapping or by its length; only the names stay in it."""
    rewards = fixed.get("rewards")
    if fixed["method"] not in REWARDED or not isinstance(rewards, str | list | tuple | Mapping):
        return {}
    names = [rewards] if isinstance(rewards, str) else list(rewards)
    weights = list(rewards.values()) if isinstance(rewards, Mapping) else [1.0] * len(names)
    if isinstance(rewards, Mapping) and fixed.get("reward_weights"):
        raise RecipeError("reward_weights: rewards has weights already; keep one of the two")
    fixed["rewards"] = names
    return {"reward_weights": weights}


def _kind(adapter: Any) -> Any:
    return adapter.get("kind") if isinstance(adapter, Mapping) else adapter


def _refuse_twice(asked: Mapping[str, Any]) -> None:
    names: dict[str, str] = {}
    passed = asked.get("trainer")
    for key in [*asked, *(f"trainer.{name}" for name in (passed if isinstance(passed, Mapping) else ()))]:
        other = names.setdefault(ALIASES.get(key, key), key)
        if other != key:
            raise RecipeError(f"{other} and {key} are the same setting; keep one")


def as_plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _put(into: dict[str, Any], dotted: str, value: Any) -> None:
    head, _, rest = dotted.partition(".")
    if not rest:
        if isinstance(into.get(head), dict) and isinstance(value, str):
            value = {"kind": value, **into[head]}  # `adapter: lora` beside `adapter.r: 8`
        elif isinstance(into.get(head), dict) and isinstance(value, dict):
            value = {**value, **into[head]}
        into[head] = inner_aliases(value) if head == "adapter" else value
        return
    inner = into.get(head)
    if isinstance(inner, str):
        inner = {"kind": inner}
    inner = dict(inner) if isinstance(inner, Mapping) else {}
    _put(inner, rest, value)
    into[head] = inner


def inner_aliases(value: Any) -> Any:
    """What is said of an adapter, under its own names."""
    return {"r" if key == "rank" else key: v for key, v in value.items()} if isinstance(value, Mapping) else value


def change(now: Hyperparameters, changes: Mapping[str, Any]) -> Hyperparameters:
    """`now` with `changes` (aliases allowed), checked.

    Raises `RecipeError` for an unknown key, a key that is fixed for the length of a run, or a bad value.
    """
    live = type(now).model_fields
    resolved: dict[str, Any] = {}
    _refuse_twice(changes)
    for key, value in changes.items():
        name = ALIASES.get(key, key)
        if name not in live:
            if name.partition(".")[0] in FIXED_NAMES:
                anew = name.partition(".")[0] in SHAPE - {"adapter"}
                how = "start a new run with it" if anew else f"%ft fork has it: {key}=…"
                raise RecipeError(f"'{name}' is fixed once a run has started; {how}")
            raise RecipeError(f"unknown key '{key}'{nearest_or_all(key, [*live, *ALIASES], live)}")
        resolved[name] = as_plain(value)
    try:
        new = type(now).model_validate({**now.model_dump(), **resolved})
    except ValidationError as error:
        raise RecipeError(first_complaint(error)) from None
    for name in resolved:
        if reason := now.forbids(name, getattr(new, name)):
            raise RecipeError(reason)
    return new


def first_complaint(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as one line: where, what was given, what is wanted."""
    return complaint(error, _known_beside, _MAPPINGS, _CHOICES)


def _known_beside(where: str) -> list[str]:
    return [*Adapter.model_fields, "alpha", "dropout"] if where.startswith("adapter.") else _FIXED


def controls(hyperparameters: Hyperparameters, recipe: Recipe | None = None) -> list[dict[str, JsonValue]]:
    """The live fields as the panel and completion need them: name, type, bounds, unit, scale, help, value now.

    Of a run of `recipe`, those that it has: no adapter's with full weights, no evaluation's with nothing held out.
    """
    absent: set[str] = set()
    if recipe is not None and recipe.adapter.kind == "full":
        absent |= {"alpha", "dropout"}
    if recipe is not None and recipe.held_out is None:
        absent |= {"eval_steps", "early_stopping_patience"}
    if recipe is not None and recipe.probes is None:
        absent |= {"probe_steps"}
    schema = type(hyperparameters).model_json_schema()["properties"]
    values = hyperparameters.model_dump()
    fields: list[dict[str, JsonValue]] = []
    for name, entry in schema.items():
        if name in absent or not entry.get("live", True):
            continue
        kinds = [entry, *entry.get("anyOf", [])]
        kind = next((k["type"] for k in kinds if k.get("type") not in (None, "null")), "string")
        value = values[name]
        if kind == "array":  # weights, which are typed in as a text
            kind, value = "string", ", ".join(f"{one:g}" for one in value)
        bounds = {k: v for one in kinds for k, v in one.items() if k in ("minimum", "exclusiveMinimum", "maximum")}
        field: dict[str, Any] = {
            "name": name,
            "type": "choice" if "enum" in entry else kind,
            "choices": entry.get("enum", []),
            "optional": any(k.get("type") == "null" for k in kinds),
            "help": entry.get("description", ""),
            "unit": entry.get("unit", ""),
            "scale": entry.get("scale", "linear"),
            "min": entry.get("low", bounds.get("minimum", bounds.get("exclusiveMinimum"))),
            "max": entry.get("high", bounds.get("maximum")),
            "value": value,
        }
        fields.append(cast(dict[str, JsonValue], field))
    return fields
