from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.event_log import EventLog
from jupyter_ft.messages import Applied, StateChanged, StepDone
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import RunFolder


@pytest.fixture
def past(runs: Path, tmp_path: Path) -> Path:
    """Two runs of another kernel: six steps on a file of hostile name, a change that says what it should not."""
    for number, name in enumerate(("support", "calmer"), 1):
        folder = RunFolder.create(name)
        data = {"path": str(tmp_path / 'a"""\n\'.csv'), "fingerprint": "ab" * 32}
        recipe = parse_recipe({"learning_rate": number * 1e-4, "system": '"""\nraise SystemExit(3)\n"""'})
        folder.write_recipe(recipe, {"started": "2026-01-01", "data": data, "versions": {"pydantic": "0.1"}})
        log = EventLog(folder.events)
        log.append(Applied(command="a", verb="set", step=2, changes={"schedule": ("x\nimport os", "cosine")}))
        for step in range(1, 7):
            row = {"learning_rate": 1e-4, "grad_norm": 1, "tokens": 1, "seconds": 1, "epoch": 1}
            log.append(StepDone(step=step, loss=number / step, **row))
        log.append(StateChanged(state="stopped", step=6, total_steps=9))
        log.close()
    return runs


def test_compare_prints_what_differs(shell: Any, past: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("%ft compare support calmer --out both", "%ft compare"):
        assert shell.run_cell(line).success
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["run", "state", "step", "learning_rate", "edits", "loss"]
        assert sorted(line.split()[0] for line in lines[1:3]) == ["calmer", "support"]
    assert list(shell.user_ns["both"].table.index) == ["support", "calmer"]


@pytest.mark.slow
def test_replay_says_where_the_script_is(shell: Any, past: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.run_cell("%ft replay support --to again.py").success
    assert "python again.py" in capsys.readouterr().out
    text = Path("again.py").read_text()
    assert "until=6,  # it went no further" in text
    assert "{'step': 2, 'schedule': 'cosine'}" in text
    assert not any(line.startswith(("import os ", "raise SystemExit(3)")) for line in text.splitlines())
    done = subprocess.run([sys.executable, "again.py"], capture_output=True, text=True, check=False)
    assert "warning: pydantic was 0.1 and is " in done.stdout
    assert done.returncode == 1  # there is no such file
    assert "does not exist" in done.stderr.splitlines()[-1]


def test_what_cannot_be_is_one_line(refused: Callable[..., str], past: Path, runs: Path) -> None:
    assert "did you mean 'support'" in refused("%ft compare suport calmer")
    assert "did you mean 'calmer'" in refused("%ft replay calmr")
    assert "no session is open" in refused("%ft replay")
    RunFolder.create("empty").write_recipe(parse_recipe({}), {"data": {}})
    assert "has no step yet" in refused("%ft replay empty")
    RunFolder.create("own").write_recipe(parse_recipe({"method": "attached"}), {"data": {}})
    assert "your own code" in refused("%ft replay own")
    fork = {"run": "support", "step": 3, "changes": {}, "whole": False}
    RunFolder.create("light").write_recipe(parse_recipe({}), {"data": {}, "fork": fork})
    assert "forked from a snapshot by an earlier version" in refused("%ft replay light")
