"""Data, from what the user names to what the model is trained on: read → detect the format → normalise → render.

Importing this imports neither torch nor transformers nor pandas; a tokenizer comes in as an object.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

from .asked import answers, asked, prompts_in, spread
from .columns import Format
from .formats import Example, Examples, normalise
from .held_out import elsewhere, hold_out, of_same_format
from .judged import few_said, held_out_of, is_feedback
from .labels import labels_of, render_labelled, text_ids
from .layout import chat_ids, chat_text
from .pairs import judged_ids, render_pairs, render_whole_pairs
from .prompts import render_prompts
from .questions import question_of, questions_in
from .rated import render_rated
from .read import Report, Source, read
from .render import Rendered, TokenRow, preview, render
from .saved import is_saved, load_rows, save_rows
from .spool import Spool
from .windows import render_framed_windows, render_windows

__all__ = [
    "Example",
    "Examples",
    "Format",
    "Rendered",
    "Report",
    "Source",
    "Spool",
    "TokenRow",
    "answers",
    "asked",
    "chat_ids",
    "chat_text",
    "few_said",
    "held_out_of",
    "hold_out",
    "is_feedback",
    "is_saved",
    "judged_ids",
    "labels_of",
    "load",
    "load_rows",
    "normalise",
    "preview",
    "prompts_in",
    "question_of",
    "questions_in",
    "read",
    "render",
    "render_framed_windows",
    "render_labelled",
    "render_pairs",
    "render_prompts",
    "render_rated",
    "render_whole_pairs",
    "render_windows",
    "save_rows",
    "spread",
    "text_ids",
]


def load(
    data: object,
    columns: Mapping[str, str],
    held_out: float | str | None = None,
    progress: Report | None = None,
    method: str = "sft",
) -> Examples:
    """The examples in `data` for `method`; `columns` maps our names to theirs.

    Where `held_out` names a split of the data set or other data, its rows come along in `beside`. `progress` is told
    now and then how far it is (`read.Report`). A file of `save_rows` gives what was saved. Raises `DataError` as `read`
    and `normalise` do.
    """
    if is_saved(data):
        return load_rows(str(data))
    source = read(data, progress, method)
    with source.rows if isinstance(source.rows, Spool) and source is not data else nullcontext():
        return _with_held_out(source, columns, held_out, progress, method)


def _with_held_out(
    source: Source,
    columns: Mapping[str, str],
    held_out: float | str | None,
    progress: Report | None,
    method: str,
) -> Examples:
    examples = normalise(source, columns, progress, method)
    if not isinstance(held_out, str):
        return examples
    if held_out not in source.splits:
        return replace(examples, beside={held_out: elsewhere(examples, held_out, columns, progress, method)})
    beside = normalise(read(source.splits[held_out], progress), columns, progress, method)
    beside = of_same_format(replace(beside, name=f"{source.name}, {held_out}"), examples, held_out)
    used = tuple(note for note in examples.notes if "held_out: " not in note)
    return replace(examples, notes=used, beside={held_out: beside})
