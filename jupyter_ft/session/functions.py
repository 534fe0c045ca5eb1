"""Functions of the notebook in a recipe: it names them, and the kernel has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import RecipeError, did_you_mean
from ..sampling.squad import BUILT_IN


def named_functions(asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """`asked` with names in the place of functions, and the functions by name.

    Raises `RecipeError` for a name that is neither a function's nor a word of ours, and for two of one name.
    """
    given = asked.get("metrics")
    if given is None:
        return dict(asked), {}
    listed = list(given) if isinstance(given, list | tuple) else [given]
    functions: dict[str, Callable[..., Any]] = {}
    names: list[Any] = []
    for one in listed:
        name = getattr(one, "__name__", type(one).__name__) if callable(one) else one
        if name in names:
            raise RecipeError(f"metrics: {name} is there twice; keep one or give the other another name")
        if callable(one):
            functions[name] = one
        elif isinstance(one, str) and one not in BUILT_IN:
            near = did_you_mean(one, BUILT_IN) or f"; the words are {', '.join(BUILT_IN)}"
            raise RecipeError(f"metrics: '{one[:60]}' is no function here{near}")
        names.append(name)
    return {**asked, "metrics": names}, functions
