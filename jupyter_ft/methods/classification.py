"""Classification of texts: transformers' `Trainer` on a head that scores labels, and what an evaluation tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from ..data import render_labelled
from ..hyperparameters import ClassificationHyperparameters
from ..recipe import Recipe
from .method import Method, arguments, mean_by_items, trainer_of

TOLD_ONE_BY_ONE = 30
"""With more labels than this an evaluation tells neither the recall of each nor the confusion matrix."""


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> Trainer:
    """A trainer of `model` (a score for each label) over `rows` (`input_ids`, `labels`) that has not begun.

    Raises `RecipeError` where transformers does not take what is under `trainer:`.
    """
    live = recipe.hyperparameters
    assert isinstance(live, ClassificationHyperparameters)
    config = arguments(TrainingArguments, recipe, folder, model, label_smoothing_factor=live.label_smoothing)
    names = list(model.config.id2label.values())

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        smoothed = trainer.label_smoother
        return (mean_by_items if smoothed is None else smoothed)(outputs, labels, num_items_in_batch=num_items_in_batch)

    trainer = trainer_of(
        Trainer,
        config,
        model,
        tokenizer,
        rows,
        recipe=recipe,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_loss_func=loss,
        compute_metrics=lambda seen: metrics(seen.label_ids, seen.predictions, names),
        preprocess_logits_for_metrics=lambda logits, _: (logits[0] if isinstance(logits, tuple) else logits).argmax(-1),
        **more,
    )
    return trainer


def metrics(truth: Any, guesses: Any, labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro F1, recall of each label that occurs, and how often each label (a row) was taken for each other.

    `truth` and `guesses` are numbers among `labels`, (rows,). F1 is the mean over the labels that occur in either, as
    scikit-learn has it.
    """
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, (np.asarray(truth).ravel(), np.asarray(guesses).ravel()), 1)
    right, there, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    occur = (there + said) > 0
    found = {
        "accuracy": float(right.sum() / counts.sum()),
        "f1_macro": float((2 * right[occur] / (there + said)[occur]).mean()),
    }
    if len(labels) > TOLD_ONE_BY_ONE:
        return found
    recalls = {f"recall_{name}": float(right[at] / there[at]) for at, name in enumerate(labels) if there[at]}
    return {**found, **recalls, "confusion": {"labels": list(labels), "counts": counts.tolist()}}


def _smooth(trainer: Trainer, value: float) -> None:
    trainer.label_smoother = LabelSmoother(epsilon=value) if value else None


METHOD = Method(
    render=render_labelled,
    build=build,
    headline=("loss", "accuracy", "f1_macro"),
    scores=True,
    live={"label_smoothing": _smooth},
)
