"""Ten million steps: what they cost to log, to hold, to open again and to tell a browser. No model; a few minutes.

Each side runs in a process of its own, so that memory is its own; `VmHWM` and `RssAnon` are read from `/proc`. What is
read from disk lies in the system's cache and is not counted (nothing is mapped).
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, MB = 10_000_000, 1024


def measure(steps: int = STEPS) -> None:
    """Print the figures of a run of `steps` steps and of transformers' own `log_history` at a hundredth of it."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        written, opened = (_child(part, folder, steps) for part in ("write", "open"))
    theirs = _child("log_history", "", steps // 100)
    for name, cost in written.items():
        print(f"a run of {steps:,} steps, {name}: {cost}", flush=True)
    for name, cost in opened.items():
        print(f"the same opened again, {name}: {cost}", flush=True)
    for name, cost in theirs.items():
        print(f"transformers' log_history at {steps // 100:,} steps, {name}: {cost}", flush=True)


def _child(part: str, folder: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.scale", part, folder, str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _memory() -> tuple[float, float]:
    """Anonymous memory now, and the highest resident one so far, in MB."""
    text = Path("/proc/self/status").read_text()
    held = {line.partition(":")[0]: line.split()[1] for line in text.splitlines() if "kB" in line}
    return int(held["RssAnon"]) / MB, int(held["VmHWM"]) / MB


def write(folder: str, steps: int) -> dict[str, str]:
    """Log the steps with a view that is told its news as in a notebook."""
    from jupyter_ft.event_log import EventLog
    from jupyter_ft.messages import StepDone
    from jupyter_ft.ui.telling import View

    log, view, run = EventLog(Path(folder) / "events.jsonl"), View("a", heard=0), _Run()
    run.log = log
    before, peak_before = _memory()
    bytes_told: dict[int, float] = {}
    spent = 0.0
    for first in range(1, steps + 1, 100):
        began = time.perf_counter()
        for n in range(first, first + 100):
            metrics = {"mean_token_accuracy": 0.5, "entropy": 1.0}
            loss = 2 + math.sin(n * 12.9898)
            log.append(
                StepDone(
                    step=n, loss=loss, learning_rate=1e-4, grad_norm=1.0, tokens=900, seconds=0.1, epoch=n / steps,
                    metrics=metrics,
                )
            )  # fmt: skip
        spent += time.perf_counter() - began
        run.step = first + 99
        message = view.next_message(run, 0.0)
        if run.step in (200, 10_000, steps // 10, steps):
            bytes_told[run.step] = message.bytes / message.content["rows"] if message is not None else math.nan
    after, peak = _memory()
    log.close()
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {
        "logged": f"{spent / steps * 1e6:.1f} s a million, {size / steps:.0f} bytes a step on disk",
        "memory": f"{after - before:.1f} MB more at the end, {peak - peak_before:.1f} MB at most",
        "to the browser": ", ".join(f"{cost:.1f} bytes a point at step {step:,}" for step, cost in bytes_told.items()),
    }


def open_(folder: str, steps: int) -> dict[str, str]:
    """Open the log, and draw it as the panel, the record and the figure do."""
    from jupyter_ft.event_log import EventLog
    from jupyter_ft.ui.thin import thin

    before, peak_before = _memory()
    began = time.perf_counter()
    log = EventLog(Path(folder) / "events.jsonl")
    assert log.last_step == steps
    opened = time.perf_counter()
    rows = len(thin(log.read(steps="picture")[0].steps, 2000)["step"])
    drawn = time.perf_counter()
    after, peak = _memory()
    log.read()
    return {
        "until its last step is known": f"{opened - began:.3f} s",
        f"until its curve is thinned to {rows} points": f"{drawn - opened:.2f} s",
        "memory": f"{after - before:.1f} MB more, {peak - peak_before:.1f} MB at most",
        "all columns whole, for a DataFrame": f"{time.perf_counter() - drawn:.2f} s",
    }


def log_history(_folder: str, steps: int) -> dict[str, str]:
    """The same steps in `TrainerState`, which is written whole at each checkpoint."""
    from transformers import TrainerState

    state = TrainerState()
    before, _ = _memory()
    for n in range(steps):
        entry = {"loss": n / 3, "grad_norm": n / 7, "learning_rate": n / 11, "mean_token_accuracy": n / 13}
        state.log_history.append({**entry, "entropy": n / 17, "num_tokens": n * 900.0, "epoch": n / steps, "step": n})
    held = _memory()[0] - before
    began = time.perf_counter()
    with tempfile.NamedTemporaryFile() as file:
        state.save_to_json(file.name)
        size = Path(file.name).stat().st_size
    return {
        "memory": f"{held:.0f} MB",
        "a checkpoint": f"{time.perf_counter() - began:.2f} s for {size / 1e6:.0f} MB of JSON",
    }


class _Run:
    """What a view asks of a session."""

    log: Any
    state, step, total_steps, name, folder = "running", 0, 0, "long", Path("long")

    def __init__(self) -> None:
        from jupyter_ft.recipe import parse_recipe

        self.hyperparameters = parse_recipe({}).hyperparameters


if __name__ == "__main__":
    part, where, count = sys.argv[1:]
    print(json.dumps({"write": write, "open": open_, "log_history": log_history}[part](where, int(count))))
