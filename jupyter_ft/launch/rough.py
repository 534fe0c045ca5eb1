"""The lengths of rows by the tokenizer alone, without torch and transformers: a little too high."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import Examples
from ..memory.asked import Lengths
from ..recipe import Recipe

MOST_LOOKED_AT = 100_000  # rows whose texts are measured, to find the longest
MOST_COUNTED = 16
AROUND = 12  # tokens that a template writes around a text, roles included


def largest(train: Examples, most: int, looked_at: int = MOST_LOOKED_AT) -> list[int]:
    """The places of the rows with the most text."""
    count = min(len(train.rows), looked_at)
    sizes = [len(str(train.rows[at])) for at in range(count)]
    return sorted(range(count), key=sizes.__getitem__, reverse=True)[:most]


def rough_lengths(recipe: Recipe, train: Examples, place: Path, looked_at: int = MOST_LOOKED_AT) -> Lengths:
    """The lengths by the tokenizer alone, with so many tokens for whatever a template writes around each text."""
    file = place / "tokenizer.json"
    if recipe.packing or recipe.method == "cpt" or not file.is_file():
        return Lengths(recipe.max_length, recipe.max_length)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    longest = 0
    for at in largest(train, MOST_COUNTED, looked_at):
        texts = [*_texts(train.rows[at]), recipe.system or ""]
        longest = max(longest, sum(len(tokenizer.encode(text).ids) + AROUND for text in texts))
    longest = min(longest, recipe.max_length)
    return Lengths(longest, longest)


def _texts(value: Any) -> list[str]:
    """The texts in a row; of two answers to one prompt, the longer."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        one, other = _texts(value.get("chosen")), _texts(value.get("rejected"))
        rest = [text for key, inner in value.items() if key not in ("chosen", "rejected") for text in _texts(inner)]
        return [*rest, *max(one, other, key=lambda texts: sum(map(len, texts)))]
    return [text for inner in value for text in _texts(inner)] if isinstance(value, list | tuple) else []
