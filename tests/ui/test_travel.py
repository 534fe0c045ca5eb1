"""Who comes from whom, what was taken back, and the buttons of a race, without a browser."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from small_run import SmallRun, until

import jupyter_ft
from jupyter_ft.errors import AddressError, FineTuneError
from jupyter_ft.event_log import EventLog
from jupyter_ft.messages import Resumed, StepDone
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import RunFolder
from jupyter_ft.session.lineage import Run, family_of
from jupyter_ft.ui.race_controls import RaceControls, pairs
from jupyter_ft.ui.telling import View


def step(number: int, loss: float) -> StepDone:
    plain = {"learning_rate": 1e-3, "grad_norm": 1.0, "tokens": 10, "seconds": 0.1, "epoch": 0.1}
    return StepDone(step=number, loss=loss, metrics={}, **plain)


def test_what_is_taken_back_is_kept_apart_and_read_again_from_the_disk(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(1, 7):
        log.append(step(number, number / 10))
    log.append(Resumed(step=2, rewound=True))
    for number in range(3, 6):
        log.append(step(number, float(number)))
    log.append(Resumed(step=4, rewound=True))
    log.append(step(5, 50.0))
    log.close()
    again = EventLog(tmp_path / "events.jsonl")
    for known in (log, again):
        told = [(list(steps), list(losses)) for steps, losses in known.abandoned]
        assert told == [([2, 3, 4, 5, 6], [0.2, 0.3, 0.4, 0.5, 0.6]), ([4, 5], [4.0, 5.0])]
    again.close()


def test_a_view_is_told_what_was_taken_back_with_the_story_and_when_it_happens(run: SmallRun) -> None:
    run.take(20, bad=(15,))
    view = View("v", 0.0)
    first = view.next_message(run, 0.0)
    run.log.append(Resumed(step=10, rewound=True))
    news, again = view.next_message(run, 1.0), View("w", 0.0).next_message(run, 0.0)
    assert first is not None
    assert first.content["left"] == []
    for message in (news, again):
        assert message is not None
        [[steps, losses]] = message.content["left"]
        assert steps == list(range(10, 21))
        assert losses[5] is None  # JSON has no NaN
    run.take(1)
    more = view.next_message(run, 2.0)
    assert more is not None
    assert "left" not in more.content


def live() -> list[str]:
    return [session.name for session in jupyter_ft.sessions.live]


def written(name: str, **about: Any) -> RunFolder:
    folder = RunFolder.create(name)
    folder.write_recipe(parse_recipe({}), about)
    return folder


def test_a_family_is_a_tree_from_its_oldest_known_run(runs: Path) -> None:
    written("support")
    written("alone")
    changes = dict.fromkeys("abcdef", 1)
    written("calmer", fork={"run": "support", "step": 40, "changes": {"learning_rate": 2e-5}})
    written("better", parent={"run": "support", "step": 12})
    deep = written("deeper", fork={"run": "calmer", "step": 60, "changes": changes}, parent={"run": "x", "step": 1})
    orphan = written("orphan", fork={"run": "gone", "step": 3, "changes": {}})
    (runs / "broken").mkdir()
    (runs / "broken" / "recipe.yaml").write_text("nonsense: [")

    def tree(run: Run) -> Any:
        return (run.name, run.step, run.how, [tree(child) for child in run.children])

    assert tree(family_of(deep)) == (
        "support",
        0,
        "",
        [
            ("better", 12, "from its weights", []),
            (
                "calmer",
                40,
                "fork, learning_rate = 2e-05",
                [("deeper", 60, "fork, a = 1, b = 1, c = 1, d = 1, and 2 more", [])],
            ),
        ],
    )
    assert tree(family_of(orphan)) == ("gone", 0, "its folder has gone", [("orphan", 3, "fork", [])])
    (runs / "support" / "recipe.yaml").unlink()
    written("again", fork={"run": "again", "step": 1, "changes": {}})  # names can be used again
    assert family_of(RunFolder(runs / "again")).name == "again"


def test_changes_are_read_as_they_are_typed() -> None:
    typed = pairs("learning_rate=2e-5, schedule=cosine max_steps=80 max_grad_norm=none")
    assert typed == {"learning_rate": 2e-5, "schedule": "cosine", "max_steps": 80, "max_grad_norm": None}
    with pytest.raises(FineTuneError, match="'faster' is no change"):
        pairs("faster")


@pytest.mark.slow
def test_a_run_of_a_race_is_stopped_cloned_and_promoted_by_the_buttons(tiny_model: Path, rows: Any) -> None:
    asked = {"batch_size": 4, "dtype": "float32", "adapter": {"r": 2}, "max_steps": 3000}
    race = jupyter_ft.race({"learning_rate": [1e-2, 1e-3, 1e-9]}, str(tiny_model), rows, "grid", **asked)
    race.wait(step=2, timeout=60)
    seen: list[int] = []
    controls = RaceControls(race, lambda: seen.append(1))

    def press(verb: str, run: str) -> str:
        controls._run.value, before = run, len(seen)
        controls._buttons[verb].click()
        assert until(lambda: len(seen) > before, 60)
        return str(controls._said.value)

    assert "grid-3: stop at step" in press("stop", "grid-3")
    assert until(lambda: live() == ["grid-1", "grid-2"], 60)
    controls.follow()
    assert controls._buttons["stop"].disabled
    controls._changes.value = "learning_rate=oops"
    assert "should be a valid number" in press("fork", "grid-1")
    controls._changes.value = "learning_rate=2e-5"
    assert "grid-4 goes on from grid-1" in press("fork", "grid-1")
    assert [session.name for session in race] == ["grid-1", "grid-2", "grid-3", "grid-4"]
    assert "grid-4" in controls._run.options
    assert race.table().loc["grid-4", "learning_rate"] == 2e-5
    press("promote", "grid-4")
    assert until(lambda: live() == ["grid-4"], 60)
    assert race.promoted is race[3]
    with pytest.raises(AddressError, match="'grid-9' is no run of grid"):
        race.promote("grid-9")
    race.close()
    del race
    gc.collect()
    assert controls._ref() is None  # the buttons that are left in the page do not hold it
    assert "the race is closed" in press("promote", "grid-4")
