"""The log keeps everything in order, survives a torn line or row, and gives each reader what it has not seen."""

from __future__ import annotations

import math
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_ft.event_log import Cursor, EventLog
from jupyter_ft.messages import (
    Applied,
    Logged,
    Progress,
    ReplyDone,
    ReplyPart,
    Resumed,
    StateChanged,
    StepDone,
    event_from,
)


def step(number: int, loss: float = 1.0, **metrics: float) -> StepDone:
    return StepDone(
        step=number,
        loss=loss,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens=100,
        seconds=0.5,
        epoch=0.1,
        metrics=metrics or {"x": 2.0},
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
    path.write_bytes(whole + b'{"kind": "log", "te')
    rows = tmp_path / "steps" / "0001.f64"
    rows.write_bytes(rows.read_bytes() + bytes(13))  # a row that was cut short
    (rows.parent / "0002.f64").write_bytes(b'{"columns": ["st')  # and the first line of the next file
    again = EventLog(path)
    again.append(Logged(level="info", text="on a line of its own"))
    again.append(step(4))
    again.close()
    news, _ = EventLog(path).read()
    assert news.steps["step"].tolist() == [1, 2, 3, 4]
    assert news.steps["loss"].tolist() == [1.0, math.inf, 1.0, 1.0]
    assert news.steps["x"].tolist() == [2.0, 2.0, 2.0, 2.0]
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


def test_what_was_taken_back_stays_so_when_it_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for first, last in ((1, 6), (4, 9), (9, 8)):  # the last is taken back and goes no further
        log = EventLog(path)
        if first > 1:
            log.append(Resumed(step=first - 1))
        for number in range(first, last + 1):
            log.append(step(number, first + number / 7))
        log.close()
    log = EventLog(path)
    assert log.last_step == 8
    log.append(Resumed(step=5))
    log.append(step(6, 0.1))
    expected = [*(1 + n / 7 for n in (1, 2, 3)), 4 + 4 / 7, 4 + 5 / 7, 0.1]
    for one in (log, EventLog(path)):
        steps = one.read()[0].steps
        assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
        assert steps["loss"].tolist() == expected  # to the last bit
    assert len(list((tmp_path / "steps").iterdir())) == 4  # nothing on disk is written over


def test_a_column_that_comes_late_is_nan_before(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append(step(1, x=1.0))
    log.append(step(2, x=1.0, late=5.0))
    log.append(step(3, late=6.0))
    log.close()
    for one in (log, EventLog(path)):
        steps = one.read()[0].steps
        assert str(steps["x"].tolist()) == "[1.0, 1.0, nan]"
        assert str(steps["late"].tolist()) == "[nan, 5.0, 6.0]"
        assert one.last_row["late"] == 6.0
    assert "time" not in steps


def test_a_log_whose_steps_are_lines_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    old = [step(1), step(2, math.nan), step(3), step(4), Resumed(step=3), step(4, 4.5, late=1.0)]
    path.write_text("".join(event.model_dump_json() + "\n" for event in old))
    log = EventLog(path)
    assert log.last_row["loss"] == 4.5
    log.append(Resumed(step=2))
    log.append(step(3, 3.5))
    log.close()
    steps = EventLog(path).read()[0].steps
    assert str(steps["loss"].tolist()) == "[1.0, nan, 3.5]"
    assert str(steps["x"].tolist()) == "[2.0, 2.0, 2.0]"


WRITER = """
import sys
from pathlib import Path
from jupyter_ft.event_log import EventLog
from jupyter_ft.messages import StepDone
log = EventLog(Path(sys.argv[1]))
for n in range(1, 10**9):
    log.append(StepDone(step=n, loss=1 / n, learning_rate=0, grad_norm=0, tokens=1, seconds=1, epoch=0))
    print(n, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_step(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(5000)]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
    steps = EventLog(path).read()[0].steps
    assert len(steps["step"]) >= said[-1]
    assert steps["loss"].tolist() == [1 / n for n in range(1, len(steps["step"]) + 1)]


@pytest.fixture
def small_disk() -> Iterator[Callable[[], None]]:
    """No file of this process may grow past 100 kB, until `release` is called."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, quiet)


@pytest.mark.slow
def test_a_full_disk_loses_no_step_of_a_living_run(tmp_path: Path, small_disk: Callable[[], None]) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for number in range(1, 20_001):
        log.append(step(number, 1 / number))
        if number == 15_000:
            assert (tmp_path / "steps" / "0001.f64").stat().st_size == 100_001  # the last row there is cut short
            small_disk()
    losses = [1 / number for number in range(1, 20_001)]
    assert log.read()[0].steps["loss"].tolist() == losses
    assert [event.kind for event in log.read()[0].events] == ["log"]
    log.close()
    assert EventLog(path).read()[0].steps["loss"].tolist() == losses


def test_parts_of_a_finished_reply_are_let_go() -> None:
    log = EventLog()
    for _ in range(5):
        log.append(ReplyPart(command="c", text="x"))
    _, cursor = log.read()
    log.append(reply("c"))
    assert [event.kind for event in log.read()[0].events] == ["reply"]
    assert [event.kind for event in log.read(cursor)[0].events] == ["reply"]
    assert log.answer("c") == reply("c").model_copy(update={"time": log.answer("c").time})


def test_of_what_goes_on_only_the_last_word_is_kept() -> None:
    log = EventLog()
    for what in ("loading", "tokenising"):
        for done in range(100):
            log.append(Progress(what=what, done=done, total=100))
    assert [(event.what, event.done) for event in log.read()[0].events] == [("loading", 99), ("tokenising", 99)]


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
