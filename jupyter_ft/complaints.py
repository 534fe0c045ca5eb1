"""What pydantic found wrong, said to whoever wrote it: where, what was given, what is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from .errors import did_you_mean, nearest_or_all

_MAPPING = {"dict_type", "mapping_type", "model_type", "model_attributes_type"}
_UNION_TAGS = ("str", "int", "float", "bool", "dict", "list", "tuple[")
_IN_WORDS = {
    " or 'attached'": "",  # a method that only `attach` gives
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid tuple": "a list",
}


def complaint(
    error: ValidationError,
    known: Callable[[str], Iterable[str]],
    examples: Mapping[str, str],
    words: Mapping[str, Iterable[str]],
) -> str:
    """The first thing that is wrong, as one line.

    `known` gives the keys that may stand beside a key, `examples` what a mapping looks like, `words` what a choice
    also accepts.
    """
    found = error.errors()
    first, where = found[0], _where(found[0])
    last, spaced = where.rpartition(".")[2], ""
    if first.get("input") is None and ":" in last:  # YAML takes what has no space for one word
        spaced = f"; put a space after the colon: {last.replace(':', ': ', 1)}"
    if first["type"] == "extra_forbidden":
        return f"unknown key '{where}'{spaced or nearest_or_all(where.rpartition('.')[2], known(where))}"
    about = [one for one in found if _where(one) == where]  # a union complains once for each of its types
    wanted = " or ".join(dict.fromkeys(_wanted(one, where, examples) for one in about))
    hint = spaced
    given = first.get("input")
    if len(about) == 1 and first["type"] == "string_type" and isinstance(given, int | float):
        hint = f'; put it in quotes: {where.rpartition(".")[2]}: "{given}"'
    if first["type"] == "literal_error" and isinstance(given, str):
        hint = did_you_mean(given, [*_choices(first), *words.get(where, ())])
    return f"{where} = {_shown(given)}: should be {wanted}{hint}"


def _where(found: Any) -> str:
    parts = [str(part) for part in found["loc"] if part != "hyperparameters"]
    return ".".join([*parts[:1], *(part for part in parts[1:] if not part.startswith(_UNION_TAGS))])


def _choices(found: Any) -> list[str]:
    return str(found["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")


def _wanted(found: Any, where: str, examples: Mapping[str, str]) -> str:
    if found["type"] in _MAPPING:
        return examples.get(where, "a mapping like {key: value}")
    text: str = found["msg"].removeprefix("Value error, ").removeprefix("Input should be ").partition(", unable to")[0]
    for theirs, ours in _IN_WORDS.items():
        text = text.replace(theirs, ours)
    return text


def _shown(given: object) -> str:
    text = "nan" if isinstance(given, float) and math.isnan(given) else repr(given)
    return text if len(text) <= 80 else text[:79] + "…"
