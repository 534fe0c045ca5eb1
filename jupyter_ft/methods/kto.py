"""Kahneman-Tversky optimisation (arXiv 2402.01306): TRL's `KTOTrainer` on answers that are rated one by one.

The loss of a micro-batch (equation 7) measures each answer against the divergence from the reference, which is
estimated from the same answers put to each other's prompts: row i's prompt with row i-1's answer. TRL pairs them once,
for one batch size and for rows in their order. Here the collator pairs the rows of the micro-batch that it is given, so
that it is right whatever batch size or order is in force; with those of the start the pairs are TRL's, to the bit. A
micro-batch of one row, such as the rest of an epoch, meets only its own answer, in TRL as well; a batch size of 1 is
refused. `loss_type: apo_zero_unpaired` needs no pairs and gets none.

The reference is what the run began with: TRL copies the adapter that it is given, or is given the base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import KTOConfig, KTOTrainer

from ..data import render_rated
from ..errors import RecipeError
from ..hyperparameters import KtoHyperparameters
from ..recipe import Recipe
from .dpo import against_reference
from .method import Method, arguments, attribute

_SAMPLE = {"prompt": "a", "completion": "b", "label": True}  # TRL tokenises what it is built with
_ORDERS = ("sequential", "random")


@dataclass(frozen=True)
class PairingCollator:
    """TRL's collator `theirs`, given each row's prompt with the answer of the row before it (the first: the last's)."""

    theirs: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `rows` (`prompt_ids`, `completion_ids`, `label`), with the `KL_…` tensors for the pairs."""
        before = [rows[-1], *rows[:-1]]
        return self.theirs(
            [row | {"KL_completion_ids": other["completion_ids"]} for row, other in zip(rows, before, strict=True)]
        )


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> KTOTrainer:
    """A trainer over `rows` (`prompt_ids`, `completion_ids`, `label`) that has not begun.

    Rows are taken in their order, as TRL does, or at random with `trainer: {train_sampling_strategy: random}`. Raises
    `RecipeError` where TRL does not take what is under `trainer:`, or it does not go with a live batch size.
    """
    live = recipe.hyperparameters
    assert isinstance(live, KtoHyperparameters)
    own = {"max_length": recipe.max_length, **{name: getattr(live, name) for name in METHOD.live}}
    config = arguments(KTOConfig, recipe, folder, model, **own)
    order = config.train_sampling_strategy
    if order not in _ORDERS:
        raise RecipeError(f"trainer.train_sampling_strategy = {order!r}: kto takes rows {' or '.join(_ORDERS)}")
    config.train_sampling_strategy = "sequential"  # TRL refuses another for its fixed pairs, which are not used
    trainer = against_reference(KTOTrainer, config, model, tokenizer, rows, sample=_SAMPLE, recipe=recipe, **more)
    trainer.args.train_sampling_strategy = order
    if trainer.calculate_KL:
        trainer.data_collator = PairingCollator(trainer.data_collator)
    return trainer


METHOD = Method(
    render=render_rated,
    build=build,
    headline=("loss", "rewards/margins", "kl"),
    live={name: attribute(name) for name in ("beta", "desirable_weight", "undesirable_weight")},
)
