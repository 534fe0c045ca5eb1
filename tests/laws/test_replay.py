"""A script that a run is written as trains it again: the same losses and the same weights, edits included."""

from __future__ import annotations

import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import DataError, RecipeError, RunFolderError
from jupyter_ft.event_log import EventLog
from jupyter_ft.runs import RunFolder

from ._runs import final_hash, finish, hash_of, losses

ASKED = {"epochs": 2, "checkpoint_steps": 5, "adapter": {"r": 4, "dropout": 0.1}} | {"held_out": 5, "eval_steps": 5}
LONG = 28  # the step of an edit that comes after the end that the run has at first
ORDERED: list[dict[str, Any]] = [
    {"step": LONG, "accumulation": 3, "batch_size": 3, "schedule": "cosine", "max_grad_norm": 0.3},
    {"step": 2, "epochs": 5, "alpha": 20},
]


def short_answers(predictions: list[str], references: list[str], **_: Any) -> float:
    return math.fsum(len(text) for text in predictions) / len(references)


def measured(predictions: list[str]) -> float:
    return float(len(ORDERED))


def alike(*_: Any, **__: Any) -> float:
    return 1.0


def again(script: Path) -> tuple[list[float], str]:
    """Run a script in this process, which says that the losses are the same or raises; what came of it."""
    session = runpy.run_path(str(script))["session"]
    return losses(session), final_hash(session)


def result_of(folder: RunFolder) -> tuple[list[float], str]:
    from jupyter_ft.weights import read_weights

    log = EventLog.read_only(folder.events)
    found = [float(loss) for loss in log.read()[0].steps["loss"]]
    return found, hash_of(read_weights(folder.checkpoint(log.last_step)))


@pytest.mark.slow
def test_a_run_of_every_kind_of_edit_is_trained_again_to_the_bit(tune: Any, tmp_path: Path, runs: Path) -> None:
    session = tune("wandering", **ASKED, early_stopping_patience=9, edits=ORDERED)
    session.set(step=3, learning_rate=1e-3)
    session.set(step=8, learning_rate=5e-2, batch_size=8)  # a mistake
    session.wait(step=11, timeout=60)
    session.pause().wait()
    session.rewind(5).wait(60)
    session.set(step=14, batch_size=3, early_stopping_patience=30)
    session.resume().wait()
    session.wait(step=LONG, timeout=60)
    session.stop().wait(60)
    session.wait(timeout=60)
    session.resume().wait(60)
    once = finish(session)
    assert [change.step for change in session.changes] == [2, 3, 14, LONG]
    path = session.replay(tmp_path / "wandering.py")
    session.close()
    text = path.read_text()
    for said in ("Left out, taken back", "step 8: learning_rate", "It was resumed at step", "seed=42", "'float32'"):
        assert said in text
    assert "'step': 8" not in text
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"the same losses, bit for bit, over {len(once[0])} steps" in done.stdout
    folder = RunFolder(runs / "wandering-replay")
    assert result_of(folder) == once
    assert "EDITS = [\n" in jupyter_ft.replay_script(folder.path).read_text()  # of a replay too


