"""Prompts alone: what is asked in rows that may hold more, or nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jupyter_ft.errors import DataError

from .checks import check_row, shown
from .columns import _candidates
from .conversations import RowError, Turn, asked_turns
from .formats import Example
from .read import Source


def questions_in(found: Source | Sequence[object], columns: Mapping[str, str]) -> list[list[Turn]]:
    """The prompts in rows: a column called so (or mapped by `columns`), the only column, or conversations.

    A `system` column precedes them. Raises `DataError` where no column holds them, and for the first row without one.
    """
    if isinstance(found, Source):
        rows, name = found.rows, found.name
    else:
        rows, name = [check_row(row, f"prompt {at}") for at, row in enumerate(found, 1)], "a list"
    names = found.columns if isinstance(found, Source) else tuple(dict.fromkeys(c for row in rows for c in row))
    column, system = _columns(names, columns, name)
    prompts = []
    for index, row in enumerate(rows):
        try:
            turns = without_answer(asked_turns(row.get(column)))
        except RowError as reason:
            turns, what, fix = [], reason.what, reason.fix
        else:
            what, fix = "no prompt", "fill it in or delete the row"
        if not turns or not turns[-1]["content"].strip():
            where = found.place(index) if isinstance(found, Source) else f"prompt {index + 1}"
            raise DataError(f"{where}: {what}; {fix}")
        about = row.get(system)
        own = isinstance(about, str) and about.strip() and turns[0]["role"] != "system"
        prompts.append([{"role": "system", "content": str(about)}, *turns] if own else turns)
    return prompts


def _columns(names: Sequence[str], asked: Mapping[str, str], name: str) -> tuple[str, str]:
    mapped = {ours: theirs for ours, theirs in asked.items() if theirs in names}
    for ours in ("prompt", "messages"):
        found = _candidates(ours, list(names), mapped)
        if len(found) == 1:
            return found[0], next(iter(_candidates("system", list(names), mapped)), "")
        if found:
            several = " and ".join(shown(column) for column in found)
            raise DataError(f"{name}: {several} could each be the prompt; rename one to prompt")
    if len(names) == 1:
        return names[0], ""
    raise DataError(f"{name}: no column is called prompt (columns: {', '.join(map(shown, names[:12]))}); rename one")


def without_answer(turns: Sequence[Turn]) -> list[Turn]:
    """The turns up to the last one that is to be answered."""
    last = next((at for at in range(len(turns), 0, -1) if turns[at - 1]["role"] in ("user", "tool")), 0)
    return list(turns[:last])


def question_of(example: Example) -> list[Turn]:
    """What is asked in an example of a run's rows; nothing where they are texts."""
    if "messages" in example:
        return without_answer(example["messages"])
    asked: Any = example.get("prompt")
    if not asked:
        return []
    turns = without_answer([{"role": "user", "content": asked}] if isinstance(asked, str) else asked)
    system: Iterable[Turn] = [{"role": "system", "content": example["system"]}] if "system" in example else []
    return [*system, *turns]
