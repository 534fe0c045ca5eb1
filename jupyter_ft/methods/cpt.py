"""Continued pre-training (self-supervised): TRL's `SFTTrainer` on windows of raw text, every token of it trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import SFTTrainer

from ..data import render_windows
from ..recipe import Recipe
from . import sft
from .method import Method


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
    """A trainer over `rows` (`input_ids`, `labels`) that has not begun; arguments and errors as for `sft.build`."""
    trainer = sft.build(model, tokenizer, recipe, rows, folder, **more)
    trainer.add_callback(Perplexity())
    return trainer


METHOD = Method(render=render_windows, build=build, headline=("loss", "eval_perplexity"))
