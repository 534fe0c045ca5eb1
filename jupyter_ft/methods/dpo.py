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
from ..weights import begin_with, to_train
from .method import Method, arguments, dataset, hush, no_telemetry

_SAMPLE = {"prompt": "a", "chosen": "b", "rejected": "c"}  # TRL tokenises what it is built with


def build(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    rows: Any,
    folder: Path,
    *,
    held_out: Any = None,
    start: Path | None = None,
) -> DPOTrainer:
    """A trainer over `rows` (`prompt_ids`, `chosen_ids`, `rejected_ids`) that has not begun.

    Raises `RecipeError` where TRL does not take what is under `trainer:`.
    """
    live = recipe.hyperparameters
    assert isinstance(live, DpoHyperparameters)
    own = {"max_length": recipe.max_length, "beta": live.beta, "label_smoothing": live.label_smoothing}
    config = arguments(DPOConfig, recipe, folder, model, **own)
    full = recipe.adapter.kind == "full"
    with no_telemetry():
        trainer = DPOTrainer(
            model=to_train(model, recipe, start),
            ref_model=reference(model, start) if full else None,  # else a copy of the adapter, under the same base
            args=config,
            train_dataset=dataset([_SAMPLE]),
            processing_class=tokenizer,
        )
    hush(trainer)
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
    live={
        "beta": lambda trainer, value: setattr(trainer, "beta", value),
        "label_smoothing": lambda trainer, value: setattr(trainer, "label_smoothing", value),
    },
)
