"""The live figure over a real kernel: how often it speaks, and that it falls silent. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from .conftest import Kernel

pytestmark = pytest.mark.slow
PREPARE = """
import sys, time
sys.path.insert(0, {folder!r})
from small_run import SmallRun
from jupyter_ft.ui.live_figure import LiveFigure
run = SmallRun()
figure = LiveFigure(run).widget
figure
"""
FEED = """
began = time.time()
while time.time() < began + 4:
    run.take(2)
    time.sleep(0.01)
print(began, time.time())
"""
LAST = """
run.become("finished")
until = time.time() + 30
while figure.data[0].x is None or int(figure.data[0].x[-1]) != run.step:
    assert time.time() < until
    time.sleep(0.05)
"""


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Kernel]:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    yield Kernel(client, manager)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def drawings(kernel: Kernel) -> list[float]:
    """When each message that draws came, in seconds since the epoch."""
    said = [m for m in kernel.heard if m["msg_type"] == "comm_msg"]
    states = [(m["header"]["date"].timestamp(), m["content"]["data"].get("state") or {}) for m in said]
    return [at for at, state in states if any(key.startswith("_py2js") and state[key] for key in state)]


def test_it_draws_twice_a_second_at_most_and_not_after_the_end(bare: Kernel) -> None:
    folder = str(Path(__file__).parents[1] / "ui")
    assert bare.run(PREPARE.format(folder=folder)).ok
    said = bare.run(FEED)
    assert said.ok, said.reply
    began, ended = map(float, said.stdout.split())
    bare.drain(1)
    during = [at for at in drawings(bare) if began <= at <= ended]
    assert 1 <= len(during) <= 2 * (ended - began) + 1
    assert bare.run(LAST).ok
    bare.drain(1)
    drawn = len(drawings(bare))
    bare.drain(2)
    assert len(drawings(bare)) == drawn
    assert bare.value("'torch' in sys.modules") == "False"
