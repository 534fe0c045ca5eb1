from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.magics.logs import TAIL
from jupyter_ft.messages import Applied, Crashed, Health, Logged, Refused, SaveFailed, StateChanged, StepRefused
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import RunFolder
from jupyter_ft.session import Session, open_run


@pytest.fixture
def session(runs: Path) -> Session:
    """A past run in which nothing was said yet."""
    folder = RunFolder.create("support", runs)
    folder.write_recipe(parse_recipe({}), {})
    return open_run("support")


@pytest.fixture
def said(shell: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(line: str) -> list[str]:
        capsys.readouterr()
        assert shell.run_cell(line).success
        return capsys.readouterr().out.splitlines()

    return run


def test_lines_with_time_and_level(session: Session, said: Any) -> None:
    for level in ("debug", "info", "out", "warning", "error", "critical"):
        session.log.append(Logged(level=level, text=f"a line of {level}", time=0.0))
    session.log.append(Crashed(step=3, error="ValueError: no", traceback="Traceback\n  here\nValueError: no", time=0.0))
    state, *lines = said("%ft logs support")
    assert state.endswith("info     stopped: its kernel ended while it was live")
    assert re.fullmatch(r"19(69|70)-\d\d-\d\d \d\d:\d\d:\d\d  info     a line of info", lines[0])
    assert [line[21:29].strip() for line in lines[:6]] == ["info", "out", "warning", "error", "critical", "error"]
    assert [line.strip() for line in lines[6:]] == ["here", "ValueError: no"]
    assert [line[21:29].strip() for line in said("%ft logs --level warning")][:2] == ["warning", "error"]
    assert len(said("%ft logs support --level=debug --tail 100")) == 10
    assert said("%ft logs --tail 2 --level debug")[0].endswith("a line of critical")


def test_what_happened_is_told_as_in_the_log_tab(session: Session, said: Any) -> None:
    for event in (
        StateChanged(state="running"),
        Applied(command="a", verb="set", step=4, changes={"learning_rate": (2e-4, 5e-5)}),
        Refused(command="b", verb="set", step=4, reason="rank is fixed"),
        StepRefused(step=5, loss=float("nan"), grad_norm=1.0, rows=[7, 8]),
        Health(step=5, level="amber", said="step 5 was not finite (loss nan)"),
        SaveFailed(step=6, reason="No space left on device"),
        StateChanged(state="stopped", step=6),
    ):
        session.log.append(event)
    assert [line[21:].strip() for line in said("%ft logs support")[1:]] == [
        "info     running at step 0",
        "info     set applied at step 4: learning_rate 2e-4 → 5e-5",
        "warning  set refused: rank is fixed",
        "warning  step 5 was not finite and was kept from the weights (rows 7, 8)",
        "warning  amber: Step 5 was not finite (loss nan)",
        "error    no checkpoint of step 6: No space left on device",
        "info     stopped at step 6",
    ]
    assert len(said("%ft logs support --level error")) == 1


def test_a_long_log_is_its_end_and_says_so(session: Session, said: Any) -> None:
    assert said("%ft logs --level warning") == ["support has logged nothing of level warning or above"]
    for number in range(TAIL + 29):
        session.log.append(Logged(level="info", text=f"line {number}"))
    lines = said("%ft logs")
    assert lines[0] == f"the last {TAIL} of {TAIL + 30} lines; --tail {TAIL + 30} shows all"
    assert lines[-1].endswith(f"line {TAIL + 28}")
    assert len(lines) == TAIL + 1


def test_nothing_in_it_steers_the_terminal(session: Session, said: Any) -> None:
    session.log.append(Logged(level="in\x1bfo", text="a\x1b[31mred\x1b[0m \x1b]0;owned\x07b\x08\u202ec\rd\x9b2J"))
    text = "\n".join(said("%ft logs"))
    assert text.endswith("ared bcd2J")
    assert not {"\x1b", "\x07", "\x08", "\u202e", "\r", "\x9b"} & set(text)


def test_levels_that_are_not_there(session: Session, refused: Any) -> None:
    assert "did you mean 'warning'?" in refused("%ft logs --level warnig")
    assert "there are debug, info, out, warning, error" in refused("%ft logs --level loud")
    assert "should be a whole number from 1" in refused("%ft logs --tail 0")


@pytest.mark.slow
def test_a_report_of_a_past_run(session: Session, said: Any, refused: Any, runs: Path, tmp_path: Path) -> None:
    assert said("%ft report support") == [str(runs / "support" / "report.html")]
    assert said("%ft report --to page.html") == [str(tmp_path / "page.html")]
    assert "stopped · step 0" in (tmp_path / "page.html").read_text()
    assert "cannot be written" in refused("%ft report support --to no/where/page.html")