@pytest.fixture
def tickets(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    file = tmp_path / "tickets.csv"
    lines = ["prompt,completion", *(f'{row["prompt"]},"{row["completion"]}"' for row in rows)]
    file.write_text("\n".join(lines))
    return file


@pytest.mark.slow
def test_forks_stages_files_and_functions_are_trained_again(tune: Any, tickets: Path, tmp_path: Path) -> None:
    asked = {**ASKED, "metrics": [short_answers, "token_f1"], "metric_rows": 2, "until": 11}
    parent = tune("parent", data=str(tickets), **asked)
    parent.set(step=4, learning_rate=1e-3)
    once = finish(parent)
    assert (parent.state, parent.step) == ("stopped", 11)
    assert parent.total_steps > 11
    assert again(parent.replay(tmp_path / "parent.py")) == once
    fork = parent.fork("fork", 10, weight_decay=0.2)
    once = finish(fork)
    path = fork.replay(tmp_path / "fork.py")
    assert "Steps 1 to 10 are those of 'parent'" in path.read_text()
    assert again(path) == once
    stage = jupyter_ft.finetune(None, str(tickets), "stage", start_from="parent@10", max_steps=4, system="Be brief.")
    once = finish(stage)
    parent.run_folder.drop_after(3)  # the stage keeps what it began with
    assert again(stage.replay(tmp_path / "stage.py")) == once
    tickets.write_text(tickets.read_text().replace("On its way.", "Lost."))
    with pytest.raises(DataError, match=r"data: tickets.csv has changed \(its rows are "):
        runpy.run_path(str(tmp_path / "parent.py"))


@pytest.mark.slow
def test_forks_of_snapshots_are_trained_again(tune: Any, tmp_path: Path, runs: Path) -> None:
    kept = {"snapshot_steps": 4, "checkpoint_steps": 1000}
    parent = tune("parent", **ASKED | kept | {"eval_steps": 7}, edits=[{"step": 3, "batch_size": 3}])
    finish(parent)
    calmer = parent.fork("calmer", 8, learning_rate=1e-3, edits=[{"step": 12, "alpha": 20}])
    finish(calmer)
    calmest = calmer.fork("calmest", 16, weight_decay=0.1, until=22)
    once = finish(calmest)
    assert not {8, 16} & {*parent.steps, *calmer.steps}  # of snapshots, both
    assert [change.step for change in calmest.changes] == [3, 9, 12, 17]
    path = calmest.replay(tmp_path / "calmest.py")
    for session in (parent, calmer, calmest):
        session.close()
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"the same losses, bit for bit, over {len(once[0])} steps" in done.stdout
    assert result_of(RunFolder(runs / "calmest-replay")) == once
    text = path.read_text()
    assert text.count("fresh_optimizer=True") == 2
    path.write_text(text.replace("fresh_optimizer=True", "fresh_optimizer=False"))
    with pytest.raises(SystemExit, match=r"the losses differ from step (9|10) on"):
        runpy.run_path(str(path))


@pytest.mark.slow
def test_a_fork_knows_where_its_optimizer_was_fresh(tune: Any, tmp_path: Path) -> None:
    best = {"metrics": [alike], "best_metric": "alike", "metric_rows": 1, "eval_steps": 6}  # the first one stays it
    parent = tune("parent", **ASKED | best | {"snapshot_steps": 4, "checkpoint_steps": 1000})
    finish(parent)
    child = parent.fork("child", 8, checkpoint_steps=5, learning_rate=1e-3)
    finish(child)
    whole = child.fork("whole", child.steps[-2], weight_decay=0.1)  # of a checkpoint of such a fork
    once = finish(whole)
    path = whole.replay(tmp_path / "whole.py")
    assert path.read_text().count("fresh_optimizer=True") == 1
    assert again(path) == once
    assert 6 in child.steps  # the best of its parent, with that one's optimizer
    child.rewind(6).wait(60)
    once = finish(child)
    assert again(child.replay(tmp_path / "child.py")) == once
    grandchild = child.fork("grandchild", child.steps[-2])
    finish(grandchild)
    assert "fresh_optimizer" not in grandchild.replay().read_text()


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True])
def test_a_fork_that_went_on_from_the_end_is_trained_again(tune: Any, tmp_path: Path, fresh: bool) -> None:
    parent = tune("parent", batch_size=10, schedule="constant", adapter={"r": 4})
    finish(parent)
    longer = parent.fork("longer", epochs=2, fresh_optimizer=fresh)
    once = finish(longer)
    path = longer.replay(tmp_path / "longer.py")
    assert "It was resumed" not in path.read_text()
    assert again(path) == once


