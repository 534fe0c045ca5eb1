"""Waiting for runs in a cell: a line now and then where no panel shows how far they are, and the record at the end."""

from __future__ import annotations

import time
from collections.abc import Callable

from jupyter_ft.errors import TrainingFailed
from jupyter_ft.messages import OVER
from jupyter_ft.session import Session
from jupyter_ft.session.race import Race
from jupyter_ft.ui.race import race_html, race_text
from jupyter_ft.ui.record import record_html, record_text
from jupyter_ft.ui.views import reported
from jupyter_ft.ui.watched import shown

from .notebook import Place, one_line, say, show_html

FIRST, LONGEST = 15.0, 600.0  # seconds between lines: each twice the one before, so that a long run leaves a dozen


def wait(session: Session, place: Place, *, record: bool, step: int | None = None) -> bool:
    """Block until the run is over (or at `step`), then leave its record. Ctrl-C stops waiting, not the run: False.

    Raises `TrainingFailed` where the run failed.
    """
    try:
        _patiently(lambda seconds: session.wait(step, seconds), lambda: far([session], step), place)
    except KeyboardInterrupt:
        where = f"is {session.state} at step {session.step}"
        if session.state == "queued" and session.said:
            where = f"{one_line(session.said)} (%ft queue)"
        say(f"no longer waiting: {session.name} {where}; %ft wait {session.name}")
        return False
    except TrainingFailed:
        if record:
            show_html(record_html(session), record_text(session), place)
        _see_reported([session], place)
        raise
    if record:
        show_html(record_html(session), record_text(session), place)
    _see_reported([session], place)
    return True


def wait_for_race(race: Race, place: Place, step: int | None = None) -> None:
    """Block until every run is over, or at `step`, and leave what came of it. Ctrl-C stops waiting, not the runs."""
    try:
        _patiently(lambda seconds: race.wait(step, seconds), lambda: far(list(race), step), place)
    except KeyboardInterrupt:
        say(f"no longer waiting: {len(race.live)} of {len(race)} runs are live; %ft wait {race.name}")
        return
    show_html(race_html(race), race_text(race), place)
    _see_reported(list(race), place)


def _see_reported(sessions: list[Session], place: Place) -> None:
    """Where nobody sits before the kernel it is ended with its last cell, and would take the report along."""
    for session in sessions if place.headless else ():
        if session.state in OVER:
            reported(session)


def far(sessions: list[Session], until: int | None = None) -> str:
    """How far runs are on the way to their ends, or to the step `until`, in one line."""
    going = [session for session in sessions if session.state not in OVER]
    if len(sessions) > 1:
        over = [f"{len(sessions) - len(going)} of {len(sessions)} over"] if len(going) < len(sessions) else []
        return ", ".join([*over, *(f"{session.name} at {_of(session, until)}" for session in going)])
    (session,) = sessions
    loss = session.log.last_row.get("loss")
    why = f": {one_line(session.said)}" if session.state in ("queued", "paused") and session.said else ""
    said = f"{session.name} is {session.state}{why}, step {_of(session, until)}"
    return said if loss is None else f"{said}, loss {shown(loss)}"


def _of(session: Session, until: int | None) -> str:
    ends = [end for end in (until, session.total_steps) if end]
    return f"{session.step}/{min(ends)}" if ends else f"{session.step}"


def _patiently(wait: Callable[[float | None], object], told: Callable[[], str], place: Place) -> None:
    if place.rich and not place.headless:  # the panel tells
        wait(None)
        return
    pause, began = FIRST, time.monotonic()
    while True:
        try:
            wait(pause)
        except TimeoutError:
            say(f"{told()} ({_long(time.monotonic() - began)})")
            pause = min(2 * pause, LONGEST)
        else:
            return


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
