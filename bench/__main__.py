"""`python -m bench`: what a session costs a step, and how long a chat waits meanwhile. On SmolLM2, a few minutes."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import chat, data, kernel, lab, scale, tokens, travel
from .figures import report

os.environ.setdefault("HF_HUB_OFFLINE", "1")

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
    chat.measure(TICKETS, ASKED)
    kernel.measure(TICKETS)
    lab.measure(TICKETS)
    scale.measure()
    tokens.measure()
    data.measure()
    travel.measure()


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


if __name__ == "__main__":
    sys.exit(main())
