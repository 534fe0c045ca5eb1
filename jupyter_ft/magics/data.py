"""`%ft data`: rows as the model will see them, before a run or of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_ft.errors import RecipeError
from jupyter_ft.recipe import ALIASES
from jupyter_ft.session import Session, sessions
from jupyter_ft.ui.preview import preview
from jupyter_ft.ui.rows import PAGE

from .finetune import reading
from .line import Line
from .notebook import Place, data_of, model_of, session_of, show_html


def run(shell: Any, line: Line) -> None:
    """Show the rows of a file, a variable, a hub id, a demo or a session."""
    asked: dict[str, Any] = {
        "model" if ALIASES.get(key) == "model" else key: value for key, value in line.pairs.items()
    }
    for word in ("rows", "row"):
        if word in asked and f"--{word}" not in line.options:
            line.options[f"--{word}"] = str(asked.pop(word))
    data = _meant(shell, line, asked)
    if isinstance(data, Session) and asked:
        raise RecipeError(f"the rows of '{data.name}' are as its recipe says; leave out {', '.join(asked)}")
    named = asked.pop("model", None)
    model = None if named is None else model_of(shell, named)
    if not isinstance(model, str | None):
        raise RecipeError(f"model = {model!r:.80}: should be demo, a folder or a hub id")
    rows, row = (line.whole_number(option) for option in ("--rows", "--row"))
    place = Place.of(shell)
    with reading(place) as progress:
        every = "--all" in line.switches
        shown = preview(data, model, rows=rows or PAGE, row=row, every=every, progress=progress, **asked)
    show_html(shown._repr_html_() if place.rich else "", repr(shown), place)


def _meant(shell: Any, line: Line, asked: dict[str, Any]) -> object:
    """A file of that name, else a session or a variable, else whatever `finetune` takes as data."""
    if not line.words:
        return data_of(shell, asked.pop("data")) if "data" in asked else session_of(shell, None)
    word = line.words[0]
    if not Path(word).exists() and word.removesuffix("@live") in sessions:
        return session_of(shell, word)
    return data_of(shell, word)
