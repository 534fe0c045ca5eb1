"""Every method: a session has the losses of the trainer built as its own documentation builds it; its edits hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.recipe import parse_recipe

from ._runs import finish, hash_of

PAIRS = [
    {
        "prompt": f"Where is order {number}?",
        "chosen": "On its way." if number % 3 else f"Sent, see {number}.",
        "rejected": "No idea." if number % 2 else "Ask someone else, please.",
    }
    for number in range(24)
]
ASKED: dict[str, Any] = {
    "method": "dpo",
    "data": PAIRS,
    "epochs": 2,
    "learning_rate": 5e-3,
    "accumulation": 2,
    "max_length": 64,
}


def _as_documented(model: Path, recipe: Any, folder: Path) -> Any:
    """TRL's `DPOTrainer` over raw conversational rows, which it tokenises itself."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from jupyter_ft.control.lease import seeded_streams
    from jupyter_ft.methods.method import arguments
    from jupyter_ft.models import POOL
    from jupyter_ft.weights import to_train

    base = POOL.get(str(model), revision=None, dtype="float32", report=lambda *_: None)
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in PAIRS
    ]
    shell = base.shell()
    full = recipe.adapter.kind == "full"
    with seeded_streams(recipe.seed):
        return DPOTrainer(
            model=to_train(shell, recipe),
            ref_model=shell if full else None,
            args=arguments(DPOConfig, recipe, folder, shell, max_length=recipe.max_length),
            train_dataset=Dataset.from_list(rows),
            processing_class=base.new_tokenizer(),
        )


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"r": 4}, "full"], ids=["lora", "full"])
def test_dpo_equals_trls_own(tune: Any, tiny_model: Path, tmp_path: Path, adapter: Any) -> None:
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    session = tune("pairs", adapter=adapter, **ASKED)
    ours, our_hash = finish(session)
    recipe = parse_recipe(
        {"model": str(tiny_model), **session.recipe.model_dump(exclude={"hyperparameters", "data"})}
        | session.recipe.hyperparameters.model_dump()
    )
    trainer = _as_documented(tiny_model, recipe, tmp_path / "bare")
    Streams.seeded(recipe.seed).put()
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert ours == logged
    assert our_hash == hash_of(trained_tensors(trainer.model))
    assert {"rewards/margins", "rewards/accuracies"} <= set(session.metrics)
    assert ours[-1] < ours[0]


@pytest.mark.slow
def test_beta_is_live_and_comes_back(tune: Any) -> None:
    """A change of `beta` counts from its step on, and a run that was stopped and resumed equals one that was not."""
    asked = {**ASKED, "epochs": 4, "checkpoint_steps": 4}
    plain, _ = finish(tune("plain", **asked))
    session = tune("changed", **asked)
    session.set(beta=1.0, step=6)
    changed, final = finish(session)
    assert changed[:5] == plain[:5]
    assert changed[5] != plain[5]

    again = tune("stopped", **asked, until=7)
    again.set(beta=1.0, step=6)
    again.wait_until_over(60)
    again.resume().wait()
    assert finish(again) == (changed, final)
