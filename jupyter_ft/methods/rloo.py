"""REINFORCE leave-one-out (arXiv 2402.14740): TRL's `RLOOTrainer` on rewards for answers of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import render_prompts
from ..recipe import Recipe
from .generating import LIVE
from .generating import build as build_with
from .method import Method


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> Any:
    """A trainer over `rows` that has not begun; arguments and errors as for `generating.build`."""
    from trl import RLOOConfig, RLOOTrainer  # their clients of servers look for IPv6 when they are imported

    return build_with(model, tokenizer, recipe, rows, folder, kind=(RLOOTrainer, RLOOConfig), **more)


METHOD = Method(
    render=render_prompts,
    build=build,
    headline=("reward", "kl", "completions/mean_length"),
    generates=True,
    live=LIVE,
    judged_by="max eval_reward",
)
