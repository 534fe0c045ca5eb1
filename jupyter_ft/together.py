"""Settings of a recipe that are right each by itself and do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import RecipeError
from .hyperparameters import ANSWERED, PACKED, REWARDED

if TYPE_CHECKING:
    from .recipe import Recipe


def check_together(recipe: Recipe) -> None:
    """Raises `RecipeError` for the first two settings that do not go with one another."""
    _check_rewards(recipe)
    if wrong := recipe.hyperparameters.wrong_together():
        raise RecipeError(wrong)
    if recipe.packing and recipe.method not in PACKED:
        raise RecipeError(f"packing: rows of the method {recipe.method} are not packed; leave packing out")
    if recipe.method == "classification" and recipe.system is not None:
        raise RecipeError("system: a text is classified as it is; leave system out")
    if recipe.method == "classification" and "label_smoothing_factor" in recipe.trainer:
        raise RecipeError("trainer.label_smoothing_factor: write it as label_smoothing, at the top level")
    _check_looking(recipe)
    _check_adapter(recipe)
    if recipe.packing and recipe.trainer.get("train_sampling_strategy", "random") != "random":
        raise RecipeError("packing already makes rows of one length; leave out trainer.train_sampling_strategy")


def _check_looking(recipe: Recipe) -> None:
    live = recipe.hyperparameters
    if recipe.held_out is None:
        for name in ("eval_steps", "early_stopping_patience"):
            if getattr(live, name) is not None:
                raise RecipeError(f"{name} needs rows to evaluate on; add held_out: 10%")
        if isinstance(recipe.probes, int):
            raise RecipeError("probes: a number takes the prompts of held-out rows; add held_out: 10%, or list prompts")
        if recipe.metrics or recipe.best_metric != "eval_loss":
            name = "metrics" if recipe.metrics else "best_metric"
            raise RecipeError(f"{name}: needs rows to evaluate on; add held_out: 10%")
    if recipe.metrics and recipe.method not in ANSWERED:
        raise RecipeError(f"metrics: they measure answers, and {recipe.method} has none to compare with; leave it out")
    if recipe.probes is None and live.probe_steps is not None:
        raise RecipeError("probe_steps needs prompts to answer; add probes: 3, or a list of prompts")


def _check_adapter(recipe: Recipe) -> None:
    live, plain = recipe.hyperparameters, type(recipe.hyperparameters)()
    if recipe.adapter.kind == "full" and (live.alpha, live.dropout) != (plain.alpha, plain.dropout):
        raise RecipeError("alpha and dropout belong to a LoRA adapter; leave them out with full weights")
    if recipe.adapter.kind == "full" and recipe.quantization != "none":
        raise RecipeError(
            f"quantization: {recipe.quantization}: full weights are trained in float32; take adapter: lora over a "
            "quantised base"
        )
    if recipe.adapter.kind == "dora" and recipe.quantization == "int8":
        raise RecipeError("adapter: dora over an 8-bit base would lose the scales of its rows; take quantization: nf4")


def _check_rewards(recipe: Recipe) -> None:
    if recipe.method not in REWARDED:
        if recipe.rewards:
            raise RecipeError(f"rewards: {recipe.method} learns from no rewards; write method: grpo, or leave it out")
        return
    if not recipe.rewards:
        raise RecipeError(
            f"method {recipe.method} needs rewards: a function of the notebook, a reward run (judge@best), or several"
        )
    again = next((name for name in recipe.rewards if recipe.rewards.count(name) > 1), None)
    if again is not None:
        raise RecipeError(f"rewards: {again} is there twice; give it once, with a weight: {{{again}: 2}}")
    weights = getattr(recipe.hyperparameters, "reward_weights", ())
    if len(weights) != len(recipe.rewards):
        raise RecipeError(f"reward_weights: one for each of the {len(recipe.rewards)} rewards, in their order")
