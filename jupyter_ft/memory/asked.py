"""A recipe and the lengths of its rows, as the work of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jupyter_ft.hyperparameters import REWARDED, PolicyHyperparameters
from jupyter_ft.recipe import Recipe

from .shape import Shape
from .work import Head, Work

PAIRED = ("dpo", "reward")
"""Methods that see a row twice, with each of two answers."""
REFERENCE = ("dpo", "kto")
ESTIMATED = ("sft", "cpt", "dpo", "kto", "reward", "classification", *REWARDED)
"""Methods whose steps the formulas know."""
REPLY = 256  # tokens, as chat has it where nothing else is asked
UNTRAINED = -100


@dataclass(frozen=True)
class Lengths:
    """Of the longest row as the model sees it: its tokens, and those that are scored; whether all rows are as long."""

    longest: int
    trained: int
    even: bool = False


@dataclass(frozen=True)
class Machine:
    """Where it is to run: the kind of device, what it is called, bytes free on it, and whether it has Triton.

    `plain` are the bytes of a number of the base there; `here`: it is this machine's.
    """

    kind: str
    name: str
    free: int
    triton: bool
    plain: int
    here: bool = True


def lengths_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Lengths, int]:
    """The lengths of rendered rows, of whatever method, and which of them is the longest."""
    all_of = [_length(row) for row in rows]
    at = max(range(len(all_of)), key=all_of.__getitem__)
    longest, trained = all_of[at]
    return Lengths(longest, trained, even=all(one[0] == longest for one in all_of)), at


def _length(row: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens and trained tokens of a row."""
    if "input_ids" in row:
        labels = row.get("labels")
        scored = sum(label != UNTRAINED for label in labels) if isinstance(labels, Sequence) else 0
        return len(row["input_ids"]), scored
    answers = [len(row[name]) for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in row]
    answer = max(answers, default=0)
    return len(row.get("prompt_ids", ())) + answer, answer


def work_of(recipe: Recipe, shape: Shape, lengths: Lengths, machine: Machine, labels: int = 0) -> Work:
    """What a step of `recipe` is asked to do, on `machine`, with rows of `lengths`."""
    live, adapter = recipe.hyperparameters, recipe.adapter
    scores = recipe.method in ("classification", "reward")
    length = min(lengths.longest, recipe.max_length, shape.longest or recipe.max_length)
    own = recipe.method in ("sft", "cpt") and recipe.loss_head == "auto" and recipe.dtype != "float16"
    guesses = recipe.method == "cpt" and not shape.speaks
    head: Head = "score" if scores else "masks" if guesses else "triton" if machine.triton else "ours" if own else "trl"
    passed = recipe.trainer
    answer = live.max_completion_length if isinstance(live, PolicyHyperparameters) else 0
    made = live.geometry.steps * live.batch_size if isinstance(live, PolicyHyperparameters) else 0
    if answer:
        length = min(length + answer, shape.longest or length + answer)
    return Work(
        rows=live.batch_size * (2 if recipe.method in PAIRED else 1),
        length=length,
        trained=min(answer or lengths.trained, length),
        made=made,
        plain=machine.plain,
        compute=machine.plain,
        adapter="full" if adapter.kind == "full" else "lora",
        r=adapter.r,
        targets=adapter.targets,
        dora=str(adapter.kind) == "dora",
        dropout=live.dropout > 0,
        quantization=getattr(recipe, "quantization", "none"),
        optimizer=str(passed.get("optim", "adamw_torch_fused")),
        head=head,
        labels=max(labels, 1) if scores else 0,
        reference=recipe.method in REFERENCE or bool(made and recipe.start_from and getattr(live, "beta", 0)),
        accumulated=live.accumulation > 1,
        masked=bool(recipe.packing)
        or not (lengths.even or live.batch_size == 1)
        or recipe.method in PAIRED
        or made > 0,
        checkpointing=bool(passed.get("activation_checkpointing") or passed.get("gradient_checkpointing")),
        offloaded=bool(passed.get("activation_offloading")),
        device=machine.kind,
        own_dropout=recipe.method != "reward" or not passed.get("disable_dropout", True),
        reply=min(recipe.max_length + REPLY, shape.longest or 10**9),
    )


def some_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """In the place of rewards that are not told: what a step takes is the same."""
    return [0.0] * len(completions)
