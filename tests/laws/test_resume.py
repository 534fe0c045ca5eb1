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

from ._runs import finish, hash_of

EDITS = [(4, {"learning_rate": 1e-3}), (7, {"batch_size": 2}), (12, {"accumulation": 2, "schedule": "cosine"})]
ASKED = {
    "learning_rate": 5e-3,
    "batch_size": 4,
    "epochs": 2,
    "checkpoint_steps": 2,
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
session.wait(step=last, timeout=200)
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
@pytest.mark.parametrize("step", [5, 14])
def test_killed_and_resumed_equals_never_killed(tune: Any, tiny_model: Path, rows: Any, step: int) -> None:
    _kill_after(step, tiny_model, rows)
    session = jupyter_ft.open("killed")
    assert session.state == "stopped"
    assert session.step >= step
    resumed_at = session.resume().wait(120)
    assert resumed_at % 2 == 0
    got = finish(session)

    whole = tune("whole", **ASKED)
    for at, changes in EDITS:
        whole.set(step=at, **changes)
    assert got == finish(whole)
    assert session.metrics.index.tolist() == list(range(1, session.step + 1))
    assert [c.step for c in session.changes] == [at for at, _ in EDITS]


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
