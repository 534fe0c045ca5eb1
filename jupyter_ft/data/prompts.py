"""From prompts to what TRL's GRPO and RLOO are given: the turns to answer, and the columns for reward functions.

The token ids of a prompt are for people who look at it and for its length: TRL tokenises the turns itself, as here. A
row goes to the file as a text of JSON, so that whatever a column holds comes to the reward functions as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_ft.errors import DataError

from .conversations import Turn
from .formats import Example, Examples
from .layout import Tokenizer, bare_prompt, first_ids, folded
from .render import Rendered, Tally, in_groups, numbered, rows_in_words, token_rows
from .together import below, encoded
from .writer import Writer

ROW = "row"
PromptRow = dict[str, Any]
"""`prompt_ids`, and `row`: JSON of `prompt` (turns, or without a template a text) and the columns beside it."""


def render_prompts(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    system: str | None,
    max_length: int,
    progress: Callable[[int, int], None] | None = None,
    file: Path | None = None,
) -> Rendered:
    """Prompts as `PromptRow`s; one of more than `max_length` tokens is left out. Arguments, errors: as for `render`."""
    total = len(examples.rows)
    opening, writer = ([] if tokenizer.chat_template else first_ids(tokenizer)), Writer(tokenizer)
    with token_rows(file, ("prompt_ids",), texts=(ROW,)) as rows:
        tally = Tally(rows, max_length)
        for some in in_groups(numbered(examples), total, progress):
            for number, example, [ids] in encoded(
                some, partial(_texts, writer=writer, system=system), tally, tokenizer
            ):
                _add(
                    tally,
                    number,
                    [*opening, *ids],
                    {"prompt": _given(example, tokenizer, system), **example["columns"]},
                )
        if not len(rows):
            number, reason = tally.dropped[0]
            raise DataError(f"{examples.name}: no prompt of {total:,} can be answered (row {number}: {reason})")
    return tally.rendered(
        f"{rows_in_words(len(rows))}, {tally.tokens:,} tokens",
        "the answers are generated, and those are what is trained",
        *tally.losses(),
    )


def _add(tally: Tally, number: int, ids: list[int], row: Mapping[str, Any]) -> None:
    if len(ids) > tally.max_length:
        tally.drop(number, f"{len(ids)} tokens, more than max_length {tally.max_length}")
        return
    tally.put(number, {"prompt_ids": ids, ROW: json.dumps(row)})
    tally.tokens += len(ids)


def _texts(example: Example, writer: Writer, system: str | None) -> list[str]:
    """The text that TRL makes of a prompt."""
    turns = below(system, example["prompt"])
    return [writer.write(turns, answer_next=True) if writer.tokenizer.chat_template else bare_prompt(turns)]


def _given(example: Example, tokenizer: Tokenizer, system: str | None) -> list[Turn] | str:
    """What TRL is given of it."""
    turns = below(system, example["prompt"])
    return folded(tokenizer, turns) if tokenizer.chat_template else bare_prompt(turns)


def rows_for_trainer(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """A batch of `PromptRow`s as columns: `prompt`, and those for the reward functions."""
    rows = [json.loads(text) for text in batch[ROW]]
    return {name: [row[name] for row in rows] for name in rows[0]}
