"""`%ft review`: two answers to each prompt, to choose between."""

from __future__ import annotations

from typing import Any

from jupyter_ft.errors import RecipeError

from .line import Grammar, Line, Option
from .notebook import bind, check_free, data_of, session_of

GRAMMAR = Grammar(
    "%ft review [NAME] [--prompts FILE] [--at A,B] [--reviewer WHO] [key=value …]",
    "Choose between two answers to each prompt; feedback:NAME trains on the choices. Keys: max_new_tokens temperature"
    " top_p top_k.",
    options=(
        Option("--prompts", "a file with a column of them, a variable, or feedback:RUN; else those of the run", "FILE"),
        Option("--at", "which weights answer, like live,base or 40,80; else live twice", "A,B"),
        Option("--reviewer", "who judges", "WHO"),
        Option("--open", "show which weights gave an answer; else it is blind"),
        Option("--again", "prompts that were judged already come once more"),
        Option("--out", "bind the review to this variable; else NAME.desk has it", "VAR"),
    ),
    pairs=True,
    keys=("max_new_tokens", "temperature", "top_p", "top_k"),
    example='%ft review support --prompts cases.csv --at live,base --reviewer "Dr Ada"',
)


def run(shell: Any, line: Line) -> None:
    """Open a review and show it."""
    session = session_of(shell, line.words[0] if line.words else None)
    named = line.options.get("--prompts")
    prompts: Any = None if named is None else data_of(shell, named)
    if not isinstance(prompts, str | list | tuple | None):
        raise RecipeError(f"--prompts {named}: a {type(prompts).__name__}; give a file or a list of prompts")
    variable = line.options.get("--out")
    if variable is not None:
        check_free(shell, variable, for_session=False)
    desk = session.review_desk(
        prompts,
        line.options.get("--at", "live,live"),
        line.options.get("--reviewer"),
        "--open" not in line.switches,
        again="--again" in line.switches,
        **line.pairs,
    )
    if variable is not None:
        bind(shell, variable, desk)
    desk.show()
