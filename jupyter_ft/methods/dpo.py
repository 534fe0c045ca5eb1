"""Direct preference optimisation (arXiv 2305.18290): TRL's `DPOTrainer` on choices between two answers.

The reference is what the run began with: TRL copies the adapter that it is given, or loads the base once more.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from trl import DPOConfig, DPOTrainer

from ..data import render_pairs
from ..hyperparameters import DpoHyperparameters
from ..recipe import Recipe
from ..weights import begin_with
from .method import Method, arguments, attribute, dataset, trainer_of

_SAMPLE = {"prompt": "a", "chosen": "b", "rejected": "c"}  # TRL tokenises what it is built with


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> DPOTrainer:
    """A trainer over `rows` (`prompt_ids`, `chosen_ids`, `rejected_ids`) that has not begun.

    Raises `RecipeError` where TRL does not take what is under `trainer:`.
    """
    live = recipe.hyperparameters
    assert isinstance(live, DpoHyperparameters)
    own = {"max_length": recipe.max_length, "beta": live.beta, "label_smoothing": live.label_smoothing}
    config = arguments(DPOConfig, recipe, folder, model, **own)
    return against_reference(DPOTrainer, config, model, tokenizer, rows, sample=_SAMPLE, recipe=recipe, **more)


def against_reference(
    kind: type,
    config: Any,
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    sample: dict[str, Any],
    recipe: Recipe,
    held_out: Any = None,
    start: Path | None = None,
) -> Any:
    """A trainer of TRL's `kind` that compares with a reference, over `rows` as they are.

    TRL tokenises what it is built with, which is `sample`. The reference is a copy of the adapter, made by TRL under
    the same base; for full weights it is given.
    """
    full = recipe.adapter.kind == "full"
    ref_model = reference(model, start) if full else None
    trainer = trainer_of(kind, config, model, tokenizer, [sample], recipe=recipe, start=start, ref_model=ref_model)
    trainer.train_dataset = dataset(rows)
    trainer.eval_dataset = dataset(held_out) if held_out is not None else None
    return trainer


def reference(model: Any, start: Path | None) -> Any:
    """The base, or where the run starts from other full weights, a copy of it with those."""
    if start is None:
        return model
    reference = copy.deepcopy(model)
    begin_with(reference, start)
    return reference


METHOD = Method(
    render=render_pairs,
    build=build,
    headline=("loss", "rewards/margins", "rewards/accuracies"),
    live={name: attribute(name) for name in ("beta", "label_smoothing")},
)
