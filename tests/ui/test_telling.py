from __future__ import annotations

import json

import numpy as np
import pytest
from small_run import SmallRun

from jupyter_ft.event_log import Cursor
from jupyter_ft.messages import CheckpointSaved, Confusion, Crashed, EvalDone, Logged, Progress, ReplyPart, Resumed
from jupyter_ft.ui.telling import (
    BEAT_EVERY,
    MARKS_KEPT,
    NEWS_ROWS,
    SILENT_AFTER,
    SILENT_EVERY,
    STORY_ROWS,
    TOLD_EVERY,
    VIEW_ROWS,
    Message,
    View,
    digest,
)
from jupyter_ft.ui.thin import thin


def curve(message: Message, columns: list[str]) -> dict[str, np.ndarray]:
    table = np.frombuffer(message.buffers[0], "<f4").reshape(len(columns), message.content["rows"])
    return dict(zip(columns, table, strict=True))


def test_a_story_of_many_steps_stays_small_and_keeps_peaks_and_what_is_not_finite() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(1, 100_001.0)
    loss = rng.normal(2, 0.1, len(steps))
    loss[[777, 54_321]] = np.nan, 99.0
    thinned = thin({"step": steps, "loss": loss, "grad_norm": rng.normal(1, 0.1, len(steps))}, STORY_ROWS)
    assert len(thinned["step"]) <= STORY_ROWS
    assert thinned["step"][0] == 1
    assert thinned["step"][-1] == 100_000
    assert 778 in thinned["step"][np.isnan(thinned["loss"])]
    assert np.nanmax(thinned["loss"]) == 99.0
    rows = thinned["step"].astype(int) - 1
    np.testing.assert_array_equal(loss[rows], thinned["loss"])  # true values at true steps


def test_a_column_that_is_never_finite_is_thinned_too() -> None:
    steps = np.arange(5000.0)
    assert len(thin({"step": steps, "loss": np.full(5000, np.nan)}, 500)["step"]) <= 500


def test_a_view_that_slept_gets_few_points(run: SmallRun) -> None:
    view = View("a", heard=0)
    view.next_message(run, 0.0)
    run.take(20_000, bad=(12_345,))
    late = view.next_message(run, 1.0)
    assert late is not None
    assert NEWS_ROWS // 4 < late.content["rows"] <= NEWS_ROWS
    told = np.frombuffer(late.buffers[0], "<f4").reshape(-1, late.content["rows"])
    assert told[0, [0, -1]].tolist() == [1, 20_000]
    assert told[0][~np.isfinite(told[1])].tolist() == [12_345]


@pytest.mark.slow
def test_a_browser_never_holds_more_than_so_many_points() -> None:
    run = SmallRun(total_steps=10**6)
    view = View("a", heard=0)
    held, most, steps, told = 0, 0, [], 0
    for now in range(600):
        run.take(100)
        message = view.next_message(run, float(now))
        assert message is not None
        if message.content.get("restart") or message.content["t"] == "story":
            held, steps = 0, []
        held += message.content["rows"]
        steps += np.frombuffer(message.buffers[0], "<f4")[: message.content["rows"]].tolist()
        most, told = max(most, held), told + message.bytes
    assert VIEW_ROWS / 2 < most <= VIEW_ROWS
    assert steps == sorted(set(steps))  # nothing twice
    assert (steps[0], steps[-1]) == (1, 60_000)
    assert told / 60_000 < 1.15 * 9 * 4 + 10  # thinning again and again adds less than a seventh
    run.become("paused")
    assert "rows" not in view.next_message(run, 1e3).content


def test_a_view_is_told_four_times_a_second_at_most(run: SmallRun) -> None:
    view = View("a", heard=0)
    told, words = [], 0
    for hundredth in range(500):
        run.take(1)
        run.log.append(ReplyPart(command="c", text="x"))
        if view.due(hundredth / 100):
            message = view.next_message(run, hundredth / 100)
            assert message is not None
            told.append(hundredth / 100)
            words += sum(len(event["text"]) for event in message.content["events"])
    assert len(told) == 20
    assert min(np.diff(told)) >= TOLD_EVERY
    assert 475 < words <= 500  # a reply is told in pieces as large as it takes


