"""Evaluation on the held-out rows: it touches nothing, says what the bare trainer says, and knows the best step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.recipe import parse_recipe

from ._runs import bare_trainer, finish, losses

HELD = {"held_out": 0.2, "epochs": 3, "learning_rate": 5e-3, "batch_size": 4, "dtype": "float32"}


def evaluations(session: Any) -> list[Any]:
    return [event for event in session.events if event.kind == "eval"]


@pytest.mark.slow
def test_evaluating_leaves_losses_and_weights_alone(tune: Any) -> None:
    adapter = {"r": 4, "dropout": 0.1}
    often, once = tune("often", adapter=adapter, eval_steps=2, **HELD), None
    first = finish(often)
    once = tune("once", adapter=adapter, eval_steps=10**6, **HELD)
    assert first == finish(once)
    assert [e.step for e in evaluations(often)] == list(range(2, 31, 2))
    assert [e.step for e in evaluations(once)] == [30]


@pytest.mark.slow
def test_the_evaluation_is_the_bare_trainers(
    tune: Any, tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    session = tune(adapter={"r": 4}, **HELD)
    ours, _ = finish(session)
    trainer = bare_trainer(
        tiny_model, rows, parse_recipe({"model": str(tiny_model), "adapter": {"r": 4}, **HELD}), tmp_path / "bare"
    )
    trainer.train()
    theirs = trainer.evaluate()
    last = evaluations(session)[-1]
    assert (last.step, last.rows) == (30, 10)
    assert last.metrics["eval_loss"] == theirs["eval_loss"]
    assert last.metrics["eval_mean_token_accuracy"] == theirs["eval_mean_token_accuracy"]
    assert len(evaluations(session)) == 10  # the default
    assert session.metrics["eval_loss"].dropna().to_dict() == {
        e.step: e.metrics["eval_loss"] for e in evaluations(session)
    }
    assert len(ours) == 30  # the 40 rows that are left, not all 50


@pytest.mark.slow
def test_early_stopping_keeps_the_best_step(tune: Any) -> None:
    """Random answers: what is learnt of them cannot help on others, so the held-out loss soon rises."""
    rows = [{"prompt": f"q{i}", "completion": f"{hash_like(i)}"} for i in range(40)]
    asked = {**HELD, "epochs": 60, "learning_rate": 3e-2, "eval_steps": 2, "early_stopping_patience": 4}
    session = tune(data=rows, checkpoint_steps=3, **asked)
    session.wait(timeout=300)
    assert session.state == "finished"
    seen = evaluations(session)
    by_loss = min(seen, key=lambda e: e.metrics["eval_loss"])
    assert session.step == seen[-1].step == by_loss.step + 4 * 2 < session.total_steps
    assert session.best_step == by_loss.step
    assert session.best_step in session.steps  # older than the newest three, and kept
    assert f"the best is step {by_loss.step}" in session.events[-1].note
    said = session.chat("q1", at="best", max_new_tokens=5)
    assert said.step == by_loss.step


def hash_like(number: int) -> int:
    return (number * 2654435761) % 99_991


@pytest.mark.slow
def test_eval_steps_and_patience_are_live_and_survive_a_stop(tune: Any) -> None:
    asked = {**HELD, "epochs": 4, "eval_steps": 3}

    def run(name: str, stop: int | None) -> Any:
        session = tune(name, **asked)
        session.set(step=10, eval_steps=5)
        if stop is not None:
            session.wait(step=stop, timeout=60)
            session.stop().wait(60)
            session.wait_until_over()
            jupyter_ft.open(name).resume().wait(60)
        session.wait(timeout=120)
        return session

    whole, parted = run("whole", None), run("parted", 12)
    assert [e.step for e in evaluations(whole)] == [3, 6, 9, 14, 19, 24, 29, 34, 39, 40]

    def told(session: Any) -> dict[int, Any]:
        return {e.step: (e.metrics, e.best_step) for e in evaluations(session)}

    assert told(parted) == told(whole)
    assert losses(parted) == losses(whole)


def test_without_held_out_rows_it_says_so(tune: Any) -> None:
    session = tune(epochs=1)
    refused = session.submit(jupyter_ft.messages.Set(changes={"eval_steps": 2}))
    assert session.log.wait_for(lambda: refused.answer is not None, 60)
    assert "start a run with held_out" in refused.answer.reason


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_with_our_loss_head_and_packed_rows_it_is_trls(
    tune: Any, tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path, packing: bool
) -> None:
    asked = {**HELD, "adapter": {"r": 4}, "packing": packing, "batch_size": 2}
    session = tune(**asked)
    session.wait(timeout=120)
    recipe = parse_recipe({"model": str(tiny_model), **asked, "loss_head": "trl"})
    trainer = bare_trainer(tiny_model, rows, recipe, tmp_path / "bare")
    trainer.train()
    theirs, last = trainer.evaluate(), evaluations(session)[-1]
    assert last.rows == 10
    assert last.metrics["eval_loss"] == pytest.approx(theirs["eval_loss"], abs=1e-4)
    assert last.metrics["eval_entropy"] == pytest.approx(theirs["eval_entropy"], abs=1e-3)
