"""What one open view has been told of a run, and the message that tells it the rest.

A view that says hello is told the story: everything, thinned. After that it is told the news: only what is new, and
now and then the thinned curves in the place of those it has, so that neither a message nor a browser's memory grows
with the run. Both carry the curves as one float32 buffer, column after column, and the other events as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jupyter_ft.event_log import Cursor, Floats, News
from jupyter_ft.messages import (
    OVER,
    REVIEW,
    Applied,
    CheckpointSaved,
    Crashed,
    EvalDone,
    Event,
    Health,
    Logged,
    Probed,
    Progress,
    ReplyDone,
    ReplyPart,
    ReplyStarted,
    Resumed,
    SnapshotSaved,
    StateChanged,
    StepRefused,
)
from jupyter_ft.recipe import controls
from jupyter_ft.ui.thin import thin
from jupyter_ft.ui.watched import Watched

PROTOCOL = 1
STORY_ROWS = 2000
NEWS_ROWS = 500
LEFT_ROWS = 300  # of steps that were taken back, each time
VIEW_ROWS = 20_000  # what a view holds at most before its curves are thinned again
TOLD_EVERY = 0.25  # seconds between two messages at least; what comes meanwhile goes together
BEAT_EVERY = 5.0  # while a run is live a view hears something at least so often, or it says that the kernel is gone
SILENT_AFTER = 150.0  # browsers slow the timers of a hidden page down to one a minute
SILENT_EVERY = 10.0  # its page may be closed, or its words may wait behind a long cell: tell it, but seldom
LINES_KEPT = 200
LINE_LENGTH = 1000  # characters of a line that a view is told; the log keeps it whole
TRACEBACK_LENGTH = 20_000
REPLIES_KEPT = 100
MARKS_KEPT = 500  # of each kind that comes along the run by itself
MARKS = (CheckpointSaved, SnapshotSaved, EvalDone, Health, Probed, StepRefused)


@dataclass
class Message:
    """One custom message for the browser."""

    content: dict[str, Any]
    buffers: list[bytes] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What it weighs on the wire, about."""
        return len(json.dumps(self.content)) + sum(map(len, self.buffers))


@dataclass
class View:
    """One place in a browser where the panel is drawn; it keeps its own cursor."""

    id: str
    heard: float
    cursor: Cursor | None = None  # None: it wants the story
    seq: int = 0
    pull: bool = False  # it asks for its news itself (Colab drops what a background thread sends)
    told: float = float("-inf")
    rows: int = 0  # what it holds
    columns: tuple[str, ...] = ()
    notes: list[Event] = field(default_factory=list)
    pages: list[dict[str, Any]] = field(default_factory=list)  # of the tabs that are served, to be sent
    versions: dict[str, int] = field(default_factory=dict)  # of each served tab that it has looked at
    keeps: bool = False  # it can put the record into the notebook where an update does not arrive (after a reload)
    record: int = 0  # the version that it was told of

    def due(self, now: float) -> bool:
        """Whether it may be told something now."""
        open_for_sure = self.cursor is None or now - self.heard < SILENT_AFTER
        return now - self.told >= (TOLD_EVERY if open_for_sure else SILENT_EVERY)

    def next_message(self, session: Watched, now: float) -> Message | None:
        """The story, the news, a heartbeat where it has been quiet for long, or nothing."""
        message = self._story(session) if self.cursor is None else self._news(session)
        if message is None and session.state not in OVER and now - self.told >= BEAT_EVERY:
            message = Message(self._head("beat", session))
        if message is not None:
            self.told = now
        return message

    def record_message(self, session: Watched, version: int, **more: Any) -> Message:
        """That there is a newer record below the panel."""
        self.record = version
        return Message({**self._head("record", session), "version": version, **more})

    def _head(self, kind: str, session: Watched) -> dict[str, Any]:
        where = {"state": session.state, "step": session.step, "total": session.total_steps}
        return {"v": PROTOCOL, "t": kind, "to": self.id, "seq": self.seq, **where}

    def _story(self, session: Watched) -> Message:
        news, self.cursor = session.log.read(steps="picture")
        self.seq, self.columns, self.rows = (
            self.seq + 1,
            (),
            0,
        )  # never from zero again: a poll must notice a story that got lost
        content = {
            **self._head("story", session),
            "name": session.name,
            "folder": str(session.folder),
            "controls": controls(session.hyperparameters, session.recipe),
        }
        return self._filled(session, content, news, STORY_ROWS)

    def _news(self, session: Watched) -> Message | None:
        assert self.cursor is not None
        full = self.rows > VIEW_ROWS - NEWS_ROWS and session.log.end.rows > self.cursor.rows
        since = replace(self.cursor, rows=0) if full else self.cursor
        news, self.cursor = session.log.read(since, steps="picture")
        news.restart |= full
        if not news.restart and not news.events and not self.notes and _rows(news.steps) == 0:
            return None
        self.seq += 1
        content = self._head("news", session)
        if news.restart:
            content["restart"], self.rows = True, 0
        if any(isinstance(event, Applied | Resumed | StateChanged) for event in news.events):
            content["values"] = session.hyperparameters.model_dump(mode="json")
        return self._filled(session, content, news, STORY_ROWS if news.restart else NEWS_ROWS)

    def _filled(self, session: Watched, content: dict[str, Any], news: News, limit: int) -> Message:
        if content["t"] == "story" or news.restart:
            content["left"] = abandoned(session)
        if content["t"] == "story" or any(isinstance(event, CheckpointSaved | Resumed) for event in news.events):
            content["resumable"] = session.steps
        events, self.notes = [*digest(without_crowds(news.events)), *self.notes], []
        if events:
            content["events"] = [json.loads(event.model_dump_json()) for event in events]
        if not _rows(news.steps):
            return Message(content)
        steps = thin(news.steps, limit)
        content["rows"] = _rows(steps)
        self.rows += _rows(steps)
        if tuple(steps) != self.columns:
            self.columns = tuple(steps)
            content["columns"] = list(steps)
        with np.errstate(over="ignore"):
            packed = np.stack(list(steps.values())).astype("<f4")
        return Message(content, [packed.tobytes()])


