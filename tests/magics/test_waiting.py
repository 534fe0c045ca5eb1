"""Where nobody looks at a panel, a wait says now and then how far it is."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ft.magics import waiting

    monkeypatch.setenv("JUPYTER_FT_FRONTEND", "headless")
    monkeypatch.setattr(waiting, "FIRST", 0.02)


def lines_of(said: str, name: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(name)]


@pytest.mark.slow
def test_a_wait_says_how_far_a_run_is(
    tune: Any, shell: Any, capsys: pytest.CaptureFixture[str], headless: None
) -> None:
    from jupyter_ft.magics.verbs import run

    session = tune("kept", adapter={"r": 4}, max_steps=100_000)
    session.wait(step=1, timeout=60)
    run(shell, ["wait", "kept", "--step", "200"])
    told = lines_of(capsys.readouterr().out, "kept is running, step ")
    assert told
    assert all("/200, loss " in line and line.endswith(" s)") for line in told)
    assert len(told) < 15  # each pause is twice the one before
    session.close()


@pytest.mark.slow
def test_a_wait_says_how_far_the_runs_of_a_race_are(
    shell: Any, tiny_model: Any, rows: Any, capsys: pytest.CaptureFixture[str], headless: None
) -> None:
    from jupyter_ft.magics.verbs import run

    shell.push({"kept": rows, "tiny": str(tiny_model)})
    cell = "%%finetune grid --model tiny --data kept --no-wait\nmax_steps: 100000\nrace: {learning_rate: [1e-3, 2e-3]}"
    assert shell.run_cell(cell).success
    race = shell.user_ns["grid"]
    race.wait(step=1, timeout=60)
    capsys.readouterr()
    run(shell, ["wait", "grid", "--step", "200"])
    said = capsys.readouterr().out
    assert re.search(r"^grid-1 at \d+/200, grid-2 at \d+/200 \(0 s\)$", said, re.MULTILINE)
    race.close()


@pytest.mark.slow
def test_a_panel_tells_already(
    tune: Any, shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, headless: None
) -> None:
    from jupyter_ft.magics.notebook import Place
    from jupyter_ft.magics.waiting import wait

    session = tune("kept", adapter={"r": 4}, max_steps=3)
    assert wait(session, Place(rich=True, headless=False), record=False)
    assert lines_of(capsys.readouterr().out, "kept is ") == []


@pytest.mark.slow
def test_a_cell_that_nobody_sits_before_ends_when_the_report_is_written(
    tune: Any, shell: Any, headless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupyter_ft.magics.verbs import run
    from jupyter_ft.ui import report, views

    write, never = report.write_report, threading.Event()

    def slowly(session: Any, path: Path | None = None) -> Path:
        never.wait(1)
        return write(session, path)

    monkeypatch.setattr(report, "write_report", slowly)
    monkeypatch.setattr(views, "in_a_kernel", lambda: True)
    session = tune("kept", max_steps=2)
    run(shell, ["wait", "kept"])
    assert (session.folder / "report.html").is_file()
