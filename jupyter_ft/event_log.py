"""The append-only log of a run: one writer's events in order, any number of readers that each keep a cursor.

Steps go to `steps.Steps` and everything else to `events.Events`, so that a long run stays small in memory.
On disk an event is a line of JSON, a step a row of a binary file in `steps/` beside it; a torn last line or row, left
by a killed process, is dropped on reading. (Older logs have their steps as lines too, and are read all the same.)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, TextIO

from pydantic import ValidationError

from .events import Events, Kind
from .messages import Answer, Event, Logged, Progress, ReplyDone, ReplyPart, Resumed, StepDone, event_from
from .picture import Floats as Floats  # noqa: PLC0414 - who reads a log names what is in it
from .steps import BASE_COLUMNS, TIME, Steps

Which = Literal["all", "picture", "none"]
"""Of the steps: all; at most some tens of thousands, with every peak and step that is not finite; or none."""

BLOCK = 65536  # bytes looked through at a time for the last whole line


@dataclass(frozen=True)
class Cursor:
    """Where a reader is: rows and events already seen, in which era (an era ends when steps are taken back)."""

    rows: int = 0
    events: int = 0
    era: int = 0


@dataclass
class News:
    """What came since a cursor. `restart` means: forget the steps you have, `steps` holds those from the start."""

    steps: dict[str, Floats] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    restart: bool = False


def _row(event: StepDone) -> dict[str, float]:
    per_second = event.tokens / event.seconds if event.seconds > 0 else float("nan")
    row = {name: float(getattr(event, name)) for name in BASE_COLUMNS if name != "tokens_per_second"}
    return {**event.metrics, **row, "tokens_per_second": per_second, TIME: event.time}


def read_events(path: Path, size: int) -> Iterator[Event]:
    """The events in the first `size` bytes; a line that is torn, or from a newer version, is passed over."""
    with path.open("rb") as lines:
        for line in lines:
            size -= len(line)
            if size < 0 or not line.endswith(b"\n"):
                return
            with suppress(ValidationError):
                yield event_from(line)


def that_count(events: Iterable[Event], kind: type[Kind]) -> list[Kind]:
    """The events of a `kind` that has a step, less those of steps that were taken back."""
    kept: list[Kind] = []
    for event in events:
        if isinstance(event, Resumed):
            kept = [one for one in kept if getattr(one, "step", 0) <= event.step]
        if isinstance(event, kind):
            kept.append(event)
    return kept


def _torn(file: BinaryIO, size: int) -> int:
    """Bytes after the last whole line."""
    for back in range(BLOCK, size + BLOCK, BLOCK):
        start = max(0, size - back)
        file.seek(start)
        found = file.read(size - start).rfind(b"\n")
        if found >= 0:
            return size - start - found - 1
    return size


class EventLog:
    """The events of one run, in memory and (where `path` is given) on disk. Safe to use from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        self._steps = Steps()
        self._path = path
        self._events = Events(bounded=path is not None)
        self._parts: dict[str, list[int]] = {}
        self._answers: dict[str, Answer] = {}
        self._progress = ("", 0)  # what goes on, and the number of how far it is
        self._era = 0
        self._changed = threading.Condition()
        self._file: TextIO | None = None
        self._complained = False
        if path is not None:
            self._load(path)
            self._steps = Steps(path.with_name("steps"), before=self._steps)
            self._file = path.open("a", encoding="utf-8")

    @classmethod
    def read_only(cls, path: Path) -> EventLog:
        """The log at `path` as it is now, whoever may be writing to it. Nothing is written; raises `OSError`."""
        log = cls()
        for event in read_events(path, path.stat().st_size) if path.exists() else ():
            log._keep(event)
        log._steps = Steps(path.with_name("steps"), before=log._steps)
        return log

    def _load(self, path: Path) -> None:
        """Keep what the file holds; an unfinished last line is cut off, so that the next has a line of its own."""
        if not path.exists():
            return
        for event in read_events(path, path.stat().st_size):
            self._keep(event)
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.truncate(size - _torn(file, size))

    def append(self, event: Event) -> None:
        """Record `event`, write it where it is durable, and wake whoever waits."""
        with self._changed:
            self._keep(event)
            if self._file is not None and event.durable:
                self._write(event)
            self._changed.notify_all()

    def _write(self, event: Event) -> None:
        try:
            self._steps.save()  # before the line of a `Resumed`: taking the same steps back twice does no harm
            if not isinstance(event, StepDone):
                print(event.model_dump_json(), file=self._file, flush=True)  # a killed process loses nothing
        except OSError as error:  # a full disk must not end a run; what is lost is the line on disk
            if not self._complained:
                self._complained = True
                self._keep(Logged(level="error", text=f"events are no longer written to disk: {error}"))

    def _keep(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._steps.append(_row(event))
            return
        if isinstance(event, Resumed):
            self._steps.truncate(event.step)
            self._era += 1
        number = self._events.add(event)
        if isinstance(event, ReplyPart):
            self._parts.setdefault(event.command, []).append(number)
        if isinstance(event, Progress):  # of one thing only the last counts
            if self._progress[0] == event.what:
                self._events.forget(self._progress[1])
            self._progress = (event.what, number)
        if isinstance(event, Answer):
            self._answers[event.command] = event
        if isinstance(event, ReplyDone):  # the whole text is here, its parts need no longer be kept
            for part in self._parts.pop(event.command, ()):
                self._events.forget(part)

    def read(self, cursor: Cursor | None = None, steps: Which = "all") -> tuple[News, Cursor]:
        """What is new since `cursor` (from the start for None), and the cursor for the next call.

        Of events that came in their thousands by themselves the older ones are thinned; `history` has them all.
        """
        cursor = cursor or Cursor()
        with self._changed:
            restart = cursor.era != self._era
            first = 0 if restart else cursor.rows
            news = News(
                steps={}
                if steps == "none"
                else self._steps.since(first)
                if steps == "all"
                else self._steps.pictured(first),
                events=self._events.since(cursor.events),
                restart=restart,
            )
            return news, self.end

    def history(self) -> list[Event]:
        """Every event but the steps; where memory has only some of them, those that the disk has."""
        with self._changed:
            if self._events.whole or self._path is None:
                return self._events.since(0)
            size = self._path.stat().st_size
        return [event for event in read_events(self._path, size) if not isinstance(event, StepDone)]

    def newest(self, kind: type[Kind]) -> Kind | None:
        """The last event of a kind, or None."""
        with self._changed:
            return self._events.newest(kind)

    @property
    def end(self) -> Cursor:
        """The cursor of a reader that wants only what comes from now on."""
        with self._changed:
            return Cursor(self._steps.rows, self._events.count, self._era)

    @property
    def abandoned(self) -> list[tuple[Floats, Floats]]:
        """Steps that were taken back and their losses, each time from the last that stayed; the newest last."""
        with self._changed:
            return list(self._steps.abandoned)

    @property
    def last_row(self) -> dict[str, float]:
        """The columns of the last step; empty where there is none."""
        with self._changed:
            return self._steps.last()

    @property
    def last_step(self) -> int:
        """Optimizer steps done, as far as the log knows."""
        return int(self.last_row.get("step", 0))

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
                self._steps.close()
