"""`python -m bench`: what a session costs a step, and how long a chat waits meanwhile. On SmolLM2, a few minutes."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from . import tokens

WINDOWS, STEPS, TICKETS = 5, 6, Path(__file__).parents[1] / "examples" / "tickets.csv"
COLUMNS = {"prompt": "Customer message", "completion": "Agent reply"}
ASKED: dict[str, Any] = {"batch_size": 4, "max_steps": STEPS, "columns": COLUMNS, "checkpoint_steps": 10**6}


def main() -> None:
    os.environ["JUPYTER_FT_RUNS"] = tempfile.mkdtemp(prefix="bench-")
    import torch

    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}", end="; ")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; SmolLM2-135M, LoRA r16, batch 4")
    step_time()
    first_token()
    tokens.measure()


def report(what: str, ours: list[float], theirs: list[float], unit: str, aim: str) -> None:
    """One line: both medians, their ratio, and the spread of the windows."""
    a, b = statistics.median(ours), statistics.median(theirs)
    spread = f"windows {min(ours):.3f}-{max(ours):.3f} against {min(theirs):.3f}-{max(theirs):.3f}"
    print(f"{what}: {a:.3f} {unit} against {b:.3f} {unit} = {a / b:.3f} ({aim}); {spread}", flush=True)


# --- a step ---


def step_time() -> None:
    in_a_thread(bare_window)  # warm up
    ours, theirs = [], []
    for _ in range(WINDOWS):
        ours.append(session_window())
        theirs.append(in_a_thread(bare_window))
    report("step in a session against the same trainer bare", ours, theirs, "s", "aim 1.02 or less")


def in_a_thread(measure: Callable[[], float]) -> float:
    """In a thread of its own: a pool of OpenMP threads that the main thread keeps would slow one of the two sides."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(measure).result()


def session_window() -> float:
    """Seconds a step, from the end of the first to the end of the last, all of the boundary included."""
    import jupyter_ft

    session = jupyter_ft.finetune("demo", TICKETS, "ours", **ASKED)
    session.log.wait_for(lambda: session.step >= 1, 300)
    began = time.perf_counter()
    session.log.wait_for(lambda: session.step >= STEPS, 600)
    took = time.perf_counter() - began
    session.wait()
    session.close()
    return took / (STEPS - 1)


def bare_window() -> float:
    """The same for TRL's trainer on the same rows with nothing attached."""
    from transformers import TrainerCallback

    from jupyter_ft.control.lease import seeded_streams
    from jupyter_ft.data import load, render
    from jupyter_ft.methods import sft
    from jupyter_ft.models import POOL
    from jupyter_ft.recipe import parse_recipe

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    recipe = parse_recipe({"model": "demo", **ASKED})
    base = POOL.get("demo", revision=None, dtype="auto", report=lambda *_: None)
    rows = render(load(TICKETS, COLUMNS), base.tokenizer, system=None, max_length=recipe.max_length).rows
    with seeded_streams(recipe.seed), tempfile.TemporaryDirectory() as folder:
        trainer = sft.build(base.shell(), base.new_tokenizer(), recipe, rows, Path(folder))
        trainer.add_callback(Clock())
        trainer.train()
    return (ends[-1] - ends[0]) / (len(ends) - 1)


# --- a chat ---


def first_token() -> None:
    """First token while training against the same question to the same twin while the run is paused."""
    import jupyter_ft

    asked = ASKED | {"max_steps": 10_000}
    session = jupyter_ft.finetune("demo", TICKETS, "chat", **asked)
    session.wait(step=1)
    training, idle, rate_training, rate_idle = [], [], [], []

    def ask() -> tuple[float, float]:
        reply = session.chat("I haven't received my order yet.", max_new_tokens=16)
        return reply.first_token_seconds, reply.tokens_per_second

    ask()
    for _ in range(WINDOWS + 2):
        first, rate = ask()
        training.append(first)
        rate_training.append(rate)
        session.pause().wait()
        first, rate = ask()
        idle.append(first)
        rate_idle.append(rate)
        session.resume().wait()
        session.wait(step=session.step + 1)
    session.close()
    report("first chat token while training against idle", training, idle, "s", "aim 1.5 or less")
    report("chat tokens/s while training against idle", rate_training, rate_idle, "tok/s", "no aim")


if __name__ == "__main__":
    sys.exit(main())
