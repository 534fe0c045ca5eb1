"""`%ft clone` and `%ft promote`: one more run for a race, and the one that wins it."""

from __future__ import annotations

from typing import Any

from jupyter_ft.session.race import race_with

from .finetune import GRAMMAR as FINETUNE
from .line import Grammar, Line, Option
from .notebook import address_of, say

CLONE = Grammar(
    "%ft clone RUN [key=value …] [--step N]",
    "One more run for the race of RUN: like it, with these settings, from the beginning or from its step.",
    options=(Option("--step", "from the weights of this step", "N"),),
    words=(1, 1),
    pairs=True,
    keys=FINETUNE.keys,
    example="%ft clone grid-3 learning_rate=5e-5",
)
PROMOTE = Grammar(
    "%ft promote RUN",
    "Let RUN win its race: the others that are live stop at their next step, with a checkpoint; it goes on.",
    words=(1, 1),
    example="%ft promote grid-3",
)


def run_clone(shell: Any, line: Line) -> None:
    """Start one more run and say what it is called."""
    run = address_of(shell, line.words[0])
    race = race_with(run)
    joins = race.clone(run, line.whole_number("--step"), **line.pairs)
    say(f"{joins.name} joins the race {race.name}")


def run_promote(shell: Any, line: Line) -> None:
    """Stop the others, and say which those are."""
    run = address_of(shell, line.words[0])
    race = race_with(run)
    others = [session.name for session in race.live if session.name != run]
    race.promote(run)
    say(f"{run} is promoted; " + (f"these stop: {', '.join(others)}" if others else "no other was live"))
