"""The live figure over a real kernel: how often it speaks, and that it falls silent."""

from __future__ import annotations

import pytest

from .conftest import Kernel

pytestmark = pytest.mark.slow
START = "%%finetune support --model {tiny} --data tickets.csv\nmax_steps: 100000\ndtype: float32\nbatch_size: 2"


def drawings(kernel: Kernel) -> list[float]:
    """When each message that draws came, in seconds since the epoch; they are forgotten."""
    said = [m for m in kernel.heard if m["msg_type"] == "comm_msg"]
    kernel.heard.clear()
    states = [(m["header"]["date"].timestamp(), m["content"]["data"].get("state") or {}) for m in said]
    return [at for at, state in states if any(key.startswith("_py2js") and state[key] for key in state)]


def test_it_draws_twice_a_second_at_most_and_not_after_the_end(kernel: Kernel, tiny_model: object) -> None:
    assert kernel.run(START.format(tiny=tiny_model)).ok
    assert kernel.run("support.wait(step=1)\nfigure = support.figure(live=True)").ok
    kernel.run("figure")
    kernel.heard.clear()
    assert kernel.run("support.wait(step=support.step + 200)\nimport time\nbegan = time.time()").ok
    kernel.drain()
    drawings(kernel)
    began = float(kernel.value("time.time()"))
    assert kernel.run("support.wait(step=support.step + 400)").ok
    elapsed = float(kernel.value("time.time()")) - began
    drawn = drawings(kernel)
    assert 1 <= len(drawn) <= 2 * elapsed + 2
    assert kernel.value("figure is support.figure(live=True)") == "True"
    assert kernel.run("%ft stop support\n%ft wait support").ok
    assert kernel.run("while figure.data[0].x[-1] != support.step: time.sleep(0.05)").ok
    kernel.drain()
    drawings(kernel)
    kernel.drain(3)
    assert drawings(kernel) == []
    assert kernel.run("%ft report").displays()[0]["text/html"].startswith("<a href='runs/support/report.html'")
