"""A run of a million steps is opened at once, costs no more memory than a short one, and no more bytes a point."""

from __future__ import annotations

import json
import math
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_ft import events
from jupyter_ft.event_log import EventLog
from jupyter_ft.health import Watch
from jupyter_ft.messages import Applied, EvalDone, Event, Health, Resumed, StateChanged, StepDone, StepRefused
from jupyter_ft.picture import MOST_ROWS
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import RunFolder
from jupyter_ft.steps import BASE_COLUMNS, NEWEST, Steps
from jupyter_ft.ui.figure import figure
from jupyter_ft.ui.record import record_html, record_text
from jupyter_ft.ui.telling import STORY_ROWS, View
from jupyter_ft.ui.watched import past_of

sys.path.insert(0, str(Path(__file__).parent / "ui"))
from small_run import SmallRun

MILLION = 1_000_000
SPIKE, BAD = 567_891, 333_333
MB = 2**20


def rows_of(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Steps as `steps.Steps` has them on disk: a quiet loss, one spike, one NaN."""
    n = np.arange(1.0, count + 1)
    loss = 2 + np.sin(n * 12.9898) / 10
    if count > SPIKE:
        loss[[SPIKE - 1, BAD - 1]] = 77.0, math.nan
    ones = np.ones(count)
    return np.stack([n, loss, ones * 1e-4, 1 + np.cos(n) / 10, ones * 100, ones * 200, ones / 2, n / 1e6, ones], axis=1)


def write_run(folder: Path, count: int) -> Path:
    """The log of a finished run of `count` steps: its `events.jsonl`."""
    (folder / "steps").mkdir(parents=True)
    with (folder / "steps" / "0001.f64").open("wb") as file:
        file.write(json.dumps({"columns": [*BASE_COLUMNS, "time"], "after": None}).encode() + b"\n")
        rows_of(count).astype("<f8").tofile(file)
    done = StateChanged(state="finished", step=count, total_steps=count)
    (folder / "events.jsonl").write_text(done.model_dump_json() + "\n")
    return folder / "events.jsonl"


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_run(tmp_path_factory.mktemp("million"), MILLION)
    yield path
    for file in (path.parent / "steps").iterdir():
        file.unlink()


def peak(work: Callable[[], object]) -> float:
    """Bytes that `work` has in hand at once, at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def step_done(number: int) -> StepDone:
    return StepDone.model_construct(
        step=number, loss=1 / number, learning_rate=1e-4, grad_norm=1.0, tokens=9, seconds=0.5, epoch=0.1,
        metrics={"x": 1.0}, time=0.0,
    )  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    path = write_run(tmp_path, 300_000)  # 22 MB
    held = []
    tracemalloc.start()
    log = EventLog(path)
    for number in range(300_001, 318_001):
        log.append(step_done(number))
        if number % 1000 == 0:
            log.read(steps="picture")
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert (
        max(held) < (MOST_ROWS + 2 * NEWEST) * 11 * 8 + MB
    )  # ten numbers a row and its own: 3.6 MB, and odds and ends
    assert log.read()[0].steps["loss"][300_000:].tolist() == [1 / number for number in range(300_001, 318_001)]


@pytest.mark.slow
def test_looking_at_a_long_run_copies_little_of_it(million: Path) -> None:
    log = EventLog(million)
    run = SmallRun(log=log, step=MILLION, total_steps=MILLION, state="finished")
    assert peak(lambda: log.last_row) < MB / 10
    for look in (record_text, record_html, figure, lambda run: View("a", heard=0).next_message(run, 0.0)):
        assert peak(lambda look=look: look(run)) < 45 * MB, look  # all of it is 72 MB, and a copy as much again
    assert peak(lambda: log.read(log.end, steps="picture")) < MB / 10


def test_asking_for_the_state_of_a_long_run_copies_nothing_of_it(million: Path) -> None:
    from jupyter_ft.session import Session

    log = EventLog(million)
    session = Session(parse_recipe({}), RunFolder(million.parent), log, None)

    def ask() -> None:
        assert session.state == "finished"
        assert session.step == MILLION
        assert session.wait(step=MILLION) is session
        assert session.events[0].kind == "state"
        assert session.hyperparameters == session.recipe.hyperparameters

    assert peak(ask) < MB / 2
    assert session.metrics["loss"][SPIKE] == 77.0
    assert len(session.metrics) == MILLION


MANY = 24_000


def along_the_way(number: int) -> list[Event]:
    """What a run says by itself at each of very many steps; the best evaluation is a twelfth of the way."""
    best = min(number, MANY // 12)
    return [
        EvalDone(
            step=number, metrics={"eval_loss": 1 + abs(number - MANY // 12) / MANY}, best_step=best, rows=9, seconds=1
        ),
        StepRefused(step=number, loss=math.nan, grad_norm=math.nan, rows=[number % 50]),
        Health(step=number, level="amber", said=f"step {number} was not finite"),
    ]


@pytest.mark.slow
def test_what_comes_along_by_itself_does_not_grow_in_memory_and_is_all_on_disk(tmp_path: Path) -> None:
    from jupyter_ft.session import Session

    log, held = EventLog(tmp_path / "events.jsonl"), []
    watch, edit = Watch("run"), Applied(command="c", verb="set", step=3, changes={"learning_rate": (1e-3, 1e-4)})
    log.append(edit)
    tracemalloc.start()
    for number in range(1, MANY + 1):
        for event in along_the_way(number):
            log.append(event)
        if number % (MANY // 6) == 0:
            watch.look(log)
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[-1] < 1.5 * held[0]
    assert max(held) < 10 * MB
    log.close()

    again = EventLog(tmp_path / "events.jsonl")
    session = Session(parse_recipe({}), RunFolder(tmp_path), again, None)
    assert session.best_step == MANY // 12
    assert session.changes == [edit]
    assert session.health.step == MANY
    everything = session.events
    assert len(everything) == 3 * MANY + 1
    assert [event.step for event in everything if isinstance(event, EvalDone)] == list(range(1, MANY + 1))
    run = SmallRun(log=again, step=MANY)
    past = past_of(run)
    for kept in (past.evals, past.refused, past.notices):
        assert len(kept) <= 2 * events.NEWEST + 1
        assert (kept[0].step, kept[-1].step) == (1, MANY)
        assert max(b.step - a.step for a, b in pairwise(kept)) <= 4 * MANY / events.NEWEST
    assert f"lowest 1 at step {MANY // 12}" in record_text(run)
    assert peak(lambda: again.read(again.end)) < MB / 10


def test_neither_a_spike_nor_what_is_not_finite_is_smoothed_away(million: Path) -> None:
    log = EventLog(million)
    view = View("a", heard=0)
    story = view.next_message(SmallRun(log=log, step=MILLION), 0.0)
    assert story is not None
    assert STORY_ROWS / 2 < story.content["rows"] <= STORY_ROWS
    told = np.frombuffer(story.buffers[0], "<f4").reshape(-1, story.content["rows"])
    assert told[1, told[0] == SPIKE].tolist() == [77.0]
    assert told[0][np.isnan(told[1])].tolist() == [BAD]
    assert told[0, [0, -1]].tolist() == [1, MILLION]
    assert np.histogram(told[0], 10, (0, MILLION))[0].min() > STORY_ROWS / 20  # evenly, the end no more than the rest
    drawn = figure(SmallRun(log=log, step=MILLION))
    assert max(drawn.data[0].y) == 77.0
    assert "Not finite at step 333333" in record_html(SmallRun(log=log, step=MILLION))


@pytest.mark.slow
@pytest.mark.parametrize("seen", [0, 1, 499_999, 567_000, 567_890, 567_891, MILLION - 10_000, MILLION - 3])
def test_a_picture_from_any_row_has_every_peak_after_it(million: Path, seen: int) -> None:
    steps = Steps(million.parent / "steps")
    found, everything = steps.pictured(seen), rows_of(MILLION)[seen:, 1]
    assert found["step"][0] == seen + 1
    assert found["step"][-1] == MILLION
    assert (np.diff(found["step"]) > 0).all()
    assert np.nanmax(found["loss"]) == np.nanmax(everything)
    assert np.nanmin(found["loss"]) == np.nanmin(everything)
    np.testing.assert_array_equal(found["loss"], rows_of(MILLION)[found["step"].astype(int) - 1, 1])  # true rows


@pytest.mark.slow
def test_a_picture_that_grew_step_by_step_is_right_after_steps_were_taken_back(tmp_path: Path) -> None:
    steps = Steps(tmp_path / "steps")
    truth = rows_of(100_000)
    truth[70_002, 1] = 50.0  # to be taken back; the next lower peak of its bucket must come back
    truth[69_999, 1] = 40.0
    names = list(BASE_COLUMNS)
    for row in truth.tolist():
        steps.append(dict(zip(names, row, strict=False)))
        steps.save()
    assert np.max(steps.pictured(0)["loss"]) == 50.0
    steps.truncate(70_001)
    picture = steps.pictured(0)
    assert picture["step"][-1] == 70_001
    assert np.max(picture["loss"]) == 40.0
    assert len(picture["step"]) < 40_000


def test_the_bytes_of_a_new_point_are_the_same_at_any_length(tmp_path: Path, million: Path) -> None:
    costs = {}
    for length in (100, 10_000, MILLION):
        log = EventLog(million if length == MILLION else write_run(tmp_path / str(length), length))
        log.close()  # what comes now stays in memory: the file is for the other tests too
        run = SmallRun(log=log, step=length, total_steps=2 * MILLION)
        view = View("a", heard=0)
        story = view.next_message(run, 0.0)
        assert story is not None
        assert story.bytes < STORY_ROWS * 9 * 4 + 20_000
        view.columns = ()  # the names are told again once, when the first new column comes
        costs[length] = [told(run, view) for _ in range(40)]
    assert sum(costs[MILLION]) <= 1.02 * sum(costs[100])
    assert sum(costs[10_000]) <= 1.02 * sum(costs[100])
    assert costs[MILLION][-1] <= costs[MILLION][1] * 1.001


def told(run: SmallRun, view: View) -> float:
    run.take(25)
    message = view.next_message(run, 0.0)
    assert message is not None
    assert message.content["rows"] == 25
    return message.bytes / 25


def test_steps_that_a_reader_has_not_seen_are_read_from_disk(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(1, 20_001):
        log.append(step_done(number))
        if number == 7:
            cursor = log.end
    steps = log.read(cursor)[0].steps["step"]
    assert len(steps) > 4 * NEWEST
    assert steps.tolist() == list(range(8, 20_001))
    log.append(Resumed(step=5))
    assert log.read(cursor)[0].steps["step"].tolist() == [1, 2, 3, 4, 5]
    assert log.last_step == 5


@pytest.mark.slow
def test_what_transformers_keeps_does_not_grow(tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    """Its `log_history` has an entry a logged step, and is written to each of its checkpoints."""
    from transformers import TrainerCallback

    from jupyter_ft.control.checkpoint import STATE, write_checkpoint
    from jupyter_ft.control.hooks import Hooks
    from jupyter_ft.control.inbox import Inbox
    from jupyter_ft.control.lease import Lease, Streams, Turn
    from jupyter_ft.control.port import Port

    from .laws._runs import bare_trainer

    recipe = parse_recipe({"model": str(tiny_model), "dtype": "float32", "batch_size": 5, "epochs": 3})
    trainer = bare_trainer(tiny_model, rows, recipe, tmp_path / "t")
    entries, sizes = [], []

    class Count(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            entries.append(len(state.log_history))
            (tmp_path / "c").mkdir(exist_ok=True)
            if state.global_step % 10 == 9:  # the last of an epoch of ten
                state.save_to_json(str(tmp_path / "state.json"))
                write_checkpoint(port, tmp_path / "c")
                sizes.append([(tmp_path / "state.json").stat().st_size, (tmp_path / "c" / STATE).stat().st_size])

    log, turn = EventLog(), Turn(Lease(), Streams.now(), draws=False)
    hooks = Hooks(publish=lambda step: None, save=lambda step: None)
    port = Port(trainer, recipe.hyperparameters, log=log, inbox=Inbox(), turn=turn, hooks=hooks)
    trainer.add_callback(Count())
    turn.take()
    trainer.train()
    turn.give()
    assert log.last_step == len(entries) == 30
    assert max(entries) == 0
    assert len(sizes) == 3
    np.testing.assert_allclose(sizes[2], sizes[0], atol=60)  # more digits here and there, no more entries
