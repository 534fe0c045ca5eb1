"""The line that counts rows: none for what takes no time, then one that is drawn over itself."""

from __future__ import annotations

import pytest

from jupyter_ft.ui.reading import ReadingLine


def test_the_line_comes_after_a_second_and_is_drawn_over_itself(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    line = ReadingLine(rich=False, clock=lambda: clock[0])
    for at, what, rows in [
        *[(0.5, "reading", 100), (0.99, "reading", 200), (1.1, "reading", 1300), (1.2, "reading", 1400)],
        *[(1.7, "checking", 0), (1.8, "checking", 200), (2.9, "checking", 1000)],
    ]:
        clock[0] = at
        line(what, rows)
    assert line.where == " while checking rows (1,000 done)"
    clock[0] = 3.2
    line.end(whole=True)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    told = [part.rstrip() for part in said.split("\r")[1:]]
    assert told == ["reading rows: 1,300", "checking rows: 0", "checking rows: 1,000", "1,400 rows read in 3 s"]


def test_rows_that_take_no_time_leave_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ReadingLine(rich=False, clock=lambda: 0.0)
    line("reading", 10**6)
    line.end(whole=True)
    assert capsys.readouterr().out == ""