def abandoned(session: Watched) -> list[list[list[float | None]]]:
    """Of each time that steps were taken back: their numbers and losses, thinned; None for what was not finite."""
    told: list[list[list[float | None]]] = []
    for step, loss in session.log.abandoned:
        some = thin({"step": step, "loss": loss}, LEFT_ROWS)
        told.append([[float(one) if np.isfinite(one) else None for one in some[name]] for name in ("step", "loss")])
    return told


def _rows(steps: dict[str, Floats]) -> int:
    return len(steps["step"]) if steps else 0


def without_crowds(events: list[Event]) -> list[Event]:
    """The events with at most `MARKS_KEPT` marks of a kind, spread evenly, the first and the last among them."""
    dropped: set[int] = set()
    for kind in MARKS:
        places = [place for place, event in enumerate(events) if isinstance(event, kind)]
        if len(places) > MARKS_KEPT:
            kept = {places[at] for at in np.linspace(0, len(places) - 1, MARKS_KEPT).astype(int)}
            dropped.update(place for place in places if place not in kept)
    return [event for place, event in enumerate(events) if place not in dropped]


def digest(events: Iterable[Event]) -> list[Event]:
    """The events as a latecomer needs them: the last progress, lines, replies and confusion matrix, parts joined."""
    listed = [event for event in events if not (isinstance(event, ReplyDone) and event.thread == REVIEW)]
    matrices = [place for place, e in enumerate(listed) if isinstance(e, EvalDone) and e.confusion is not None]
    for place in matrices[:-1]:
        listed[place] = listed[place].model_copy(update={"confusion": None})
    done = {event.command for event in listed if isinstance(event, ReplyDone)}
    last_progress = next((event for event in reversed(listed) if isinstance(event, Progress)), None)
    lines = {id(event) for event in [e for e in listed if isinstance(e, Logged)][-LINES_KEPT:]}
    replies = {id(event) for event in [e for e in listed if isinstance(e, ReplyDone)][-REPLIES_KEPT:]}
    parts: dict[str, list[str]] = {}
    kept: list[Event] = []
    for event in listed:
        if isinstance(event, ReplyPart):
            if event.command not in done:
                if event.command not in parts:
                    kept.append(event)
                parts.setdefault(event.command, []).append(event.text)
            continue
        passed_over = (
            (isinstance(event, Progress) and event is not last_progress)
            or (isinstance(event, Logged) and id(event) not in lines)
            or (isinstance(event, ReplyDone) and id(event) not in replies)
            or (isinstance(event, ReplyStarted) and event.command in done)
        )
        if not passed_over:
            kept.append(event)
    return [_told(event, parts) for event in kept]


def _told(event: Event, parts: dict[str, list[str]]) -> Event:
    match event:
        case ReplyPart():
            return event.model_copy(update={"text": "".join(parts[event.command])})
        case Logged(text=text) if len(text) > LINE_LENGTH:
            return event.model_copy(update={"text": f"{text[:LINE_LENGTH]} … ({len(text):,} characters)"})
        case Probed():
            return event.model_copy(update={"prompt": "", "text": ""})  # the Samples tab asks for its page
        case Crashed(traceback=text) if len(text) > TRACEBACK_LENGTH:
            return event.model_copy(update={"traceback": f"…{text[-TRACEBACK_LENGTH:]}"})
    return event
