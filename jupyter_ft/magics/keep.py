"""`%ft compare` and `%ft replay`: runs beside one another, and a run as a script."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jupyter_ft.session.replay import replay_script
from jupyter_ft.ui.compared import compare

from .line import Grammar, Line, Option
from .notebook import bind, check_free, say, session_of

COMPARE = Grammar(
    "%ft compare [RUN …] [--out VAR]",
    "Runs beside one another, open or past: curves with their edits, settings in which they differ, metrics, probes."
    " Without a name, those in the runs folder that learn as the newest does.",
    options=(Option("--out", "bind the comparison to this variable", "VAR"),),
    words=(0, 500),
    example="%ft compare support calmer",
)
REPLAY = Grammar(
    "%ft replay [RUN] [--to FILE.py]",
    "Write a Python script that trains a run again with every change made to it by hand: the same losses.",
    options=(Option("--to", "where; else replay.py in the run folder", "FILE.py"),),
    example="%ft replay support --to support_again.py",
)


def run_compare(shell: Any, line: Line) -> None:
    """Compare runs and show it."""
    variable = line.options.get("--out")
    if variable is not None:
        check_free(shell, variable, for_session=False)
    told = compare(line.words or None)
    if variable is not None:
        bind(shell, variable, told)
    told._ipython_display_()


def run_replay(shell: Any, line: Line) -> None:
    """Write a run as a script and say where it is."""
    named = line.words[0] if line.words else session_of(shell, None)
    written = replay_script(named, line.options.get("--to"))
    here = written.relative_to(Path.cwd()) if written.is_relative_to(Path.cwd()) else written
    say(f"{written} trains it again: python {shlex.quote(str(here))}")
