"""Runs beside one another, from their folders alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from small_run import XSS

import jupyter_ft
from jupyter_ft.errors import RecipeError, RunFolderError
from jupyter_ft.event_log import EventLog
from jupyter_ft.messages import Applied, Crashed, EvalDone, Probed, Resumed, StateChanged, StepDone
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import RunFolder
from jupyter_ft.ui.compared import MOST_CURVES
from jupyter_ft.ui.curve import curve_svg
from jupyter_ft.ui.figure import traces
from jupyter_ft.ui.watched import past_in


def take(log: EventLog, first: int, last: int, height: float = 2.0) -> None:
    for step in range(first, last + 1):
        loss = height + 1 / step
        row = {"grad_norm": 1.0, "tokens": 10, "seconds": 0.1, "epoch": step / 20, "learning_rate": 1e-4}
        log.append(StepDone(step=step, loss=loss, **row))


def made(name: str, state: str = "finished", about: dict[str, Any] | None = None, **asked: Any) -> EventLog:
    """A run folder with a recipe; its log is open, as that of a run that is written to."""
    folder = RunFolder.create(name)
    began = {"started": f"2026-01-01T00:00:{len(name):02}Z", "data": {}}
    folder.write_recipe(parse_recipe(asked), began | (about or {}))
    log = EventLog(folder.events)
    log.append(StateChanged(state=state, step=0, total_steps=40))
    return log


def edit(command: str, step: int, **changes: Any) -> Applied:
    pairs = {name: (None, value) for name, value in changes.items()}
    return Applied(command=command, verb="set", step=step, changes=pairs)


@pytest.fixture
def wandering(runs: Path) -> EventLog:
    """Ten steps, of which five are taken back, and other ones in their place."""
    log = made("wandering", learning_rate=1e-3, adapter={"r": 8})
    log.append(edit("early", 3, learning_rate=1e-4))
    take(log, 1, 6)
    log.append(edit("mistake", 7, learning_rate=0.5))
    take(log, 7, 10, height=9.0)
    log.append(Resumed(step=5, rewound=True))
    take(log, 6, 8)
    return log


def test_what_was_taken_back_stays_in_every_picture_dimmed(wandering: EventLog, runs: Path) -> None:
    again = EventLog.read_only(runs / "wandering" / "events.jsonl")
    for log in (wandering, again):
        ((steps, losses),) = log.abandoned
        assert steps.tolist() == [5, 6, 7, 8, 9, 10]
        assert losses[-1] == 9.1
        past = past_in(log)
        assert past.steps["step"].tolist() == list(range(1, 9))
        assert [change.command for change in past.changes] == ["early"]
        (left,) = [trace for trace in traces(past, 100) if trace["name"] == "taken back"]
        assert left["opacity"] < 0.5
        assert [float(y) for y in left["y"][2:6]] == pytest.approx([9 + 1 / 7, 9.125, 9 + 1 / 9, 9.1])
        assert curve_svg(past).count("class='left'") == 1
    figure = jupyter_ft.compare("wandering").figure
    assert [trace.name for trace in figure.data] == ["wandering", "wandering, changed", "wandering, taken back"]
    assert figure.data[2].opacity < 0.5
    assert len(figure.data[0].x) == 8


def test_a_log_that_is_read_only_is_not_written_to(wandering: EventLog, runs: Path) -> None:
    events = runs / "wandering" / "events.jsonl"
    with events.open("a") as file:
        file.write('{"kind": "log", "lev')  # another process is in the middle of a line
    before = {path: path.read_bytes() for path in events.parent.rglob("*") if path.is_file()}
    assert EventLog.read_only(events).last_step == 8
    jupyter_ft.compare("wandering")
    assert {path: path.read_bytes() for path in events.parent.rglob("*") if path.is_file()} == before


def test_settings_that_differ_metrics_and_a_fork_from_its_parents_point(wandering: EventLog) -> None:
    fork = {"run": "wandering", "step": 5, "changes": {"lr": 2e-5}, "command": "forked"}
    calmer = made("calmer", "failed", {"fork": fork}, learning_rate=1e-4, adapter={"r": 8})  # as it stood at step 5
    calmer.append(edit("early", 3, learning_rate=1e-4))
    take(calmer, 1, 7, height=1.5)
    calmer.append(edit("forked", 6, learning_rate=2e-5))
    calmer.append(edit("own", 7, batch_size=2))
    for step, loss in ((4, 3.0), (6, 1.25), (7, 1.5)):
        calmer.append(EvalDone(step=step, metrics={"eval_loss": loss}, best_step=6, rows=4, seconds=0.1))
    calmer.append(Crashed(step=7, error="no", traceback=""))
    told = jupyter_ft.compare(["wandering", "calmer"])
    first, second = told.rows
    assert (first["learning_rate"], second["learning_rate"]) == (1e-3, 2e-5)
    assert "adapter.r" not in first
    assert (first["state"], first["step"], first["edits"], first["loss"]) == ("finished", 8, 1, 2.125)
    assert told.table.loc["wandering", ["state", "step"]].tolist() == ["finished", 8]
    assert told.table["best step"].dropna().to_dict() == {"calmer": 6}
    assert (second["state"], second["from"], second["edits"]) == ("failed", "wandering@5", 1)
    assert (second["eval_loss"], second["best eval_loss"], second["best step"]) == (1.5, 1.25, 6)
    curve, held_out, changed = (trace for trace in told.figure.data if trace.name.startswith("calmer"))
    assert list(curve.x) == [5, 6, 7]
    assert list(held_out.x) == [6, 7]
    assert list(changed.x) == [6, 7]
    assert "batch_size none → 2" in changed.text[1]
    html = told._repr_mimebundle_()["text/html"]
    svg = b64decode(html.partition("base64,")[2].partition("'")[0]).decode()
    assert svg.count("<path") == 4  # axes, two curves, what was taken back
    assert svg.count("class='mark'") == 3
    assert "wandering@5" in repr(told)


def test_probes_stand_side_by_side_and_nothing_of_theirs_is_run(runs: Path) -> None:
    hostile = "".join(XSS)
    for name, more in (("one", {}), ("two", {"system": hostile}), ("quiet", {"record_chats": False})):
        log = made(name, **more)
        take(log, 1, 3)
        log.append(edit("x", 2, learning_rate=1e-4))
        for step, at, text in ((0, "base", f"base {hostile}"), (2, "live", "old"), (3, "live", f"{name} {hostile}")):
            told = {"prompt": f"How? {hostile}", "tokens": 1, "ended": "eos", "number": 0}
            log.append(Probed(step=step, at=at, text=text, **told))
    told = jupyter_ft.compare(["one", "two", "quiet"])
    (said,) = told.answers
    assert told.probes.to_dict("index") == {said["prompt"]: {name: said[name] for name in ("base", "one", "two")}}
    assert list(said) == ["prompt", "base", "one", "two"]
    assert said["two"].startswith("two <script>")
    html = told._repr_mimebundle_()["text/html"]
    assert "<th>one</th><th>two</th>" in html
    for tag in ("<script", "<img src=x", "<svg", "<iframe", "<style>@", "<form", "<link", "<base"):
        assert tag not in html, tag
    assert "<" not in "".join(trace.name for trace in told.figure.data)


def test_without_names_the_runs_that_learn_alike_and_a_broken_one_is_left_out(runs: Path) -> None:
    for name, method in (("a", "dpo"), ("bb", "sft"), ("ccc", "sft")):
        take(made(name, method=method), 1, 2)
    (runs / "broken").mkdir()
    (runs / "broken" / "recipe.yaml").write_text("[")
    told = jupyter_ft.compare()
    assert [row["run"] for row in told.rows] == ["bb", "ccc"]
    assert any("1 of other methods" in note for note in told.notes)
    assert any("broken" in note for note in told.notes)
    assert "1 of other methods" in repr(told)


@pytest.mark.slow
def test_five_hundred_runs_are_a_table_and_some_curves(runs: Path) -> None:
    folder = made("run-0", seed=0)
    take(folder, 1, 3)
    folder.close()
    for number in range(1, 500):
        path = RunFolder.create(f"run-{number}")
        path.write_recipe(parse_recipe({"seed": number}), {"data": {}})
        path.events.write_bytes((runs / "run-0" / "events.jsonl").read_bytes())
        (path.path / "steps").mkdir()
        (path.path / "steps" / "0001.f64").write_bytes((runs / "run-0" / "steps" / "0001.f64").read_bytes())
    told = jupyter_ft.compare([f"run-{number}" for number in range(500)])
    assert [row["seed"] for row in told.rows] == list(range(500))
    assert len({trace.legendgroup for trace in told.figure.data}) == MOST_CURVES
    assert f"the first {MOST_CURVES} of 500 runs are drawn" in repr(told)
    assert len(told._repr_mimebundle_()["text/html"]) < 100_000


def test_what_is_no_run_is_said_with_the_nearest(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="there is no run in"):
        jupyter_ft.compare()
    made("support", "loading")
    for wrong, said in (("suport", "did you mean 'support'"), (tmp_path, "holds no run"), ([], "no run is given")):
        with pytest.raises(RunFolderError, match=said):
            jupyter_ft.compare(wrong)  # type: ignore[arg-type]
    for wrong in (5, [5]):
        with pytest.raises(RecipeError, match="is no run"):
            jupyter_ft.compare(wrong)  # type: ignore[arg-type]
    (row,) = jupyter_ft.compare(runs / "support").rows  # no step yet, and nobody writes to it any more
    assert (row["run"], row["state"], row["step"]) == ("support", "stopped", 0)
    assert math.isnan(row["loss"])
    assert "No step yet" in jupyter_ft.compare("support")._repr_mimebundle_()["text/html"]


@pytest.mark.slow
def test_it_needs_no_torch(wandering: EventLog) -> None:
    code = (
        "import sys, json, jupyter_ft; told = jupyter_ft.compare('wandering'); told.figure; told._repr_mimebundle_();"
        "print(json.dumps([len(told.table), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, False]
