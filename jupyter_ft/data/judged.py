"""`feedback:RUN`: the judgements of a run as rows, those of a fifth of the prompts kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jupyter_ft.errors import DataError, RunFolderError
from jupyter_ft.feedback import feedback
from jupyter_ft.feedback.lessons import TO_TRAIN, Row, view_for, why_none

PREFIX = "feedback:"
HELD_OUT = "held-out judgements"
"""What `held_out` of a recipe says where they are evaluated on."""


class Sides(NamedTuple):
    """Rows to train on and rows that are held out, and what to say of them."""

    name: str
    train: list[Row]
    held_out: list[Row]
    note: str


def is_feedback(data: object) -> bool:
    """Whether `data` names judgements."""
    return isinstance(data, str) and data.strip().startswith(PREFIX)


def held_out_of(data: object, method: str, asked: Mapping[str, Any]) -> str | None:
    """What `held_out` is where `data` are judgements, some of them held out, and the recipe asks for nothing else."""
    if not is_feedback(data) or "held_out" in asked:
        return None
    return HELD_OUT if sides(str(data).strip().removeprefix(PREFIX), method).held_out else None


def few_said(data: object, rows: int) -> str:
    """What to say of `rows` judgements that are too few to learn much from; empty where they are enough, or no such."""
    if not is_feedback(data) or rows >= TO_TRAIN:
        return ""
    return f"{rows} judgements to learn from are few: the run may learn them by heart; {TO_TRAIN} are a beginning"


def sides(run: str, method: str) -> Sides:
    """The judgements of `run` as `method` learns from them.

    Raises `DataError` where there is no such run, nothing that `method` can use, or all of that is held out.
    """
    try:
        kept = feedback(run.strip())
        judgements = kept.judgements
    except RunFolderError as error:
        raise DataError(f"{PREFIX}{run}: {error}") from None
    name = f"{PREFIX}{kept.name}"
    view, note = view_for(method, judgements)
    train, apart = (view(one for one in judgements if one.held_out is side) for side in (False, True))
    if not train and not apart:
        raise DataError(f"{name} has {why_none(judgements)}, so {method} has nothing to learn from")
    if not train:
        count = f"all {len(apart)} rows" if len(apart) > 1 else "the only row"
        raise DataError(f"{name}: {count} for {method} belong to the fifth of prompts held out; judge more prompts")
    held = f"{len(apart):,} more held out, by their prompts" if apart else "none happens to be held out"
    people = len({one.reviewer for one in judgements})
    by = f"judged by {people} people" if people > 1 else ""
    return Sides(name, train, apart, "; ".join(part for part in (held, by, note) if part))
