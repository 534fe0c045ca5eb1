"""`%ft logs`: what happened in a run and what it printed, as plain text, as in the panel's Log tab."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from jupyter_ft.errors import RecipeError, did_you_mean
from jupyter_ft.messages import (
    Applied,
    ChatWaits,
    CheckpointSaved,
    Crashed,
    DataReady,
    EvalDone,
    Event,
    Health,
    Logged,
    MemoryShort,
    Refused,
    Resumed,
    SaveFailed,
    StateChanged,
    StepRefused,
    rows_text,
)
from jupyter_ft.session import Session
from jupyter_ft.ui.record import with_step
from jupyter_ft.ui.watched import change_text, printable, shown

from .line import Line
from .notebook import say, session_of

TAIL = 50
LEVELS = {"debug": 0, "info": 1, "out": 1, "warning": 2, "error": 3}
_HEALTH = {"green": "info", "amber": "warning", "red": "error"}
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
    """The level and the words of an event; None for what is told elsewhere (progress, replies)."""
    said = _TELLERS.get(type(event))
    return None if said is None else said(event)


_TELLERS: dict[type, Callable[[Any], tuple[str, str]]] = {
    Logged: lambda e: (e.level, e.text),
    Crashed: lambda e: ("error", e.traceback or e.error),
    DataReady: lambda e: ("info", e.said),
    ChatWaits: lambda e: ("info", e.said),
    StateChanged: lambda e: ("info", e.state + (f": {e.note}" if e.note else f" at step {e.step}")),
    Resumed: lambda e: ("info", f"{'taken back to' if e.rewound else 'goes on from'} the checkpoint of step {e.step}"),
    Applied: lambda e: ("info", f"{e.verb} applied at step {e.step}{': ' * bool(e.changes)}{change_text(e)}"),
    Refused: lambda e: ("warning", f"{e.verb} refused: {e.reason}"),
    EvalDone: lambda e: ("info", f"step {e.step}: {_measured(e)}; best is step {e.best_step}"),
    CheckpointSaved: lambda e: ("info", f"checkpoint of step {e.step} saved" + (", to stay" if e.asked else "")),
    SaveFailed: lambda e: ("error", f"no checkpoint of step {e.step}: {e.reason}"),
    StepRefused: lambda e: (
        "warning",
        f"step {e.step} was not finite and was kept from the weights{rows_text(e.rows)}",
    ),
    Health: lambda e: (_HEALTH[e.level], f"{e.level}: {with_step(e)}{rows_text(e.rows)}"),
    MemoryShort: lambda e: ("warning", with_step(e)),
}


def _measured(event: EvalDone) -> str:
    if event.best_metric == "eval_reward":  # of a policy, whose loss has no level
        return f"held-out reward {shown(event.metrics.get('eval_reward'))}"
    more = (
        ""
        if event.best_metric == "eval_loss"
        else f", {event.best_metric} {shown(event.metrics.get(event.best_metric))}"
    )
    return f"held-out loss {shown(event.metrics.get('eval_loss'))}{more}"


def harmless(text: str) -> str:
    """Without escape sequences and control characters."""
    return printable(_ANSI.sub("", text))
