"""`%ft queue`: the runs that wait for memory, why, and their order."""

from __future__ import annotations

from typing import Any

from jupyter_ft.errors import RecipeError
from jupyter_ft.memory.waiting import queue

from .line import Grammar, Line, Option
from .notebook import say

GRAMMAR = Grammar(
    "%ft queue [NAME first|last|N|now] [--memory SIZE] [--at-once N]",
    "The runs that wait because they do not fit beside those that are live, and why; first, last or a number changes "
    "the order, now starts one all the same. %ft stop NAME takes one out.",
    options=(
        Option(
            "--memory",
            "what all runs of this kernel may take together, like 8GB; none: as in JUPYTER_FT_MEMORY, or what is free",
            "SIZE",
        ),
        Option("--at-once", "how many runs may be live at once; none: as many as fit", "N"),
    ),
    words=(0, 2),
    example="%ft queue calmer first",
)


def run(shell: Any, line: Line) -> None:
    """Change the queue where that is asked for, then show it."""
    del shell
    if len(line.words) == 1:
        raise RecipeError(f"where to put {line.words[0]}? write %ft queue {line.words[0]} first, last, a number or now")
    if (size := line.options.get("--memory")) is not None:
        queue.limit = None if size == "none" else size
    if "--at-once" in line.options:
        queue.at_once = None if line.options["--at-once"] == "none" else line.whole_number("--at-once")
    if line.words:
        name, to = line.words
        if to == "now":
            queue.now(name)
            say(f"{name} starts")
            return
        queue.move(name, to)
    say(repr(queue))
