"""What a run costs the cells beside it, and what loading costs a kernel: in a real kernel, over its sockets."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from .figures import percentile, report

CELLS, ROUNDS, STARTS = 60, 5, 7
SPREAD = 0.15  # seconds between two cells, at most: so that they fall anywhere in a step
CELL = """%%finetune {name} --model demo --data {data}
columns: {{prompt: Customer message, completion: Agent reply}}
batch_size: 4
max_steps: 100000
checkpoint_steps: 1000000
"""


def measure(data: Path) -> None:
    """Print the figures of this module; `data` holds the tickets."""
    starts()
    manager, client = start_new_kernel(kernel_name="python3", env=os.environ | {"JUPYTER_FT_FRONTEND": "notebook"})
    try:
        cells(client, data)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client: BlockingKernelClient, code: str) -> tuple[float, dict[str, Any]]:
    """Seconds from sending a cell to its reply, and the reply."""
    began = time.perf_counter()
    sent = client.execute(code)
    while True:
        reply = client.get_shell_msg(timeout=300)
        if reply["parent_header"].get("msg_id") == sent:
            return time.perf_counter() - began, reply["content"]


def done(client: BlockingKernelClient, code: str) -> None:
    """Run a cell that must succeed."""
    _, reply = run(client, code)
    if reply["status"] != "ok":
        raise RuntimeError(f"{code!r}: {reply['ename']}: {reply['evalue']}")


def cells(client: BlockingKernelClient, data: Path) -> None:
    """`1+1` while SmolLM2 trains against the same while its run is paused, in turns."""
    done(client, "%load_ext jupyter_ft")
    done(client, CELL.format(name="beside", data=data))
    done(client, "beside.wait(step=2)")
    training: list[float] = []
    idle: list[float] = []
    for _ in range(ROUNDS):
        training += _window(client)
        done(client, "beside.pause().wait()")
        idle += _window(client)
        done(client, "beside.resume().wait()")
        done(client, "beside.wait(step=beside.step + 1)")
    for at, aim in ((50, "no aim"), (99, "aim 2 or less")):
        what = f"a 1+1 cell at the {at}th percentile while training against paused ({len(training)} cells each)"
        report(what, [1000 * percentile(training, at)], [1000 * percentile(idle, at)], "ms", aim)


def _window(client: BlockingKernelClient) -> list[float]:
    seconds = []
    for _ in range(CELLS):
        time.sleep(random.random() * SPREAD)
        seconds.append(run(client, "1+1")[0])
    return seconds


def starts() -> None:
    """IPython's start with the import, and with `%load_ext`, against its start alone; one process each, in turns."""
    codes = {"plain": "pass", "import": "import jupyter_ft", "loaded": "%load_ext jupyter_ft"}
    seconds: dict[str, list[float]] = {name: [] for name in codes}
    for turn in range(STARTS + 1):
        for name, code in codes.items():
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "IPython", "--quick", "-c", code], check=True, stdout=subprocess.DEVNULL
            )
            if turn:  # the first warms the disk's cache
                seconds[name].append(time.perf_counter() - began)
    report("IPython that imports jupyter_ft against IPython alone", seconds["import"], seconds["plain"], "s", "no aim")
    report(
        "IPython with %load_ext jupyter_ft against IPython alone", seconds["loaded"], seconds["plain"], "s", "no aim"
    )
