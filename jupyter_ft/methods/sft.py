"""Supervised tuning: TRL's `SFTTrainer` on rows that are tokenised and masked already."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..data import render
from ..recipe import Recipe
from . import loss_head
from .method import Method, arguments, trainer_of
from .packing import PackedCollator, check_blocks, is_packed


class Perplexity(TrainerCallback):  # type: ignore[misc]
    """Adds exp(`eval_loss`) to what an evaluation gives, under `name`."""

    def __init__(self, name: str = "eval_perplexity") -> None:
        self._name = name

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """`metrics` is what `evaluate` returns."""
        if metrics is not None and "eval_loss" in metrics:
            loss = metrics["eval_loss"]
            metrics[self._name] = math.exp(loss) if loss < 700 else math.inf  # beyond, it is no float


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> SFTTrainer:
    """A trainer over `rows` (`input_ids`, `labels`; packed or not), with no printing callback, that has not begun.

    `rows` are a list or a `datasets.Dataset`, which is used as it is. `held_out` rows are for its `evaluate`; they are
    never packed. Raises `RecipeError` where TRL does not take what is under `trainer:`, or the model cannot keep packed
    rows apart.
    """
    own = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}  # the rows are cut already
    config = arguments(SFTConfig, recipe, folder, model, **own)
    trainer = trainer_of(SFTTrainer, config, model, tokenizer, rows, recipe=recipe, **more)
    trainer.add_callback(Perplexity())
    if recipe.loss_head == "auto":
        loss_head.install(trainer)
    if is_packed(rows):
        check_blocks(trainer.model)
        if not config.padding_free:  # asked for under `trainer:`; TRL's collator makes one row of the batch then
            trainer.data_collator = PackedCollator(trainer.data_collator.pad_token_id)
    return trainer


METHOD = Method(render=render, build=build, headline=("loss", "mean_token_accuracy"))
