"""Data that take long to read: the cell counts the rows, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from .conftest import Kernel

pytestmark = pytest.mark.slow

CELL = "%%finetune big --model tiny --data big.csv.gz\nmax_steps: 1"
SPOOLS = "sum(str(cache_folder()) in os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd'))"
# well past the moment that makes the file: a signal inside of that leaves an unnamed file to the kernel
GROWN = """def grown():
    fds = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    return any(os.stat(fd).st_size > 2**25 for fd in fds if str(cache_folder()) in os.path.realpath(fd))
"""
ROW = "Where is my parcel?," + "It is on its way. " * 120


def _big(path: Path) -> Path:
    """700,000 rows of 2 kB in a small file, which would take half a minute to read."""
    block = gzip.compress((ROW + "\n").encode() * 10_000)
    path.write_bytes(gzip.compress(b"prompt,completion\n") + block * 70)
    return path


@pytest.fixture(autouse=True)
def big(here: Path) -> None:
    if not (here / "big.csv.gz").exists():
        _big(here / "big.csv.gz")


def test_the_rows_are_counted_and_interrupt_leaves_nothing(kernel: Kernel, here: Path, kernel_set: str) -> None:
    assert kernel.run("import os, jupyter_ft\nfrom jupyter_ft.demo import cache_folder").ok
    sent = kernel.send(CELL)
    shown = kernel.until(lambda m: m["msg_type"] == "display_data")
    assert shown["content"]["data"]["text/plain"].startswith("reading rows: ")
    first = shown["content"]["transient"]["display_id"]
    again = kernel.until(lambda m: m["msg_type"] == "update_display_data")
    assert again["content"]["transient"]["display_id"] == first, "another line"
    kernel.manager.interrupt_kernel()
    said = kernel.result(sent)
    assert said.reply["ename"] == "UsageError"
    assert "interrupted while reading rows (" in said.stderr
    assert said.stderr.strip().count("\n") == 0
    read = re.search(r"reading rows \(([\d,]+)", said.stderr)
    assert read is not None
    assert int(read[1].replace(",", "")) < 700_000, "it was read to the end"
    assert kernel.value(SPOOLS) == "0", "the rows are still on the disk"
    assert kernel.value("len(jupyter_ft.sessions)") == "0"
    assert kernel.value("'big' in globals()") == "False"
    assert not (here / f"runs-{kernel_set}" / "big").exists()


def test_python_is_interrupted_as_cleanly(kernel: Kernel, here: Path, kernel_set: str) -> None:
    assert kernel.run("import os, jupyter_ft\nfrom jupyter_ft.demo import cache_folder").ok
    watch = GROWN + "import threading, signal, time\ndef watch():\n    while not grown():\n        time.sleep(0.01)\n"
    watch += "    os.kill(os.getpid(), signal.SIGINT)\nthreading.Thread(target=watch, daemon=True).start()\n"
    said = kernel.run(watch + "jupyter_ft.finetune(tiny, 'big.csv.gz', 'big')")
    assert said.reply["ename"] == "KeyboardInterrupt"
    assert kernel.value(SPOOLS) == "0"
    assert not (here / f"runs-{kernel_set}" / "big").exists()
    small = kernel.run("%%finetune small --model tiny --data tickets.csv --wait\nmax_steps: 1\ndtype: float32")
    assert small.ok, small.stderr
    plain = [data.get("text/plain", "") for data in small.displays()]
    assert not [text for text in plain if "rows" in text and "read in" in text], "a line for rows that took no time"
