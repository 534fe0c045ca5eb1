"""A grpo or rloo run that is killed anywhere and resumed in a new process equals one that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft

from ._runs import finish
from .test_grpo import ASKED, letters

LONG = {key: value for key, value in ASKED.items() if key != "data"} | {
    "epochs": 2,
    "accumulation": 1,
    "steps_per_generation": 2,
    "checkpoint_steps": 2,
    "dtype": "float32",
    "adapter": {"kind": "lora", "r": 4, "dropout": 0.1},
}
EDITS = [(3, {"temperature": 1.3}), (4, {"learning_rate": 1e-3}), (9, {"beta": 0.2})]
VICTIM = """
import json, sys, torch
import jupyter_ft
from tests.laws.test_grpo import letters
torch.set_num_threads(1)
model, rows, edits, asked, last = json.loads(sys.stdin.readline())
session = jupyter_ft.finetune(model, rows, "killed", rewards=letters, **asked)
for step, changes in edits:
    session.set(step=step, **changes)
session.wait(step=last, timeout=200)
print("there", flush=True)
session.wait()
"""


@pytest.mark.slow  # a process of its own each
@pytest.mark.parametrize(("method", "step"), [("grpo", 3), ("grpo", 8), ("rloo", 7)])
def test_killed_and_resumed_equals_never_killed(tune: Any, tiny_model: Path, method: str, step: int) -> None:
    asked = LONG | {"method": method}
    child = subprocess.Popen([sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps([str(tiny_model), ASKED["data"], EDITS, asked, step]) + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "there\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(30)

    session = jupyter_ft.open("killed")
    assert session.state == "stopped"
    made = [(mark.step, {name: new for name, (_, new) in mark.changes.items()}) for mark in session.changes]
    waiting = [(at, changes) for at, changes in EDITS if not made or at > made[-1][0]] if session.steps else []
    session.resume(rewards=[letters]).wait(120)
    got = finish(session)

    whole = tune("whole", rewards=letters, data=ASKED["data"], **asked)
    for at, changes in made + waiting:
        whole.set(step=at, **changes)
    assert got == finish(whole)
    assert session.metrics.index.tolist() == list(range(1, session.step + 1))
