"""Continued pre-training of an encoder (arXiv 1810.04805, 3.1): transformers' `Trainer` on raw text with masked tokens.

What is masked is drawn by transformers' own collator from a generator of its own, so that it depends on the recipe's
seed and on nothing that dropout or a cell draws; a checkpoint keeps it. The held-out rows are masked once, so that
their losses can be compared along the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from ..data import render_framed_windows
from ..data.render import UNTRAINED
from ..errors import ModelError
from ..hyperparameters import CptHyperparameters
from ..recipe import Recipe
from .method import Method, arguments, dataset, mean_by_items, trainer_of
from .sft import Perplexity


class MaskingCollator:
    """transformers' collator for masked language modelling; rows that have `labels` are masked already."""

    def __init__(self, tokenizer: Any, share: float, seed: int) -> None:
        self._masks = DataCollatorForLanguageModeling(tokenizer, mlm_probability=share, seed=seed)
        self.create_rng()  # not at the first batch: before transformers 5.24 a seed of 0 would be none
        self._pads = DataCollatorForTokenClassification(tokenizer)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `rows` (`input_ids`), with `labels` where a token is masked."""
        batch: dict[str, Any] = (self._pads if "labels" in rows[0] else self._masks)(list(rows))
        return batch

    @property
    def generator(self) -> torch.Generator:
        """What the masks are drawn from."""
        generator: torch.Generator = self._masks.generator
        return generator

    def create_rng(self) -> None:
        """Draw from the seed again, as transformers' collator names it."""
        self._masks.create_rng()

    def set_share(self, share: float) -> None:
        """Mask this share of the tokens from the next batch on."""
        self._masks.mlm_probability = share


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> Trainer:
    """A trainer of `model` (it guesses masked tokens) over `rows` (`input_ids`) that has not begun.

    Raises `RecipeError` where transformers does not take what is under `trainer:`, `ModelError` where an adapter would
    stand under a head that no file holds.
    """
    live = recipe.hyperparameters
    assert isinstance(live, CptHyperparameters)
    if model.fresh_head and recipe.adapter.kind != "full":
        raise ModelError(f"{recipe.model} holds no head that guesses masked tokens; adapter: full trains a new one")
    if more.get("held_out") is not None:
        more["held_out"] = masked_once(more["held_out"], tokenizer, live.mask_share, recipe.seed)
    trainer = trainer_of(
        Trainer,
        arguments(TrainingArguments, recipe, folder, model),
        model,
        tokenizer,
        rows,
        recipe=recipe,
        data_collator=MaskingCollator(tokenizer, live.mask_share, recipe.seed),
        compute_loss_func=mean_by_items,
        **more,
    )
    trainer.add_callback(Perplexity("eval_pseudo_perplexity"))
    return trainer


def masked_once(rows: Any, tokenizer: Any, share: float, seed: int) -> Dataset:
    """`rows` with masks drawn one row after the other, whatever batches they will be in; one token each at least."""
    collate, found = DataCollatorForLanguageModeling(tokenizer, mlm_probability=share, seed=seed), []
    for row in dataset(rows):
        batch = collate([{"input_ids": row["input_ids"]}])
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        if bool((labels == UNTRAINED).all()):
            middle = len(ids) // 2
            labels[middle], ids[middle] = ids[middle].item(), tokenizer.mask_token_id
        found.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return Dataset.from_list(found)


METHOD = Method(
    render=render_framed_windows,
    build=build,
    headline=("loss", "eval_pseudo_perplexity"),
    masks=True,
    live={"mask_share": lambda trainer, value: trainer.data_collator.set_share(value)},
)
