"""What was asked in a row, whatever its format, and the prompts of a file: what a model answers along a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from jupyter_ft.errors import DataError

from .checks import shown
from .columns import candidates_for_prompt
from .conversations import Turn
from .formats import Example, Examples
from .read import read

BEGINNING = 12  # words of a text that a model goes on from


def asked(example: Example, *, classified: bool = False) -> list[Turn]:
    """The turns before the answer of a row; of a text its first words, or (`classified`) all of it."""
    if "messages" in example:
        turns: list[Turn] = example["messages"]
        answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        return turns[: answers[-1]] or [{"role": "user", "content": ""}]
    if "text" in example:
        text = example["text"] if classified else " ".join(example["text"].split()[:BEGINNING])
        return [{"role": "user", "content": text}]
    prompt = example["prompt"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    system = example.get("system")
    return [{"role": "system", "content": system}, *turns] if system else turns


def answers(example: Example) -> list[str]:
    """The answers that are right for a row, one at least; none where it has none."""
    if "messages" in example:
        return [turn["content"] for turn in example["messages"] if turn["role"] == "assistant"][-1:]
    if "answers" in example:
        return list(example["answers"])
    return [example[name] for name in ("completion", "chosen") if name in example][:1]


def spread(examples: Examples, count: int) -> list[Example]:
    """`count` rows, or all where there are fewer, evenly over the whole."""
    places = np.linspace(0, len(examples.rows) - 1, min(count, len(examples.rows)))
    return [examples.rows[int(place)] for place in np.unique(places.round())]


def prompts_in(path: str, most: int) -> tuple[str, ...]:
    """The prompts in a file: the lines of a text, else the column that is called what prompts are called.

    Raises `DataError` where there is no such file, no such column, no prompt, or more than `most`.
    """
    if not Path(path).expanduser().is_file():
        raise DataError(f"probes: there is no file {shown(path)}; write prompts as a list: probes: [{shown(path)}]")
    prompts = tuple(islice(_prompts(path), most + 1))
    if not prompts:
        raise DataError(f"probes: {path} holds no prompt")
    if len(prompts) > most:
        raise DataError(f"probes: {path} holds more than {most} prompts, which are the most that are answered")
    return prompts


def _prompts(path: str) -> Iterator[str]:
    file = Path(path).expanduser()
    if file.suffix.lower() in (".txt", ".md"):
        yield from (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        return
    source = read(path)
    column = _column(list(source.columns), path)
    for row in source.rows:
        if isinstance(row.get(column), str) and str(row[column]).strip():
            yield str(row[column])


def _column(theirs: Sequence[str], path: str) -> str:
    found = theirs if len(theirs) == 1 else candidates_for_prompt(theirs)
    if not found:
        raise DataError(f"probes: {path} has no column prompt (columns: {', '.join(map(shown, theirs[:12]))})")
    return found[0]
