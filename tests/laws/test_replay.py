"""A script that a run is written as trains it again: the same losses and the same weights, edits included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from jupyter_ft.event_log import EventLog
from jupyter_ft.runs import RunFolder

from ._runs import finish, hash_of

ASKED = {"epochs": 2, "checkpoint_steps": 5, "adapter": {"r": 4, "dropout": 0.1}} | {"held_out": 5, "eval_steps": 5}


def replayed(script: Path) -> tuple[subprocess.CompletedProcess[str], RunFolder]:
    """What the script said, and the folder of the run that it made."""
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300, env={**os.environ}
    )
    return done, RunFolder(Path(os.environ["JUPYTER_FT_RUNS"]) / f"{script.stem}-replay")


def result_of(folder: RunFolder) -> tuple[list[float], str]:
    from jupyter_ft.weights import read_weights

    log = EventLog.read_only(folder.events)
    return losses_of(log), hash_of(read_weights(folder.checkpoint(log.last_step)))


def losses_of(log: EventLog) -> list[float]:
    return [float(loss) for loss in log.read()[0].steps["loss"]]


def test_a_run_of_every_kind_of_edit_is_trained_again_to_the_bit(tune: Any, tmp_path: Path) -> None:
    session = tune("wandering", **ASKED, early_stopping_patience=9)
    session.set(step=3, learning_rate=1e-3)
    session.set(step=8, learning_rate=5e-2, batch_size=8)  # a mistake
    session.wait(step=11, timeout=60)
    session.rewind(5).wait(60)
    session.set(step=9, batch_size=2, early_stopping_patience=30)
    session.set(step=15, weight_decay=0.1, epochs=3)
    session.set(step=40, learning_rate=2e-3)  # a step that is there by the edit before it
    session.wait(step=17, timeout=60)
    session.stop().wait(60)
    session.wait(timeout=60)
    session.resume().wait(60)
    once = finish(session)
    path = session.replay(tmp_path / "wandering.py")
    session.close()
    text = path.read_text()
    assert "Left out, taken back" in text
    assert "step 8: learning_rate" in text
    assert "'step': 8" not in text
    assert "It was resumed at step" in text
    assert "seed=42" in text
    assert "dtype='float32'" in text
    done, folder = replayed(path)
    assert done.returncode == 0, done.stderr
    assert f"the same losses, bit for bit, over {len(once[0])} steps" in done.stdout
    assert result_of(folder) == once
