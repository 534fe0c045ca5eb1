"""The log keeps everything in order, survives a torn line, and gives each reader what it has not seen."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from jupyter_ft.event_log import Cursor, EventLog
from jupyter_ft.messages import Applied, Logged, ReplyDone, ReplyPart, Resumed, StateChanged, StepDone, event_from


def step(number: int, loss: float = 1.0) -> StepDone:
    return StepDone(
        step=number,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens=100,
        seconds=0.5,
        epoch=0.1,
        metrics={"x": 2.0},
    )


def reply(command: str) -> ReplyDone:
    return ReplyDone(
        command=command, turn="t", thread="t", at="live", step=1, prompt="p", text="whole",
        tokens=1, tokens_per_second=1, first_token_seconds=1, ended="eos",
    )  # fmt: skip


def test_readers_get_what_is_new() -> None:
    log = EventLog()
    log.append(StateChanged(state="running"))
    log.append(step(1))
    news, cursor = log.read()
    assert [event.kind for event in news.events] == ["state"]
    assert news.steps["step"].tolist() == [1]
    log.append(step(2, math.nan))
    news, cursor = log.read(cursor)
    assert news.events == []
    assert news.steps["step"].tolist() == [2]
    assert math.isnan(news.steps["loss"][0])
    assert news.steps["tokens_per_second"].tolist() == [200]
    assert log.read(cursor)[0].steps["step"].size == 0


def test_it_is_read_again_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for number in (1, 2, 3):
        log.append(step(number, math.inf if number == 2 else 1.0))
    log.append(ReplyPart(command="c", text="not kept"))
    log.append(reply("c"))
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "step", "st')
    again = EventLog(path)
    again.append(Logged(level="info", text="on a line of its own"))
    again.close()
    news, _ = EventLog(path).read()
    assert news.steps["loss"].tolist() == [1.0, math.inf, 1.0]
    assert news.steps["x"].tolist() == [2.0, 2.0, 2.0]
    assert [event.kind for event in news.events] == ["reply", "log"]
    assert path.read_bytes().startswith(whole)


def test_taken_back_steps_restart_the_readers() -> None:
    log = EventLog()
    for number in range(1, 6):
        log.append(step(number))
    _, cursor = log.read()
    log.append(Resumed(step=3))
    log.append(step(4, 9.0))
    news, cursor = log.read(cursor)
    assert news.restart
    assert news.steps["step"].tolist() == [1, 2, 3, 4]
    assert not log.read(cursor)[0].restart


def test_parts_of_a_finished_reply_are_let_go() -> None:
    log = EventLog()
    for _ in range(5):
        log.append(ReplyPart(command="c", text="x"))
    _, cursor = log.read()
    log.append(reply("c"))
    assert [event.kind for event in log.read()[0].events] == ["reply"]
    assert [event.kind for event in log.read(cursor)[0].events] == ["reply"]
    assert log.answer("c") == reply("c").model_copy(update={"time": log.answer("c").time})


def test_waiting_ends_with_the_event() -> None:
    log = EventLog()
    applied = Applied(command="a", verb="set", step=3)
    threading.Timer(0.05, log.append, [applied]).start()
    assert log.wait_for(lambda: log.answer("a") is not None, 10)
    assert not log.wait_for(lambda: log.answer("b") is not None, 0.01)


def test_ten_thousand_steps_are_small_in_memory() -> None:
    log = EventLog()
    for number in range(10_000):
        log.append(step(number))
    news, cursor = log.read(Cursor())
    assert cursor.rows == 10_000
    assert sum(column.nbytes for column in news.steps.values()) <= 10_000 * 8 * 9
    assert news.events == []


def test_every_message_round_trips_as_json() -> None:
    for event in (step(1, math.nan), reply("c"), Applied(command="a", verb="set", step=1, changes={"x": (1, None)})):
        assert event_from(event.model_dump_json()).model_dump_json() == event.model_dump_json()
