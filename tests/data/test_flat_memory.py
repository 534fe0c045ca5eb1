"""Four times the rows must not need four times the memory. Measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

READ = """
import resource, sys
from jupyter_ft.data import hold_out, load, render

path, folder = sys.argv[1:]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MB
{render}
examples = load(path, {{}})
train, test = hold_out(examples, 0.1, {{}}, 0)
after_reading = peak()
rows = render_all(train)
print(len(rows), after_reading, peak())
"""
RENDER = """
from pathlib import Path
from tests.data.conftest import CHATML, toy
from datasets import Dataset
tokenizer = toy(CHATML)
def render_all(train):
    return render(train, tokenizer, system=None, max_length=64, file=Path(folder) / "tokens.arrow").rows
"""


def peaks(folder, rows: int, kind: str) -> tuple[int, int]:
    path = folder / f"{rows}.{kind}"
    answer = "It is on its way and should be with you soon. " * 4
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema([("prompt", pyarrow.string()), ("completion", pyarrow.string())])
        with parquet.ParquetWriter(path, schema) as writer:
            for start in range(0, rows, 10_000):
                columns = [[f"{n}?" for n in range(start, start + 10_000)], [answer] * 10_000]
                writer.write_batch(pyarrow.record_batch(columns, schema=schema))
    else:
        with path.open("w") as file:
            file.write("prompt,completion\n")
            file.writelines(f"{number}?,{answer}\n" for number in range(rows))
    code = READ.format(render=RENDER)
    command = [sys.executable, "-c", code, str(path), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=500)
    count, after_reading, after_all = map(int, done.stdout.split())
    assert count == rows * 9 // 10
    return after_reading, after_all


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_four_times_the_rows_in_nearly_the_same_memory(tmp_path, kind):
    few, many = (peaks(tmp_path, rows, kind) for rows in (10_000, 40_000))
    added = 30_000
    assert many[0] - few[0] < 30 + added * 100 / 2**20  # MB: the parts kept in memory (16 each), and some numbers a row
    assert many[1] - few[1] < 40 + added * 100 / 2**20  # as lists of integers the rows alone would be 72 MB more


TEXT = """
import resource, sys
from pathlib import Path
from jupyter_ft.data import hold_out, load, render_windows
from tests.data.conftest import CHATML, toy

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MB
train, _ = hold_out(load(sys.argv[1], {}, method="cpt"), 0.1, {}, 0, "cpt")
file = Path(sys.argv[2]) / "tokens.arrow"
print(len(render_windows(train, toy(CHATML), system=None, max_length=64, file=file).rows), peak())
"""


@pytest.mark.slow
def test_a_long_text_takes_no_more_memory_than_a_short_one(tmp_path):
    peaks = []
    for megabytes in (2, 12):
        path = tmp_path / f"{megabytes}.txt"
        path.write_text("It is on its way.\n\n" * (megabytes * 2**20 // 19))
        done = subprocess.run(
            [sys.executable, "-c", TEXT, str(path), str(tmp_path)], check=True, capture_output=True, text=True
        )
        windows, peak = map(int, done.stdout.split())
        assert windows > megabytes * 2**20 * 0.85 / 65
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 40  # MB; as lists of integers its tokens alone would be 80 MB more
