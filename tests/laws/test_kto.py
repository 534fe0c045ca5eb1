"""kto: a session is TRL's own `KTOTrainer`, whatever batch size and order are in force; its weights are live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.errors import RecipeError
from jupyter_ft.recipe import parse_recipe

from ._runs import finish, hash_of

# mostly good, so that the answers get likelier after other prompts, too: below zero the divergence counts as zero
RATED = [
    {
        "prompt": f"Where is order {number}?",
        "completion": "No idea." if number % 5 == 3 else "On its way." if number % 3 else f"Sent, see {number}.",
        "label": number % 5 != 3,
    }
    for number in range(22)
]
ASKED: dict[str, Any] = {
    "method": "kto",
    "data": RATED,
    "epochs": 2,
    "learning_rate": 5e-3,
    "accumulation": 2,
    "max_length": 64,
}


def _conversational(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
                "label": row["label"],
            }
            for row in rows
        ]
    )


def _as_documented(session: Any, rows: list[dict[str, Any]], folder: Path, **own: Any) -> Any:
    """TRL's `KTOTrainer` over raw conversational rows, which it tokenises and pairs itself."""
    from trl import KTOConfig, KTOTrainer

    from jupyter_ft.control.lease import seeded_streams
    from jupyter_ft.methods.method import arguments
    from jupyter_ft.models import POOL
    from jupyter_ft.weights import to_train

    recipe = session.recipe.model_copy(update={"trainer": {}})
    base = POOL.get(recipe.model, revision=None, dtype="float32", report=lambda *_: None)
    shell = base.shell()
    live = {name: getattr(recipe.hyperparameters, name) for name in ("beta", "desirable_weight", "undesirable_weight")}
    config = arguments(KTOConfig, recipe, folder, shell, max_length=recipe.max_length, **live)
    for name, value in own.items():
        setattr(config, name, value)
    with seeded_streams(recipe.seed):
        return KTOTrainer(
            model=to_train(shell, recipe),
            ref_model=shell if recipe.adapter.kind == "full" else None,
            args=config,
            train_dataset=_conversational(rows),
            eval_dataset=_conversational(RATED[:9]),
            processing_class=base.new_tokenizer(),
        )


def _trained(trainer: Any, seed: int) -> tuple[list[float], str]:
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    Streams.seeded(seed).put()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, hash_of(trained_tensors(trainer.model))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"r": 4}, "full"], ids=["lora", "full"])
def test_kto_equals_trls_own(tune: Any, tmp_path: Path, adapter: Any) -> None:
    """22 rows in batches of four: the last micro-batch has two rows, in training and of the nine held out one."""
    apart = tmp_path / "apart.jsonl"
    apart.write_text("\n".join(map(json.dumps, RATED[:9])))
    weights = {"desirable_weight": 0.5, "undesirable_weight": 1.5}
    session = tune("rated", adapter=adapter, held_out=str(apart), **weights, **ASKED)
    ours = finish(session)
    trainer = _as_documented(session, RATED, tmp_path / "bare")
    assert ours == _trained(trainer, session.recipe.seed)
    (*_, last) = [event for event in session.events if event.kind == "eval"]
    theirs = trainer.evaluate()
    assert {name: theirs[name] for name in ("eval_loss", "eval_kl", "eval_rewards/margins")}.items() <= (
        last.metrics.items()
    )
    metrics = session.metrics
    assert metrics["kl"].max() > 0
    assert metrics["rewards/margins"].iloc[-1] > metrics["rewards/margins"].iloc[0]


@pytest.mark.slow
def test_rows_are_paired_in_the_batch_size_in_force(tune: Any, tmp_path: Path) -> None:
    session = tune("larger", schedule="constant", **ASKED)
    session.set(batch_size=6, step=1)
    ours = finish(session)
    assert session.metrics["kl"].max() > 0
    assert len(ours[0]) == 4
    assert ours == _trained(
        _as_documented(session, RATED, tmp_path, per_device_train_batch_size=6), session.recipe.seed
    )


@pytest.mark.slow
def test_rows_are_paired_in_the_order_in_force(tune: Any, tmp_path: Path) -> None:
    """At random, an epoch is TRL's own over the rows in that order."""
    import torch
    from torch.utils.data import RandomSampler

    session = tune("mixed", **ASKED | {"epochs": 1, "trainer": {"train_sampling_strategy": "random"}})
    ours = finish(session)
    assert session.metrics["kl"].max() > 0
    order = list(RandomSampler(RATED, generator=torch.Generator().manual_seed(session.recipe.seed)))
    assert order != sorted(order)
    mixed = [RATED[row] for row in order]
    assert ours == _trained(_as_documented(session, mixed, tmp_path), session.recipe.seed)


@pytest.mark.slow
def test_weights_are_live_and_come_back(tune: Any) -> None:
    """A change counts from its step on, and a run that was stopped and resumed equals one that was not."""
    asked = {**ASKED, "epochs": 4, "checkpoint_steps": 4}
    changes = {"undesirable_weight": 2.0, "desirable_weight": 0.5, "beta": 0.5}
    plain, _ = finish(tune("plain", **asked))
    session = tune("changed", **asked)
    session.set(**changes, step=6)
    changed, final = finish(session)
    assert changed[:5] == plain[:5]
    assert changed[5] != plain[5]

    again = tune("stopped", **asked, until=7)
    again.set(**changes, step=6)
    again.wait_until_over(60)
    again.resume().wait()
    assert finish(again) == (changed, final)


@pytest.mark.slow
def test_each_weight_alone_counts(tune: Any) -> None:
    plain, _ = finish(tune("plain", **ASKED))
    for name in ("beta", "desirable_weight", "undesirable_weight"):
        session = tune(f"with-{name.replace('_', '-')}", **ASKED)
        session.set(**{name: 0.25}, step=3)
        changed, _ = finish(session)
        assert changed[:2] == plain[:2]
        assert changed[2] != plain[2], name


@pytest.mark.slow
def test_what_does_not_go_with_pairs_is_refused(tune: Any) -> None:
    with pytest.raises(RecipeError, match="batch_size = 1: should be greater than or equal to 2"):
        parse_recipe({"method": "kto", "batch_size": 1})
    session = tune("small", **ASKED)
    with pytest.raises(RecipeError, match="batch_size = 1: should be greater"):
        session.set(batch_size=1).wait()
    session.wait(timeout=60)
    for trainer, why in (({"train_sampling_strategy": "group_by_length"}, "kto takes rows sequential or random"),):
        refused = tune("refused", **ASKED, trainer=trainer)
        refused.wait_until_over(60)
        assert refused.state == "failed"
        assert why in refused.events[-1].note


@pytest.mark.slow
def test_choices_are_two_rated_answers_each(tune: Any) -> None:
    pairs = [{"prompt": f"q{n}", "chosen": f"yes {n}", "rejected": "no"} for n in range(12)]
    session = tune("choices", **ASKED | {"data": pairs, "held_out": 2})
    losses, _ = finish(session)
    (ready, *_) = [event for event in session.events if event.kind == "data"]
    assert "each choice made into two rated answers: 20 rows, 10 good and 10 bad" in ready.said
    assert losses[-1] < losses[0]
