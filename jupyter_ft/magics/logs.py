"""`%ft logs`: what a run printed and logged, as plain text."""

from __future__ import annotations

import re
import time
from typing import Any

from jupyter_ft.errors import RecipeError, did_you_mean
from jupyter_ft.messages import Crashed, Event, Logged
from jupyter_ft.session import Session
from jupyter_ft.ui.watched import printable

from .line import Line
from .notebook import say, session_of

TAIL = 50
LEVELS = {"debug": 0, "info": 1, "out": 1, "warning": 2, "error": 3}
_UNKNOWN = 1  # a level that somebody's logger made up
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")


def run(shell: Any, line: Line) -> None:
    """Print the last lines, oldest first."""
    session = session_of(shell, line.words[0] if line.words else None)
    tail, level = line.whole_number("--tail"), line.options.get("--level", "info").lower()
    if level not in LEVELS:
        known = ", ".join(LEVELS)
        raise RecipeError(f"--level {level[:40]}{did_you_mean(level, LEVELS) or f': there are {known}'}")
    lines = log_lines(session, level)
    shown = lines[-(tail or TAIL) :]
    if len(shown) < len(lines) and tail is None:
        say(f"the last {len(shown)} of {len(lines)} lines; --tail {len(lines)} shows all")
    say("\n".join(shown) if shown else f"{session.name} has logged nothing of level {level} or above")


def log_lines(session: Session, level: str = "info") -> list[str]:
    """Each logged line as `TIME  LEVEL  TEXT`, of `level` and above; nothing in it steers a terminal."""
    found = []
    for event in session.events:
        told = _told(event)
        if told is not None and LEVELS.get(told[0], _UNKNOWN) >= LEVELS[level]:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
            said = harmless(told[1]).rstrip().replace("\n", "\n" + " " * 30)
            found.append(f"{stamp}  {harmless(told[0])[:8]:<8} {said}".rstrip())
    return found


def _told(event: Event) -> tuple[str, str] | None:
    if isinstance(event, Logged):
        return event.level, event.text
    if isinstance(event, Crashed):
        return "error", event.traceback or event.error
    return None


def harmless(text: str) -> str:
    """Without escape sequences and control characters."""
    return printable(_ANSI.sub("", text))
