"""Data, from what the user names to what the model is trained on: read → detect the format → normalise → render.

Importing this imports neither torch nor transformers nor pandas; a tokenizer comes in as an object.
"""

from __future__ import annotations

from collections.abc import Mapping

from .columns import Format
from .formats import Example, Examples, normalise
from .held_out import hold_out
from .layout import chat_ids, chat_text
from .read import Source, read
from .render import Rendered, TokenRow, preview, render
from .saved import load_rows, save_rows

__all__ = [
    "Example",
    "Examples",
    "Format",
    "Rendered",
    "Source",
    "TokenRow",
    "chat_ids",
    "chat_text",
    "hold_out",
    "load",
    "load_rows",
    "normalise",
    "preview",
    "read",
    "render",
    "save_rows",
]


def load(data: object, columns: Mapping[str, str]) -> Examples:
    """The examples in `data`; `columns` maps our names to theirs.

    Raises `DataError` as `read` and `normalise` do.
    """
    return normalise(read(data), columns)
