"""One base, many adapters: what more runs, more sessions, more columns and snapshots cost. SmolLM2, about ten minutes.

Each part runs in a process of its own, so that its memory and its first start are its own; both sides of a ratio are
of the same process.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .figures import report

TICKETS = Path(__file__).parents[1] / "examples" / "tickets.csv"
COLUMNS = {"prompt": "Customer message", "completion": "Agent reply"}
ASKED: dict[str, Any] = {"batch_size": 4, "columns": COLUMNS, "checkpoint_steps": 10**6, "max_length": 256}
VARIANTS, STEPS, VISITS, MB = (2, 4, 8), 5, 6, 1024
QUESTION = "I haven't received my order yet."


def measure(parts: tuple[str, ...] = ("race", "grid", "start", "visit", "snapshot")) -> None:
    """Print the figures of the `parts`."""
    for part in parts:
        for count in VARIANTS if part == "race" else (0,):
            command = [sys.executable, "-m", "bench.travel", part, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
            for what, ours, theirs, unit, aim in json.loads(done.stdout.splitlines()[-1]):
                report(what, ours, theirs, unit, aim)


Figure = tuple[str, list[float], list[float], str, str]


def race(count: int) -> list[Figure]:
    """Memory at its highest and steps a second of `count` runs at once against one, which comes first."""
    import jupyter_ft

    own = ASKED | {"snapshot_steps": 10**6}
    jupyter_ft.finetune("demo", TICKETS, "warm", **own, max_steps=1).wait()
    jupyter_ft.sessions["warm"].close()
    peaks, rates = [], []
    for runs in (1, count):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the highest memory so far is that of now
        rates_of = {"learning_rate": [1e-4 * (1 + n) for n in range(runs)]}
        started = jupyter_ft.race(rates_of, "demo", TICKETS, f"race-{runs}", **own, max_steps=STEPS)
        for session in started:
            session.log.wait_for(lambda s=session: s.step >= 1, 300)
        done, began = sum(session.step for session in started), time.perf_counter()
        started.wait()
        rates.append((runs * STEPS - done) / (time.perf_counter() - began))
        peaks.append(_peak())
        started.close()
    memory, rate = f"memory of {count} LoRA variants against one, at its highest", f"steps/s of {count} variants in all"
    return [
        (memory, peaks[1:], peaks[:1], "MB", "aim 1.2 or less" if count == max(VARIANTS) else "no aim"),
        (f"{rate} against one", rates[1:], rates[:1], "steps/s", "aim 0.95"),
    ]


def grid(_count: int) -> list[Figure]:
    """A race as a notebook starts it: two learning rates by four ranks, all else by default; against rank 16 alone."""
    import jupyter_ft

    jupyter_ft.finetune("demo", "demo:support", "warm", max_steps=1).wait()
    jupyter_ft.sessions["warm"].close()
    peaks = []
    for race_of in (
        {"adapter.r": [16], "learning_rate": [1e-4]},
        {"adapter.r": [4, 8, 16, 32], "learning_rate": [1e-4, 3e-4]},
    ):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        started = jupyter_ft.race(race_of, "demo", "demo:support", "grid", max_steps=STEPS)
        started.wait()
        peaks.append(_peak())
        started.close()
    return [
        ("memory of two learning rates by four ranks against rank 16", peaks[1:], peaks[:1], "MB", "aim 1.2 or less")
    ]


def _peak() -> float:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) / MB


def start(_count: int) -> list[Figure]:
    """From the call to the first step's beginning, of a second session on a loaded base against the first."""
    import jupyter_ft

    taken = []
    for name in ("first", "second", "third"):
        began = time.perf_counter()
        session = jupyter_ft.finetune("demo", TICKETS, name, **ASKED, max_steps=100)
        session.log.wait_for(lambda s=session: s.state in ("running", "failed"), 300)
        taken.append(time.perf_counter() - began)
        session.pause().wait()
    return [("start of a session on a loaded base against the first", taken[1:], taken[:1], "s", "aim 0.1 or less")]


def visit(_count: int) -> list[Figure]:
    """A column's first token at a step on disk, and at one that is held, against `live`; four columns at once."""
    import jupyter_ft

    session = jupyter_ft.finetune("demo", TICKETS, "visit", **ASKED, max_steps=VISITS, snapshot_steps=1)
    session.wait()
    _took(lambda: session.chat(QUESTION, max_new_tokens=1))
    live = [_took(lambda: session.chat(QUESTION, max_new_tokens=1)) for _ in range(VISITS)]
    steps = session.visitable[:VISITS]
    fresh = [_took(lambda at=at: session.chat(QUESTION, at=at, max_new_tokens=1)) for at in steps]
    held = [_took(lambda at=at: session.chat(QUESTION, at=at, max_new_tokens=1)) for at in steps]
    four: list[str | int] = [*steps[:2], "live", "base"]
    session.compare(QUESTION, at=four, max_new_tokens=2)
    batch = [_took(lambda: session.compare(QUESTION, at=four, max_new_tokens=16)) for _ in range(3)]
    turns = [_took(lambda: [session.chat(QUESTION, at=at, max_new_tokens=16) for at in four]) for _ in range(3)]
    return [
        ("first token of a column switched to a step on disk against live", fresh, live, "s", "aim well below 1 s"),
        ("first token of a column switched to a step that is held against live", held, live, "s", "no aim"),
        ("four columns in one batch against one after another", batch, turns, "s", "no aim"),
    ]


def _took(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def snapshot(_count: int) -> list[Figure]:
    """What the training thread spends on a snapshot, and a step with one at each step, against a step without."""
    import jupyter_ft
    from jupyter_ft.launch.snapshots import Snapshots

    held: list[float] = []
    plain = Snapshots.if_due

    def timed(self: Any, step: int, *args: Any, **more: Any) -> None:
        began = time.perf_counter()
        plain(self, step, *args, **more)
        took = time.perf_counter() - began
        if self._waiting and self._waiting[-1].step == step:
            held.append(took)

    Snapshots.if_due = timed  # type: ignore[method-assign]
    sides: dict[int, list[float]] = {1: [], 10**6: []}
    for window in range(4):  # the first warms up
        for every, found in sides.items():
            session = jupyter_ft.finetune("demo", TICKETS, "s", **ASKED, max_steps=STEPS + 1, snapshot_steps=every)
            session.wait()
            if window:
                found.append(statistics.median(session.metrics["seconds"].iloc[1:]))
            session.close()
    return [
        ("what a snapshot holds up the training thread, against a step", held, sides[10**6], "s", "aim 0.01 or less"),
        ("a step with a snapshot at every step against none", sides[1], sides[10**6], "s", "no aim: one in many has"),
    ]


PARTS: dict[str, Callable[[int], list[Figure]]] = {
    "race": race,
    "grid": grid,
    "start": start,
    "visit": visit,
    "snapshot": snapshot,
}


if __name__ == "__main__":
    runs = os.environ["JUPYTER_FT_RUNS"] = tempfile.mkdtemp(prefix="bench-")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    part, number = sys.argv[1:]
    print(json.dumps(PARTS[part](int(number))), flush=True)
    shutil.rmtree(runs, ignore_errors=True)  # some gigabytes
    os._exit(0)  # sessions that are paused are not waited for
