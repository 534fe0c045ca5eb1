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
max_steps: 60
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
    kernel.run("%ft wait grid")
    assert kernel.run("print(grid[2].changes[0].step, [s.state for s in grid])").stdout.startswith("30 ['finished'")
    forked = kernel.run("%ft fork grid-3@40 calmer learning_rate=2e-5")
    assert forked.ok, forked.stderr
    kernel.run("%ft wait calmer")
    assert kernel.run("print(calmer.step, calmer.changes[-1].step)").stdout.split() == ["60", "41"]
    said = kernel.run('%ft chat grid-3@40,grid-5@best,calmer,base "My laptop will not start." max_new_tokens=4')
    assert said.ok, said.stderr
    html = said.displays()[-1]["text/plain"]
    assert all(column in html for column in ("grid-3@40", "grid-5@best (step ", "calmer@live", "base"))