@pytest.mark.slow
def test_what_the_script_lacks_is_said_where_it_is_run(tune: Any, tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    exec("def unseen(prompts, predictions, references):\n    return 1.0", made)  # a function without a source
    session = tune("lacking", held_out=5, max_steps=2, metrics=[made["unseen"], measured], metric_rows=1)
    finish(session)
    path = session.replay(tmp_path / "lacking.py")
    with pytest.raises(SystemExit, match="unseen was a metric of 'lacking' and its source is not known: define it"):
        runpy.run_path(str(path))
    path.write_text(path.read_text().replace('raise SystemExit("unseen', 'print("unseen'))
    with pytest.raises(SystemExit, match="measured takes ORDERED from the notebook"):
        runpy.run_path(str(path))
    (tmp_path / "mine.py").write_text("print('mine')")
    for wrong, said in ((tmp_path / "mine.py", "no script of a replay"), (tmp_path / "a.txt", "ends in .py")):
        with pytest.raises(RunFolderError, match=said):
            session.replay(wrong)
    assert (tmp_path / "mine.py").read_text() == "print('mine')"
    with pytest.raises(RunFolderError, match="did you mean 'lacking'"):
        jupyter_ft.replay_script("lackin")


def test_edits_that_cannot_be_are_refused_before_anything_is_loaded(tune: Any, runs: Path) -> None:
    for edits, said in (
        ([{"learning_rate": 1e-4}], 'number 1: "step" should say'),
        ([{"step": 2, "learning_rate": 1e-4}, {"step": 3, "learning_rte": 1}], r"number 2 \(step 3\): unknown key"),
        ([{"step": 2, "max_length": 8}], "fixed once a run has started"),
        ({"step": 2}, "should be a list"),
    ):
        with pytest.raises(RecipeError, match=said):
            tune(edits=edits)
    with pytest.raises(RecipeError, match="until = 0: should be a number of steps"):
        tune(until=0)
    with pytest.raises(DataError, match=r"data: .* has changed"):
        tune(fingerprints={"data": "0" * 64})
    assert not list(runs.glob("*"))


@pytest.mark.slow
def test_what_was_ordered_is_done_by_a_run_that_was_killed_before_its_first_checkpoint(tune: Any, runs: Path) -> None:
    asked = {"max_steps": 12, "checkpoint_steps": 50, "edits": [{"step": 9, "learning_rate": 1e-3}], "until": 10}
    session = tune("killed", **asked)
    session.wait(step=2, timeout=60)
    session.pause().wait()
    beginnings = shutil.ignore_patterns(".*")  # a snapshot may be written in this moment
    shutil.copytree(session.folder, runs / "copied", ignore=beginnings)  # as it would be found
    (runs / "copied" / "lock").unlink()
    session.resume().wait()
    once = finish(session)
    found = jupyter_ft.open("copied")
    assert found.changes == []
    found.resume().wait(60)
    assert finish(found) == once
    assert (found.state, found.step, found.changes[0].step) == ("stopped", 10, 9)
    found.resume().wait(60)
    assert len(finish(found)[0]) == 12  # told to go on, it does


def test_a_step_that_was_resumed_at_twice_is_told_once(runs: Path) -> None:
    from jupyter_ft.messages import Resumed, StateChanged, StepDone
    from jupyter_ft.recipe import parse_recipe
    from jupyter_ft.session.replay import replay_script

    folder = RunFolder.create("shaken")
    about = {"data": {"format": "prompt-completion", "path": "rows.csv", "fingerprint": "f"}, "versions": {}}
    folder.write_recipe(parse_recipe({}), {"started": "2026-01-01T00:00:00Z", "jupyter_ft": "0.1", **about})
    log = EventLog(folder.events)
    row = {"loss": 1.0, "learning_rate": 1e-4, "grad_norm": 1.0, "tokens": 9, "seconds": 0.1, "epoch": 0.1}
    for step in (1, 2, 3):
        log.append(StepDone(step=step, **row))
        if step > 1:
            log.append(Resumed(step=2, rewound=False))
    log.append(StateChanged(state="stopped", step=3, total_steps=9))
    log.close()
    assert "It was resumed at step 2, which leaves no trace in the losses." in replay_script("shaken").read_text()
