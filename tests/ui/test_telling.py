from __future__ import annotations

import json

import numpy as np
from small_run import SmallRun

from jupyter_ft.event_log import Cursor
from jupyter_ft.messages import Crashed, Logged, Progress, ReplyPart, Resumed
from jupyter_ft.ui.telling import BEAT_EVERY, NEWS_ROWS, SILENT_AFTER, SILENT_EVERY, STORY_ROWS, Message, View, digest
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


def test_the_bytes_of_a_new_point_do_not_grow_with_the_length_of_the_run() -> None:
    run = SmallRun(total_steps=10**6)
    view = View("a", heard=0)
    costs = []
    for before in (100, 100_000):
        run.take(before - run.step)
        view.cursor = None
        story = view.next_message(run, 0.0)
        assert story is not None
        assert story.content["rows"] <= STORY_ROWS
        assert story.bytes < 150_000
        view.curves_told = -1.0
        run.take(100)
        news = view.next_message(run, 0.0)
        assert news is not None
        assert news.content["rows"] == 100
        costs.append(news.bytes / 100)
    assert costs[1] <= costs[0] * 1.02
    run.take(20_000)  # a view that slept gets few points, not the bytes of all
    late = view.next_message(run, 1.0)
    assert late is not None
    assert late.content["rows"] <= NEWS_ROWS


def test_curves_go_four_times_a_second_and_words_ten_times(run: SmallRun) -> None:
    view = View("a", heard=0)
    view.next_message(run, 0.0)
    kinds = []
    for tenth in range(20):
        run.take(1)
        run.log.append(ReplyPart(command="c", text="x"))
        message = view.next_message(run, tenth / 10)
        assert message is not None
        kinds.append("rows" in message.content)
    assert len(kinds) == 20
    assert sum(kinds) <= 8


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
    message = view.next_message(run, 0.01)
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
