"""Killed anywhere and resumed in a new process equals never killed, bit for bit, also after live edits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import Refused, RunFolderError

from ._runs import finish, hash_of

EDITS = [(4, {"learning_rate": 1e-3}), (7, {"batch_size": 2}), (12, {"accumulation": 2, "schedule": "cosine"})]
ASKED = {
    "learning_rate": 5e-3,
    "batch_size": 4,
    "epochs": 2,
    "checkpoint_steps": 5,
    "dtype": "float32",
    "adapter": {"kind": "lora", "r": 4, "dropout": 0.1},
}
VICTIM = """
import json, sys, torch
import jupyter_ft
torch.set_num_threads(1)
model, rows, edits, asked, last = json.loads(sys.stdin.readline())
session = jupyter_ft.finetune(model, rows, "killed", **asked)
for step, changes in edits:
    session.set(step=step, **changes)
session.set(step=last, max_grad_norm=0.9)
session.wait(step=last, timeout=200)
session.pause().wait()
session.set(weight_decay=0.05).wait()
print("there", flush=True)
session.wait()
"""


def _kill_after(step: int, model: Path, rows: list[dict[str, str]]) -> None:
    """Let a new process train to `step`, then kill it without warning."""
    child = subprocess.Popen([sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps([str(model), rows, EDITS, ASKED, step]) + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "there\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(30)


@pytest.mark.slow  # a process of its own each
@pytest.mark.parametrize("step", [3, 8, 14])
def test_killed_and_resumed_equals_never_killed(tune: Any, tiny_model: Path, rows: Any, step: int) -> None:
    _kill_after(step, tiny_model, rows)
    session = jupyter_ft.open("killed")
    assert session.state == "stopped"
    assert session.step >= step
    done = [(mark.step, {name: new for name, (_, new) in mark.changes.items()}) for mark in session.changes]
    assert {"max_grad_norm", "weight_decay"} <= {name for _, changes in done for name in changes}
    waiting = [(at, changes) for at, changes in EDITS if at > done[-1][0]] if session.steps else []  # kept by those
    edits = done + waiting
    newest = max([0, *session.steps])
    assert session.resume().wait(120) == newest
    got = finish(session)

    whole = tune("whole", **ASKED)
    for at, changes in edits:
        whole.set(step=at, **changes)
    assert got == finish(whole)
    assert session.metrics.index.tolist() == list(range(1, session.step + 1))
    assert [c.step for c in session.changes] == [at for at, _ in edits]


@pytest.mark.slow
def test_killed_after_its_last_step_it_is_finished(tune: Any) -> None:
    session = tune("ending", schedule="constant")
    done = finish(session)
    session.close()
    lines = session.run_folder.events.read_text().splitlines(keepends=True)
    assert '"finished"' in lines[-1]
    session.run_folder.events.write_text("".join(lines[:-1]))  # as if killed a moment before the end was told
    again = jupyter_ft.open("ending")
    assert again.state == "stopped"
    again.resume().wait(60)
    assert finish(again) == done
    assert again.state == "finished"


@pytest.mark.slow
def test_ended_before_its_first_checkpoint_it_begins_again(tune: Any) -> None:
    from jupyter_ft.control.lease import LEASE

    with LEASE:  # it loads, and gets no further
        session = tune("early")
        session.stop()
    session.wait(timeout=60)
    assert (session.state, session.steps) == ("stopped", [])
    assert session.resume().wait(60) == 0
    session.wait(step=3, timeout=60)
    assert finish(session) == finish(tune("whole"))


@pytest.mark.slow
def test_bfloat16_on_the_cpu_resumes_too(tune: Any) -> None:
    session = tune("half", dtype="bfloat16")
    session.wait(step=4, timeout=60)
    session.stop().wait(60)
    session.wait(timeout=60)
    session.resume().wait(60)
    assert finish(session) == finish(tune("whole", dtype="bfloat16"))


def test_stopped_and_resumed_equals_never_stopped(tune: Any) -> None:
    session = tune("stopped", epochs=2, adapter={"r": 4, "dropout": 0.1})
    session.wait(step=5, timeout=60)
    session.stop().wait(60)
    session.wait(timeout=60)
    assert session.state == "stopped"
    recipe = session.folder / "recipe.yaml"
    recipe.write_text(re.sub(r"(?m)^    trl: .*$", "    trl: 0.1.0", recipe.read_text()))
    session.resume().wait(60)
    assert finish(session) == finish(tune("through", epochs=2, adapter={"r": 4, "dropout": 0.1}))
    warned = [event.text for event in session.events if event.kind == "log" and "other packages" in event.text]
    assert len(warned) == 1
    assert "(trl 0.1.0 → " in warned[0]


@pytest.mark.slow
def test_its_name_is_enough_for_a_run_to_go_on(tune: Any, tiny_model: Path) -> None:
    whole = finish(tune("whole", epochs=4))
    session = tune("parted", epochs=4)
    session.wait(step=5, timeout=60)
    with pytest.raises(RunFolderError, match="'parted' is still "):
        jupyter_ft.finetune(name="parted", resume=True)
    session.stop().wait(60)
    session.wait(timeout=60)
    assert session.state == "stopped"
    session.close()
    again = jupyter_ft.finetune(name="parted", resume=True)
    assert (again.name, finish(again)) == ("parted", whole)
    with pytest.raises(RunFolderError, match="no unfinished run 'parted'"):
        jupyter_ft.finetune(name="parted", resume=True)
    finish(tune("grid-1", max_steps=2))
    with pytest.raises(RunFolderError, match="'grid' is a race: %ft resume grid-1, and so on"):
        jupyter_ft.finetune(name="grid", resume=True)


@pytest.mark.slow
def test_an_edit_between_the_last_step_and_a_stop_is_kept(tune: Any) -> None:
    session = tune("edited", epochs=2)
    session.set(step=4, learning_rate=2e-3)
    session.wait(step=6, timeout=60)
    session.pause().wait(60)
    session.set(learning_rate=1e-3, batch_size=3).wait(60)
    late = session.set(step=session.step + 5, learning_rate=9e-3)
    session.stop().wait(60)
    session.wait(timeout=60)
    with pytest.raises(jupyter_ft.errors.Refused):
        late.wait(10)
    session.close()

    again = jupyter_ft.open("edited")
    at = again.resume().wait(60)
    assert [(mark.step, mark.changes["learning_rate"][1]) for mark in again.changes] == [(4, 2e-3), (at + 1, 1e-3)]
    assert (again.hyperparameters.learning_rate, again.hyperparameters.batch_size) == (1e-3, 3)
    got = finish(again)
    whole = tune("whole", epochs=2)
    whole.set(step=4, learning_rate=2e-3)
    whole.set(step=at + 1, learning_rate=1e-3, batch_size=3)
    assert got == finish(whole)  # and so the edit that was refused was not made

    last = again.step
    again.close()
    reopened = jupyter_ft.open("edited")
    assert (reopened.state, reopened.step) == ("finished", last)
    assert len(reopened.changes) == 2
    assert reopened.chat("Where is order 3?", max_new_tokens=5).step == last


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["train.jsonl", "apart.jsonl"])
def test_data_that_have_changed_are_not_gone_on_with(tune: Any, rows: Any, tmp_path: Path, changed: str) -> None:
    """Neither the rows to train on nor those that are held out; with the old ones back it goes on."""
    train, apart = tmp_path / "train.jsonl", tmp_path / "apart.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    apart.write_text("".join(json.dumps(row) + "\n" for row in rows[40:]))
    asked = {"data": str(train), "held_out": str(apart), "checkpoint_steps": 2, "epochs": 1}
    whole = finish(tune("whole", **asked))
    session = tune("parts", **asked, until=4)
    session.wait_until_over(60)
    folder = session.folder
    session.close()

    before = (tmp_path / changed).read_text()
    (tmp_path / changed).write_text(before.replace("On its way.", "On its way!", 1))
    session = jupyter_ft.open(folder)
    with pytest.raises(Refused) as caught:
        session.resume().wait(60)
    assert f"{tmp_path / changed} has changed since 'parts' began; put the old file back" in str(caught.value)
    (tmp_path / changed).write_text(before)
    session.resume().wait(60)
    assert finish(session) == whole


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_by_name(tune: Any) -> None:
    session = tune("damaged", epochs=2, checkpoint_steps=3)
    session.wait(step=10, timeout=60)
    session.stop().wait(60)
    session.wait(timeout=60)
    newest = session.run_folder.checkpoint(session.steps[-1])
    weights = newest / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    at = session.resume().wait(60)
    assert at < int(newest.name.removeprefix("step-"))
    assert any("adapter_model.safetensors is truncated or altered" in getattr(e, "text", "") for e in session.events)
    assert finish(session) == finish(tune("whole", epochs=2, checkpoint_steps=3))


def test_the_hash_sees_a_single_bit() -> None:
    import torch

    tensor = torch.zeros(3)
    other = tensor.clone()
    other[0] = 1e-45
    assert hash_of({"a": tensor}) != hash_of({"a": other})


def test_edits_are_made_again_in_the_order_of_the_log() -> None:
    """At one boundary what was just asked comes before what had waited for that step; so it must when made again."""
    from types import SimpleNamespace

    from jupyter_ft.control.checkpoint import schedule_again
    from jupyter_ft.event_log import EventLog
    from jupyter_ft.messages import Applied, Set

    log = EventLog()
    for command, rate in (("old", 4e-3), ("ahead", 3e-3), ("asked", 1e-3), ("waited", 2e-3)):
        step = {"old": 4, "ahead": 5}.get(command, 7)
        log.append(Applied(command=command, verb="set", step=step, changes={"learning_rate": (5e-3, rate)}))
    port = SimpleNamespace(step=4, log=log, obedience=SimpleNamespace(ahead=["ahead"], scheduled=[]))
    waiting = [
        Set(id=name, changes={"learning_rate": rate}, step=s)
        for name, rate, s in (("waited", 2e-3, 7), ("later", 1e-4, 9))
    ]
    schedule_again(port, waiting)
    assert [(e.id, e.step, e.changes["learning_rate"]) for e in port.obedience.scheduled] == [
        ("asked", 7, 1e-3),
        ("waited", 7, 2e-3),
        ("later", 9, 1e-4),
    ]
