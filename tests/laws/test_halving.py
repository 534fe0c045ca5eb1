"""A race that halves itself: each stop names why, those that go on equal their solo run; one more run may join."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import AddressError, RecipeError
from jupyter_ft.memory.waiting import queue

from ._runs import finish, losses

ASKED = {"batch_size": 10, "held_out": 10, "eval_steps": 2, "epochs": 2, "adapter": {"dropout": 0.1}}
GRID = {"learning_rate": [1e-3, 2e-2], "adapter.r": [2, 4], "halve": {"every": 2, "by": "eval_loss"}}


@pytest.fixture(autouse=True)
def unbounded() -> Iterator[None]:
    yield
    queue.at_once = None


@pytest.fixture
def start(tiny_model: Any, rows: Any) -> Any:
    return lambda race, **more: jupyter_ft.race(race, str(tiny_model), rows, "grid", **(ASKED | more))


@pytest.mark.slow
def test_the_worse_half_stops_at_each_rung_and_the_rest_equal_their_solo_runs(start: Any, tune: Any) -> None:
    race = start(GRID)
    joined = race.clone("grid-3", learning_rate=5e-3)
    race.wait(timeout=120)
    at = {s.name: {e.step: e.metrics["eval_loss"] for e in s.events if e.kind == "eval"} for s in race[:4]}
    two = sorted(at, key=lambda name: at[name][2])[:2]
    one = min(two, key=lambda name: at[name][4])
    why = {s.name: [e.text for e in s.events if e.kind == "log" and "halving" in e.text] for s in race}
    out = [name for name in at if name not in two]
    for name in out:
        assert why[name][0].startswith(
            f"stopped by the race's halving at step 2: eval_loss {at[name][2]:.4g} is number"
        )
        assert why[name][0].endswith(f"{two[0]} {at[two[0]][2]:.4g}, {two[1]} {at[two[1]][2]:.4g} go on")
    (second,) = [name for name in two if name != one]
    assert "at step 4" in why[second][0]
    assert [len(lines) for lines in why.values()].count(0) == 2  # the winner, and the one that joined
    states = {session.name: session.state for session in race}
    assert states[one] == states["grid-5"] == "finished"
    assert all(states[name] == "stopped" or jupyter_ft.sessions[name].step == 8 for name in [*out, second])
    assert len(race.said) == sum(map(len, why.values()))
    winner = next(session for session in race if session.name == one)
    solo = tune("solo", **(ASKED | race.settings[list(at).index(one)]))
    assert finish(solo) == finish(winner)
    clone = tune("like", **(ASKED | {"learning_rate": 5e-3, "adapter.r": 2}))
    assert finish(clone) == finish(joined)
    later = race.clone("grid-3", step=race[2].visitable[0], max_steps=race[2].visitable[0] + 1)
    later.wait(timeout=60)
    assert losses(later)[: later.step - 1] == losses(race[2])[: later.step - 1]
    assert len(race) == 6
    assert list(race.table().loc["grid-5", ["learning_rate", "adapter.r"]]) == [5e-3, 2]
    with pytest.raises(AddressError, match="'grid-9' is no run of grid; those are: grid-1, grid-2"):
        race.clone("grid-9")


@pytest.mark.slow
def test_runs_that_wait_for_memory_hold_nobody_back_and_are_judged_where_they_come(start: Any) -> None:
    variants = [{"learning_rate": rate} for rate in (1e-3, 1e-9, 4e-3, 1e-4)]
    queue.at_once = 1
    race = start({"runs": variants, "halve": {"every": 2, "by": "eval_loss"}}, epochs=8)
    race.wait(timeout=120)
    at = [{e.step: e.metrics["eval_loss"] for e in s.events if e.kind == "eval"} for s in race]
    assert at[2][2] < at[0][2] < at[3][2] < at[1][2]  # else this proves something else
    assert [session.state for session in race] == ["finished", "stopped", "finished", "stopped"]
    assert race[1].step < race[0].step == 32
    assert [line.partition(":")[0] for line in race.said] == ["grid-2", "grid-4"]
    first = f"halving at step 2: eval_loss {at[1][2]:.4g} is number 2 of 2; before it grid-1 {at[0][2]:.4g}"
    assert race.said[0].endswith(first)
    assert f"at step 2: eval_loss {at[3][2]:.4g} is number 3 of 4; before it grid-3" in race.said[1]


@pytest.mark.parametrize(
    ("halve", "said"),
    [
        ([10, 20], r"race.halve = \[10, 20\]: write {every: 20}"),
        ({"evry": 2}, "race.halve.evry: did you mean every?"),
        ({"every": 0}, "race.halve.every = 0: should be a number of steps"),
        ({"every": 2, "keep": 1.5}, "race.halve.keep = 1.5: should be a share"),
        ({"every": 2, "by": "best eval_loss"}, "race.halve.by = 'best eval_loss': should be the name"),
        ({"every": 2, "by": "eval_loss"}, "race.halve.by = eval_loss: needs rows to evaluate on"),
    ],
)
def test_a_halving_that_is_none_is_said_before_anything_starts(start: Any, runs: Any, halve: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        start({"runs": [{"epochs": 1}, {"epochs": 2}], "halve": halve}, held_out=None, eval_steps=None)
    assert not list(runs.glob("*"))