def test_a_quiet_live_run_still_beats_and_one_that_is_over_is_silent(run: SmallRun) -> None:
    view = View("a", heard=0)
    view.next_message(run, 0.0)
    assert view.next_message(run, BEAT_EVERY - 1) is None
    beat = view.next_message(run, BEAT_EVERY)
    assert beat is not None
    assert beat.content["t"] == "beat"
    run.become("finished")
    assert view.next_message(run, BEAT_EVERY + 1) is not None
    assert view.next_message(run, 10 * BEAT_EVERY) is None


def test_a_silent_view_is_told_seldom() -> None:
    view = View("a", heard=0, cursor=Cursor(), told=SILENT_AFTER)
    assert not view.due(SILENT_AFTER + 1)
    assert view.due(SILENT_AFTER + SILENT_EVERY)


def test_steps_taken_back_are_told_as_a_restart(run: SmallRun) -> None:
    view = View("a", heard=0)
    run.take(30)
    view.next_message(run, 0.0)
    run.log.append(Resumed(step=10))
    run.step = 10
    run.take(2)
    message = view.next_message(run, 1.0)
    assert message is not None
    assert message.content["restart"] is True
    columns = ["step", *["x"] * (len(message.buffers[0]) // 4 // 12 - 1)]
    assert curve(message, columns)["step"].tolist() == [*range(1, 13)]


def test_numbers_that_are_not_finite_are_json(run: SmallRun) -> None:
    run.take(3, bad=(2,))
    run.start_reply("c", "hi")
    message = View("a", heard=0).next_message(run, 0.0)
    assert message is not None
    json.dumps(message.content, allow_nan=False)


def test_the_marks_of_a_long_run_are_thinned_too(run: SmallRun) -> None:
    for step in range(1, 3001):
        run.log.append(CheckpointSaved(step=step, path="c", bytes=1, seconds=0.1))
        run.log.append(EvalDone(step=step, metrics={"eval_loss": 1.0}, best_step=1, rows=5, seconds=0.1))
    run.apply("c", learning_rate=1e-5)
    message = View("a", heard=0).next_message(run, 0.0)
    assert message is not None
    for kind in ("checkpoint", "eval"):
        steps = [event["step"] for event in message.content["events"] if event["kind"] == kind]
        assert len(steps) == MARKS_KEPT
        assert (steps[0], steps[-1]) == (1, 3000)
        assert max(np.diff(steps)) <= 7
    assert [event["kind"] for event in message.content["events"]][-1] == "applied"


def test_a_digest_joins_parts_and_drops_what_is_past() -> None:
    run = SmallRun()
    for done in range(10):
        run.log.append(Progress(what="load", done=done, total=10))
    for line in range(500):
        run.log.append(Logged(level="info", text=str(line)))
    run.start_reply("open", "hi")
    for letter in "hello":
        run.log.append(ReplyPart(command="open", text=letter))
    run.reply("whole", "q", "a b c")
    kept = digest(run.log.read()[0].events)
    assert [event.done for event in kept if isinstance(event, Progress)] == [9]
    assert sum(isinstance(event, Logged) for event in kept) == 200
    assert [event.text for event in kept if isinstance(event, ReplyPart)] == ["hello"]
    assert [event.kind for event in kept if getattr(event, "command", "") == "whole"] == ["reply"]


def test_a_line_or_a_traceback_without_end_does_not_swell_the_message(run: SmallRun) -> None:
    for _ in range(300):
        run.log.append(Logged(level="info", text="a" + "x" * 100_000))
    run.log.append(Crashed(step=3, error="E", traceback="y" * 10**6 + "the last line"))
    message = View("a", heard=0).next_message(run, 0.0)
    assert message is not None
    assert message.bytes < 300_000
    lines = [event for event in message.content["events"] if event["kind"] == "log"]
    assert len(lines) == 200
    assert lines[0]["text"].startswith("axx")
    assert message.content["events"][-1]["traceback"].endswith("the last line")


def test_a_latecomer_is_told_one_confusion_matrix() -> None:
    matrix = Confusion(labels=["a", "b"], counts=[[1, 2], [3, 4]])
    more = {"metrics": {"eval_accuracy": 0.5}, "best_step": 1, "rows": 10, "seconds": 1.0}
    scored = [EvalDone(step=step, confusion=matrix if step < 4 else None, **more) for step in (1, 2, 3, 4)]
    told = digest(scored)
    assert [event.confusion for event in told] == [None, None, matrix, None]
    assert all(event.metrics == {"eval_accuracy": 0.5} for event in told)
    assert scored[0].confusion == matrix  # the log keeps them all
