"""The cells of a race, of a fork and of a chat across them, in a real kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .sets import NEWEST

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kernel_set() -> str:
    """What is tested is ours; that cells behave alike on older kernels is tested elsewhere."""
    return NEWEST


CELL = """%%finetune grid --model {model} --data demo:support
race:
  learning_rate: [1e-4, 3e-4]
  adapter.r: [4, 8, 16, 32]
max_steps: 132
max_length: 64
batch_size: 2
held_out: 16
eval_steps: 20
"""


def test_race_steer_fork_and_chat(kernel: Any, tiny_model: Path) -> None:
    kernel.run("%load_ext jupyter_ft")
    started = kernel.run(CELL.format(model=tiny_model))
    assert started.ok, started.stderr
    assert any("grid: 8 runs" in shown["text/plain"] for shown in started.displays())
    kernel.run("%ft pause grid-3")
    step = int(kernel.run("print(grid[2].step)").stdout)
    assert step < 30
    assert (
        "requested: learning_rate = 5e-5 at step 30" in kernel.run("%ft set grid-3 learning_rate=5e-5 --step 30").stdout
    )
    kernel.run("%ft resume grid-3")
    table = kernel.run("%ft wait grid --step 40")
    assert table.ok, table.stderr
    forked = kernel.run("%ft fork grid-3@40 calmer learning_rate=2e-5")
    assert forked.ok, forked.stderr
    said = kernel.run('%ft chat grid-3@40,grid-5@best,calmer,base "My laptop will not start." max_new_tokens=4')
    assert said.ok, said.stderr
    html = said.displays()[-1]["text/plain"]
    assert all(column in html for column in ("grid-3@40", "grid-5@best (step ", "calmer@live", "base"))
    assert kernel.run("print(grid[2].changes[0].step)").stdout == "30\n"
    kernel.run("%ft stop grid")
    kernel.run("%ft wait calmer --step 42")
    assert kernel.run("print(calmer.changes[-1].step)").stdout == "41\n"
    kernel.run("%ft stop calmer")
    kernel.run("%ft wait calmer")
    assert "calmer" in kernel.run("%ft replay calmer").stdout
    left = kernel.run("%ft fork calmer left --fresh-optimizer")
    assert left.ok, left.stderr
    assert "the weights alone: with a fresh optimizer" in kernel.run("%ft logs left").stdout
    kernel.run("%ft stop left")


def test_best_where_nothing_is_held_out_is_the_newest_and_says_so(kernel: Any) -> None:
    short = "max_steps: 3\nmax_length: 64\nbatch_size: 2\ndtype: float32\n"
    started = kernel.run(
        f"%%finetune pair --model tiny --data tickets.csv\nrace: {{learning_rate: [1e-4, 1e-3]}}\n{short}"
    )
    assert started.ok, started.stderr
    assert kernel.run("%ft wait pair").ok
    said = kernel.run('%ft chat pair-1@best,pair-2@2,base "Where is my order?" max_new_tokens=4')
    assert said.ok, said.stderr
    columns = said.displays()[-1]["text/plain"]
    assert "[pair-1@best (nothing held out: live) · step 3 · " in columns
    assert "[pair-2@2 · step 2 · " in columns
    shown = kernel.run("pair").displays()
    assert any(data["text/plain"].startswith("pair: 2 runs, 0 live") and "<img " in data["text/html"] for data in shown)


def test_an_export_prints_no_warning_that_is_for_developers(kernel: Any) -> None:
    kernel.run("import warnings\nwarnings.simplefilter('always')")
    said = kernel.run("%ft export pair-1 --as merged --to pair-merged")
    assert said.ok, said.stderr
    assert "3 of 3 answers the same" in said.stdout
    assert said.stderr == ""


def test_waiting_says_why_a_run_ended_before_its_last_step(kernel: Any) -> None:
    cell = "%%finetune early --model tiny --data tickets.csv --no-wait held_out=10% eval_steps=1 max_steps=50\n"
    still = "learning_rate: 1e-12\nearly_stopping_patience: 2\nmax_length: 64\ndtype: float32\n"
    assert kernel.run(cell + still).ok
    said = kernel.run("%ft wait early").stdout
    assert said.startswith("early is finished at step ")
    assert " of 50: stopped early: no lower eval_loss in 2 evaluations" in said
