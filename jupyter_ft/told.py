"""What every message is, and the parts of events that are looked at by themselves: a matrix, advice, health."""

from __future__ import annotations

import time as _time
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


def _now() -> float:
    return _time.time()


FREED = "its memory is given back until it is resumed"
"""The note of a pause that a person asked for, with the memory."""


class Said(BaseModel):
    """Frozen, of known keys; a number that is not finite is a word in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Happened(Said):
    """Something that has happened, and when."""

    durable: ClassVar[bool] = True  # kept in events.jsonl; the others are only for whoever watches now
    time: float = Field(default_factory=_now)  # seconds since the epoch; a clock may jump back


class Confusion(Said):
    """How many rows with each of `labels` (a row of `counts`) were taken for each of them (a column)."""

    labels: list[str]
    counts: list[list[int]]


class Advice(Said):
    """Something that a person could do now: the words on a button, the command behind it, and the same for a cell.

    Or, with no command, the step to open the `chat` with.
    """

    label: str
    command: dict[str, JsonValue] = Field(default_factory=dict)
    cell: str
    chat: int | None = None


def rows_text(rows: list[int]) -> str:
    """` (rows 3, 9 and 12 more)`; nothing where none are known."""
    if not rows:
        return ""
    more = f" and {len(rows) - 12} more" if len(rows) > 12 else ""
    return f" ({'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows[:12]))}{more})"


class Health(Happened):
    """The state of the run in one line, when it changes. `rows` (from 1) are those behind it, where known."""

    kind: Literal["health"] = "health"
    step: int
    level: Literal["green", "amber", "red"]
    said: str
    rows: list[int] = Field(default_factory=list)
    advice: list[Advice] = Field(default_factory=list)

    def __str__(self) -> str:
        rows = (
            f" (rows {', '.join(map(str, self.rows[:12]))}{', …' if len(self.rows) > 12 else ''})" if self.rows else ""
        )
        todo = "".join(f"\n  {advice.label}: {advice.cell}" for advice in self.advice)
        return f"{self.level}: {self.said}{rows}{todo}"

    __repr__ = __str__  # it is looked at in notebooks
