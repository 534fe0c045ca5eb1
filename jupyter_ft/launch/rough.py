"""The lengths of rows by the tokenizer alone, without torch and transformers: a little too high."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import Examples
from ..memory.asked import Lengths
from ..recipe import Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_LOOKED_AT = 100_000  # rows whose texts are measured, to find the longest
MOST_COUNTED = 16
AROUND = 12  # tokens that a template writes around a text, roles included

_reading = threading.Lock()  # a tokenizer is not safe to share


@lru_cache(maxsize=1)  # the runs of a race ask for it at once, and to read SmolLM2's takes 0.2 s and 44 MB
def _read(file: Path, _changed: int) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def forget() -> None:
    """Hold no tokenizer any more: the base is there, or will not be."""
    _read.cache_clear()


def largest(train: Examples, most: int, looked_at: int = MOST_LOOKED_AT) -> list[int]:
    """The places of the rows with the most text."""
    count = min(len(train.rows), looked_at)
    sizes = [len(str(train.rows[at])) for at in range(count)]
    return sorted(range(count), key=sizes.__getitem__, reverse=True)[:most]


def rough_lengths(
    recipe: Recipe, train: Examples, place: Path, looked_at: int = MOST_LOOKED_AT, core: Tokenizer | None = None
) -> Lengths:
    """The lengths by the tokenizer alone, with so many tokens for whatever a template writes around each text.

    `core` is the tokenizer in `place` where it is in memory; else it is read.
    """
    file = place / "tokenizer.json"
    if recipe.packing or recipe.method == "cpt" or not file.is_file():
        return Lengths(recipe.max_length, recipe.max_length)
    texts = [[*_texts(train.rows[at]), recipe.system or ""] for at in largest(train, MOST_COUNTED, looked_at)]
    with _reading:
        tokenizer = _read(file, file.stat().st_mtime_ns) if core is None else core
        tokenizer.no_truncation()
        longest = max((sum(len(tokenizer.encode(text).ids) + AROUND for text in row) for row in texts), default=0)
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
