"""The append-only log of a run: one writer's events in order, any number of readers that each keep a cursor.

Steps are kept as columns (eight bytes a number), everything else as a list, so that a long run stays small in memory.
On disk it is one JSON object a line; a torn last line, left by a killed process, is dropped on reading.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from .messages import Answer, Event, Logged, ReplyDone, ReplyPart, Resumed, StepDone, event_from

Floats = NDArray[np.float64]
BASE_COLUMNS = ("step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds", "epoch")


@dataclass(frozen=True)
class Cursor:
    """Where a reader is: rows and events already seen, in which era (an era ends when steps are taken back)."""

    rows: int = 0
    events: int = 0
    era: int = 0


@dataclass
class News:
    """What came since a cursor. `restart` means: forget the steps you have, `steps` holds them all again."""

    steps: dict[str, Floats] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    restart: bool = False


class Columns:
    """Growing columns of float64, one row a step; a column that starts late is NaN before."""

    def __init__(self) -> None:
        self._arrays: dict[str, Floats] = {name: np.empty(256) for name in BASE_COLUMNS}
        self.rows = 0

    def append(self, values: dict[str, float]) -> None:
        """Add one row; a name not seen before becomes a column."""
        capacity = len(self._arrays["step"])
        if self.rows == capacity:
            for name, array in self._arrays.items():
                self._arrays[name] = np.concatenate([array, np.empty(capacity)])
            capacity *= 2
        for name in values.keys() - self._arrays.keys():
            self._arrays[name] = np.full(capacity, np.nan)
        for name, array in self._arrays.items():
            array[self.rows] = values.get(name, np.nan)
        self.rows += 1

    def truncate(self, last_step: int) -> None:
        """Drop the rows after `last_step`."""
        self.rows = int(np.searchsorted(self._arrays["step"][: self.rows], last_step, side="right"))

    def since(self, row: int) -> dict[str, Floats]:
        """Copies of the columns from `row` on."""
        return {name: array[row : self.rows].copy() for name, array in self._arrays.items()}


def _row(event: StepDone) -> dict[str, float]:
    per_second = event.tokens / event.seconds if event.seconds > 0 else float("nan")
    row = {name: float(getattr(event, name)) for name in BASE_COLUMNS if name != "tokens_per_second"}
    return {**event.metrics, **row, "tokens_per_second": per_second}


class EventLog:
    """The events of one run, in memory and (where `path` is given) on disk. Safe to use from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        self._columns = Columns()
        self._events: list[Event | None] = []
        self._parts: dict[str, list[int]] = {}
        self._answers: dict[str, Answer] = {}
        self._era = 0
        self._changed = threading.Condition()
        self._file: TextIO | None = None
        self._complained = False
        if path is not None:
            for event in read_events(path):
                self._keep(event)
            drop_torn_line(path)
            self._file = path.open("a", encoding="utf-8")

    def append(self, event: Event) -> None:
        """Record `event`, write it where it is durable, and wake whoever waits."""
        with self._changed:
            self._keep(event)
            if self._file is not None and event.durable:
                self._write(event)
            self._changed.notify_all()

    def _write(self, event: Event) -> None:
        try:
            print(event.model_dump_json(), file=self._file, flush=True)  # a killed process loses nothing
        except OSError as error:  # a full disk must not end a run; what is lost is the line on disk
            if not self._complained:
                self._complained = True
                self._keep(Logged(level="error", text=f"events are no longer written to disk: {error}"))

    def _keep(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._columns.append(_row(event))
            return
        if isinstance(event, Resumed):
            self._columns.truncate(event.step)
            self._era += 1
        if isinstance(event, ReplyPart):
            self._parts.setdefault(event.command, []).append(len(self._events))
        if isinstance(event, Answer):
            self._answers[event.command] = event
        if isinstance(event, ReplyDone):  # the whole text is here, its parts need no longer be kept
            for index in self._parts.pop(event.command, ()):
                self._events[index] = None
        self._events.append(event)

    def read(self, cursor: Cursor | None = None) -> tuple[News, Cursor]:
        """What is new since `cursor` (all of it for None), and the cursor for the next call."""
        cursor = cursor or Cursor()
        with self._changed:
            restart = cursor.era != self._era
            news = News(
                steps=self._columns.since(0 if restart else cursor.rows),
                events=[event for event in self._events[cursor.events :] if event is not None],
                restart=restart,
            )
            return news, Cursor(self._columns.rows, len(self._events), self._era)

    def answer(self, command: str) -> Answer | None:
        """The event that answered the command with this id, or None while there is none."""
        with self._changed:
            return self._answers.get(command)

    @property
    def lock(self) -> threading.Condition:
        """What guards the log; a reader that guards state of its own takes this, so that there is one lock to order."""
        return self._changed

    def wait_for(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Block until `condition` holds (it is tried after each event); False where `timeout` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def close(self) -> None:
        """Close the file; the events stay readable in memory."""
        with self._changed:
            if self._file is not None:
                self._file.close()
                self._file = None


def read_events(path: Path) -> Iterator[Event]:
    """The events in a log file, in order; lines that are torn or from a newer version are passed over."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            try:
                yield event_from(line)
            except ValidationError:
                continue


def drop_torn_line(path: Path) -> None:
    """Cut off an unfinished last line, so that the next append starts on a line of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            file.truncate(whole)
