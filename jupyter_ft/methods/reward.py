"""A reward model (arXiv 2203.02155, 3.5): TRL's `RewardTrainer` on choices between two answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import RewardConfig, RewardTrainer

from ..data import render_whole_pairs
from ..hyperparameters import RewardHyperparameters
from ..recipe import Recipe
from .method import Method, arguments, trainer_of


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> RewardTrainer:
    """A trainer of `model` (one score) over `rows` (`chosen_ids`, `rejected_ids`) that has not begun.

    Raises `RecipeError` where TRL does not take what is under `trainer:`.
    """
    live = recipe.hyperparameters
    assert isinstance(live, RewardHyperparameters)
    own = {"max_length": None, "center_rewards_coefficient": live.center_rewards_coefficient or None}
    config = arguments(RewardConfig, recipe, folder, model, **own)  # the rows are chosen already
    return trainer_of(RewardTrainer, config, model, tokenizer, rows, recipe=recipe, **more)


METHOD = Method(
    render=render_whole_pairs,
    build=build,
    headline=("loss", "accuracy", "margin"),
    scores=True,
    live={
        "center_rewards_coefficient": lambda trainer, value: setattr(
            trainer.args, "center_rewards_coefficient", value or None
        )
    },
)
