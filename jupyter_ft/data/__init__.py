"""Data, from what the user names to what the model is trained on: read → detect the format → normalise → render.

Importing this imports neither torch nor transformers nor pandas; a tokenizer comes in as an object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from .columns import Format
from .formats import Example, Examples, normalise
from .held_out import hold_out, of_same_format
from .labels import labels_of, render_labelled, text_ids
from .layout import chat_ids, chat_text
from .pairs import judged_ids, render_pairs, render_whole_pairs
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
    "judged_ids",
    "labels_of",
    "load",
    "load_rows",
    "normalise",
    "preview",
    "read",
    "render",
    "render_labelled",
    "render_pairs",
    "render_whole_pairs",
    "save_rows",
    "text_ids",
]


def load(
    data: object,
    columns: Mapping[str, str],
    held_out: float | str | None = None,
    progress: Callable[[int], None] | None = None,
    method: str = "sft",
) -> Examples:
    """The examples in `data` for `method`; `columns` maps our names to theirs.

    Where `held_out` names a split of the data set, its rows come along in `beside`. `progress(rows)` is called now and
    then while rows are read. Raises `DataError` as `read` and `normalise` do.
    """
    source = read(data, progress)
    examples = normalise(source, columns, method)
    if not isinstance(held_out, str) or held_out not in source.splits:
        return examples
    beside = normalise(read(source.splits[held_out], progress), columns, method)
    beside = of_same_format(replace(beside, name=f"{source.name}, {held_out}"), examples, held_out)
    used = tuple(note for note in examples.notes if "held_out: " not in note)
    return replace(examples, notes=used, beside={held_out: beside})
