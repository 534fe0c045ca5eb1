"""Taken back to a step and going on equals never having left it."""

from __future__ import annotations

from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import CheckpointError

from ._runs import finish, losses

ASKED = {"epochs": 2, "checkpoint_steps": 5, "adapter": {"r": 4, "dropout": 0.1}, "batch_size": 4} | {
    "held_out": 5,
    "eval_steps": 5,
}


def test_taken_back_while_it_runs_it_equals_never_left(tune: Any) -> None:
    session = tune("wandering", **ASKED)
    session.set(step=3, learning_rate=1e-3)
    session.set(step=8, learning_rate=5e-2, batch_size=2)  # a mistake
    session.wait(step=11, timeout=60)
    assert session.rewind(5).wait(60) == 5
    got = finish(session)
    straight = tune("straight", **ASKED)
    straight.set(step=3, learning_rate=1e-3)
    assert finish(straight) == got
    assert session.metrics.index.tolist() == list(range(1, session.total_steps + 1))
    assert [change.step for change in session.changes] == [3]
    assert session.hyperparameters == straight.hyperparameters


@pytest.mark.slow
def test_paused_it_stays_paused_and_speaks_for_the_step(tune: Any) -> None:
    session = tune("paused", **ASKED)
    session.wait(step=8, timeout=60)
    session.pause().wait()
    session.rewind(5).wait(60)
    assert (session.state, session.step) == ("paused", 5)
    assert session.chat("Where is order 7?", max_new_tokens=4).step == 5
    session.set(learning_rate=1e-4).wait()
    session.resume()
    got = finish(session)
    straight = tune("straight", **ASKED)
    straight.set(step=6, learning_rate=1e-4)
    assert finish(straight) == got


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_a_run_that_is_over_goes_on_from_a_step(tune: Any, again: bool) -> None:
    session = tune("over", **ASKED, early_stopping_patience=50)
    session.set(step=session_step(session), learning_rate=5e-2)
    ended = finish(session)
    back = session.steps[0]
    if again:
        session.close()
        session = jupyter_ft.open("over")
    session.rewind(back).wait(60)
    got = finish(session)
    assert finish(tune("straight", **ASKED, early_stopping_patience=50)) == got
    assert got[0][:back] == ended[0][:back]
    assert got != ended


def session_step(session: Any) -> int:
    """A step after the first checkpoint that is kept at the end."""
    session.wait(step=1, timeout=60)
    return int(session.total_steps) - 1


@pytest.mark.slow
def test_killed_after_it_was_taken_back_the_edits_stay_undone(tune: Any) -> None:
    session = tune("undone", **ASKED)
    session.set(step=7, learning_rate=5e-2)
    session.wait(step=9, timeout=60)
    session.rewind(5).wait(60)
    session.stop().wait(60)
    session.wait(timeout=60)
    session.run_folder.drop_after(5)  # as if killed before the next checkpoint
    session.resume().wait(60)
    assert finish(session) == finish(tune("straight", **ASKED))


@pytest.mark.slow
def test_where_it_cannot_go_back_to_is_said(tune: Any) -> None:
    session = tune("lost", **ASKED)
    session.wait(step=6, timeout=60)
    with pytest.raises(CheckpointError, match=r"cannot go back to step 3; it can to: 5"):
        session.rewind(3)
    (session.run_folder.checkpoint(5) / "training.json").write_text("{}")
    with pytest.raises(jupyter_ft.errors.Refused, match=r"training.json is truncated or altered"):
        session.rewind(5).wait(60)
    before = losses(session)
    assert before == finish(session)[0][: len(before)]


@pytest.mark.slow
def test_a_step_that_comes_again_speaks_with_its_new_weights(tune: Any) -> None:
    session = tune("again", **ASKED | {"learning_rate": 5e-2, "epochs": 4})
    session.wait(step=10, timeout=60)
    session.pause().wait()
    session.chat("Where is order 7?", at=10, max_new_tokens=8)  # held by chat from here on
    session.rewind(5).wait(60)
    session.set(learning_rate=1e-3).wait()
    session.resume().wait()
    session.wait(step=11, timeout=60)
    session.pause().wait()
    said = session.chat("Where is order 7?", at=10, max_new_tokens=8)
    session.resume().wait()
    session.stop().wait()
    session.wait(timeout=60)
    session.close()
    assert str(said) == str(jupyter_ft.open("again").chat("Where is order 7?", at=10, max_new_tokens=8))


@pytest.mark.slow
def test_what_was_evaluated_in_steps_taken_back_counts_no_more(tune: Any) -> None:
    session = tune("counted", **ASKED | {"eval_steps": 1})
    session.wait(step=9, timeout=60)
    session.pause().wait()
    assert session.best_step is not None
    back = session.steps[0]
    session.rewind(back).wait(60)
    assert session.best_step <= back
    session.stop().wait()
    session.wait(timeout=60)
    assert session.metrics["eval_loss"].dropna().index.tolist() == list(range(1, back + 1))


@pytest.mark.slow
def test_probes_of_steps_taken_back_are_asked_again(tune: Any) -> None:
    asked = {**ASKED, "probes": ["Where is order 7?"], "probe_steps": 2}
    session = tune("asked", **asked)
    session.wait(step=9, timeout=60)
    session.rewind(5).wait(60)
    got = finish(session)
    straight = tune("straight", **asked)
    assert finish(straight) == got
    assert session.probes.to_dict() == straight.probes.to_dict()
