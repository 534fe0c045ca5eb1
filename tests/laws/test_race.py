"""Runs that race on one base each equal their solo run; one that fails or is stopped leaves the others alone."""

from __future__ import annotations

from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import RecipeError
from jupyter_ft.models import POOL
from jupyter_ft.session.race import variants_of
from jupyter_ft.ui.race import race_html, race_text

from ._runs import finish

GRID = {"learning_rate": [1e-3, 5e-2], "adapter.r": [2, 4]}
ASKED = {"batch_size": 10, "adapter": {"dropout": 0.1}, "held_out": 10, "eval_steps": 2}


@pytest.fixture
def start(tiny_model: Any, rows: Any) -> Any:
    return lambda race=GRID, name="grid", **more: jupyter_ft.race(race, str(tiny_model), rows, name, **(ASKED | more))


@pytest.mark.slow
def test_each_run_of_a_race_equals_its_solo_run(start: Any, tune: Any) -> None:
    race = start()
    assert [session.name for session in race] == ["grid-1", "grid-2", "grid-3", "grid-4"]
    raced = [finish(session) for session in race]
    assert len(POOL._bases) == 1
    for number, settings in enumerate(race.settings):
        assert finish(tune(f"solo-{number}", **(ASKED | settings))) == raced[number], settings
    assert len({tuple(run[0]) for run in raced}) == 4


@pytest.mark.slow
def test_the_table_ranks_them_and_the_worse_half_stops(start: Any) -> None:
    race = start(epochs=400)
    race.wait(step=4, timeout=60)
    for session in race:
        session.pause().wait(60)
    table = race.table()
    assert list(table.index) == [session.name for session in race.ranked]
    assert list(table.columns) == ["learning_rate", "adapter.r", "state", "step", "loss", "eval_loss"]
    lowest = {s.name: min(e.metrics["eval_loss"] for e in s.events if e.kind == "eval") for s in race}
    assert sorted(lowest, key=lambda name: lowest[name]) == [session.name for session in race.ranked]
    for session in race:
        session.resume().wait(60)
    worse = race.halve()
    assert race.best not in worse
    assert len(worse) == 2
    for session in worse:
        session.wait(timeout=60)
    assert {session.state for session in race if session not in worse} == {"running"}
    race.stop()
    race.wait(timeout=60)
    assert not race.live


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_alone(start: Any, tune: Any) -> None:
    race = start([{"learning_rate": 1e-3}, {"adapter.targets": "no_such_layer"}])
    race.wait(timeout=60)
    assert [session.state for session in race] == ["finished", "failed"]
    assert finish(race[0]) == finish(tune("solo", **ASKED, learning_rate=1e-3))
    assert race.best is race[0]
    assert race_text(race).splitlines()[-1].startswith("grid-2 failed: ")
    assert "no_such_layer" in race_text(race).splitlines()[-1]
    assert "<p>grid-2 failed: " in race_html(race)
    [curve] = [trace for trace in race.figure().data if len(trace.y) == race[0].step]
    assert list(curve.y) == list(race[0].metrics["loss"])


@pytest.mark.slow
def test_a_second_race_has_a_name_of_its_own_and_a_live_one_is_refused(start: Any) -> None:
    first = start([{"epochs": 1}, {"epochs": 40}])
    with pytest.raises(jupyter_ft.errors.RunFolderError, match=r"grid-[12]' is still"):
        start([{"epochs": 1}])
    first.stop()
    first.wait(timeout=60)
    assert [session.name for session in start([{"epochs": 1}])] == ["grid.2-1"]


@pytest.mark.parametrize(
    ("race", "said"),
    [
        ({"learning_rate": 1e-4}, r"race.learning_rate = 0.0001: should be a list"),
        ({}, "race: a grid like"),
        ("learning_rate", "race: a grid like"),
        ({"learning_rate": list(range(500))}, "makes 500 runs, and 64 are the most"),
        ([{"epochs": 1}] * 500, "makes 500 runs"),
        ({"learning_rte": [1, 2]}, "race, run 1: unknown key 'learning_rte'; did you mean"),
    ],
)
def test_a_race_that_is_none_is_said_before_anything_starts(start: Any, runs: Any, race: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        start(race)
    assert not list(runs.glob("*"))


def test_a_grid_is_every_combination_and_dotted_names_win_over_the_recipes() -> None:
    assert variants_of({"a": [1, 2], "b": ["x"]}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


@pytest.mark.slow
def test_policies_are_ranked_by_their_reward(start: Any) -> None:
    def brevity(completions: Any, **_: Any) -> list[float]:
        return [-float(len(str(one))) for one in completions]

    asked = {"method": "grpo", "rewards": [brevity], "num_generations": 2, "max_completion_length": 6, "batch_size": 4}
    race = start([{"seed": 1}, {"seed": 2}], **asked, held_out=4, eval_steps=1, max_steps=2)
    race.wait(timeout=120)
    best = {s.name: max(e.metrics["eval_reward"] for e in s.events if e.kind == "eval") for s in race}
    assert [session.name for session in race.ranked] == sorted(best, key=lambda name: -best[name])
    assert "eval_reward" in race.table()
