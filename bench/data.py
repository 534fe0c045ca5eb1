"""Many rows: how fast they are read and tokenised, and that memory does not grow with them. SmolLM2's tokenizer.

Each size in a process of its own, on one core, so that memory and time are its own.
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .figures import report

FEW, MANY, BY_TRL = 20_000, 200_000, 5_000
WORDS = "order parcel late arrived broken refund please where is my the a of when will it be paid twice"
SYSTEM = "You are the support desk of an online shop."


def measure() -> None:
    """Print the figures: rows a second against TRL's own tokenisation, and both against ten times the rows."""
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        few, many = (_child("ours", folder, rows) for rows in (FEW, MANY))
        theirs = _child("trl", folder, BY_TRL)
    speed = [side["tokenised"] for side in (few, theirs)]
    again = [many["again"]], [many["tokenised"]]
    report(f"rows a second of {MANY:,}, tokenised by an earlier run against anew", *again, "rows/s", "aim 10 or more")
    report("rows tokenised a second on one core against TRL's own way", speed[:1], speed[1:], "rows/s", "aim 2 or more")
    for what in ("read", "tokenised"):
        name = f"rows {what} a second at {MANY:,} rows against {FEW:,}"
        report(name, [many[what]], [few[what]], "rows/s", "flat")
    report(f"peak memory at {MANY:,} rows against {FEW:,}", [many["peak"]], [few["peak"]], "MB", "flat")


def _child(part: str, folder: str, rows: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.data", part, folder, str(rows)]
    env = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write_rows(path: Path, rows: int) -> Path:
    """A CSV of short prompts and completions, of about 50 words a row, no two alike."""
    chance = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "completion"])
        for number in range(rows):
            asked, told = (" ".join(chance.choices(WORDS.split(), k=count)) for count in (15, 30))
            writer.writerow([f"Order {number}: {asked}?", f"{told}, see {number}."])
    return path


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    from jupyter_ft.demo import demo_folder

    return AutoTokenizer.from_pretrained(demo_folder(lambda *_: None))


def ours(folder: str, rows: int) -> dict[str, float]:
    """Rows a second, and how far memory (MB) rose above what it was with the tokenizer loaded."""
    import datasets  # noqa: F401 - not part of the time

    from jupyter_ft.data import load, render
    from jupyter_ft.data.again import key_of, made_before
    from jupyter_ft.data.look import keep_about

    path, tokenizer = write_rows(Path(folder) / f"{rows}.csv", rows), _tokenizer()
    before = _peak()
    began = time.perf_counter()
    examples = load(path, {})
    read = time.perf_counter()
    files = [Path(folder) / f"{run}{rows}" / "data" / "tokens.arrow" for run in "ab"]
    rendered = render(examples, tokenizer, system=SYSTEM, max_length=1024, file=files[0])
    done = time.perf_counter()
    keep_about(files[0], rendered, key=key_of(examples, tokenizer, system=SYSTEM, max_length=1024))
    kept = time.perf_counter()
    found = made_before(key_of(examples, tokenizer, system=SYSTEM, max_length=1024), files[1], Path(folder))
    again = time.perf_counter() - kept
    assert found is not None
    assert list(found[0].numbers) == list(rendered.numbers)
    speeds = {"read": read - began, "tokenised": done - read, "again": again}
    return {what: rows / seconds for what, seconds in speeds.items()} | {"peak": _peak() - before}


def trl(folder: str, rows: int) -> dict[str, float]:
    """The same rows by what TRL's `SFTTrainer` does with each: the prompt and the whole rendered and tokenised."""
    from trl.data_utils import _tokenize

    tokenizer = _tokenizer()
    with write_rows(Path(folder) / f"{rows}.csv", rows).open(newline="") as file:
        found = list(csv.DictReader(file))
    began = time.perf_counter()
    for row in found:
        asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["prompt"]}]
        _tokenize(tokenizer, asked, add_generation_prompt=True)
        _tokenize(tokenizer, [*asked, {"role": "assistant", "content": row["completion"]}])
    return {"tokenised": rows / (time.perf_counter() - began)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    part, where, count = sys.argv[1:]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(json.dumps({"ours": ours, "trl": trl}[part](where, int(count))))
