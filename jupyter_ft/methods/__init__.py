"""The methods of training, one file each: how its rows are made, how its trainer is built, its live fields, metrics."""

from __future__ import annotations

from ..recipe import Recipe
from . import classification, cpt, dpo, grpo, kto, masked, reward, rloo, sft
from .method import Method

METHODS: dict[str, Method] = {
    "sft": sft.METHOD,
    "dpo": dpo.METHOD,
    "reward": reward.METHOD,
    "classification": classification.METHOD,
    "kto": kto.METHOD,
    "cpt": cpt.METHOD,
    "grpo": grpo.METHOD,
    "rloo": rloo.METHOD,
}


def method_of(recipe: Recipe, speaks: bool) -> Method:
    """The method of a recipe on a base that speaks or does not: an encoder goes on pre-training by masked tokens."""
    return masked.METHOD if recipe.method == "cpt" and not speaks else METHODS[recipe.method]
