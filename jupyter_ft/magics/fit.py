"""`%ft fit`: whether a run would fit, before anything is loaded."""

from __future__ import annotations

from typing import Any

from jupyter_ft.errors import RecipeError
from jupyter_ft.recipe import ALIASES
from jupyter_ft.ui.fit import fits

from .finetune import reading
from .line import Line
from .notebook import Place, data_of, model_of, show_html


def run(shell: Any, line: Line) -> None:
    """Show what a run of a model would take, part by part, and what would let it fit."""
    asked = {"model" if ALIASES.get(key) == "model" else key: value for key, value in line.pairs.items()}
    named, data = asked.pop("model", None), asked.pop("data", None)
    if line.words and named is not None:
        raise RecipeError(f"two models, {line.words[0][:60]} and {named!s:.60}; keep one")
    model = model_of(shell, line.words[0] if line.words else named or "demo")
    if not isinstance(model, str):
        raise RecipeError(f"model = {model!r:.80}: should be demo, a folder or a hub id")
    data = data_of(shell, line.options.get("--data", data))
    place = Place.of(shell)
    with reading(place):
        shown = fits(model, data, memory=line.options.get("--memory"), measure="--measure" in line.switches, **asked)
    show_html(shown._repr_html_() if place.rich else "", repr(shown), place)
