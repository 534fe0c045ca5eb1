"""From prompts to what TRL's GRPO and RLOO are given: the turns to answer, and the columns for reward functions.

The token ids of a prompt are for people who look at it and for its length: TRL tokenises the turns itself, as here. A
row goes to the file as a text of JSON, so that whatever a column holds comes to the reward functions as it was.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from jupyter_ft.errors import DataError

from .conversations import Turn
from .formats import Examples
from .layout import LayoutError, Tokenizer, bare_prompt, encode, first_ids, folded
from .render import MOST_REASONS, REPORT_EVERY, TOGETHER, Rendered, numbered, rows_in_words
from .tokens import TokenFile
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
    every = max(REPORT_EVERY, total // 100 // TOGETHER * TOGETHER)
    opening, writer = ([] if tokenizer.chat_template else first_ids(tokenizer)), Writer(tokenizer)
    numbers, dropped, left_out, tokens, done = array("I"), list[tuple[int, str]](), 0, 0, 0
    with nullcontext(list[Any]()) if file is None else TokenFile(file, ("prompt_ids",), texts=(ROW,)) as rows:
        found = numbered(examples)
        while some := list(islice(found, TOGETHER)):
            for number, row, reason in _tokenised(some, writer, system, opening, max_length):
                if reason:
                    left_out += 1
                    dropped += [(number, reason)] if len(dropped) < MOST_REASONS else []
                    continue
                rows.append(row)
                numbers.append(number)
                tokens += len(row["prompt_ids"])
            done += len(some)
            if progress and (done % every == 0 or done == total):
                progress(done, total)
        if not len(rows):
            number, reason = dropped[0]
            raise DataError(f"{examples.name}: no prompt of {total:,} can be answered (row {number}: {reason})")
    said = [
        f"{rows_in_words(len(rows))}, {tokens:,} tokens",
        "the answers are generated, and those are what is trained",
    ]
    if left_out:
        number, reason = dropped[0]
        said.append(f"{rows_in_words(left_out)} left out (row {number}: {reason})")
    return Rendered(
        rows=rows if isinstance(rows, list) else rows.dataset(),
        numbers=numbers,
        dropped=dropped,
        left_out=left_out,
        truncated=0,
        tokens=tokens,
        trained_tokens=0,
        said="; ".join(said),
    )


def _tokenised(
    some: Sequence[tuple[int, Any]], writer: Writer, system: str | None, opening: list[int], max_length: int
) -> Iterator[tuple[int, PromptRow, str]]:
    """Each row with its number and why it is left out, where it is."""
    written: list[tuple[int, str]] = []
    texts: list[str] = []
    for number, example in some:
        turns: list[Turn] = example["prompt"]
        if system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": system}, *turns]
        try:
            prompt, text = _written(turns, writer)
        except LayoutError as reason:
            yield number, {}, str(reason)
            continue
        written.append((number, json.dumps({"prompt": prompt, **example["columns"]})))
        texts.append(text)
    for (number, row), ids in zip(written, encode(writer.tokenizer, texts) if texts else (), strict=True):
        found = [*opening, *ids]
        why = f"{len(found)} tokens, more than max_length {max_length}" if len(found) > max_length else ""
        yield number, {"prompt_ids": found, ROW: row}, why


def _written(turns: list[Turn], writer: Writer) -> tuple[list[Turn] | str, str]:
    """What TRL is given, and the text that it makes of it."""
    if not writer.tokenizer.chat_template:
        text = bare_prompt(turns)
        return text, text
    return folded(writer.tokenizer, turns), writer.write(turns, answer_next=True)


def rows_for_trainer(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """A batch of `PromptRow`s as columns: `prompt`, and those for the reward functions."""
    rows = [json.loads(text) for text in batch[ROW]]
    return {name: [row[name] for row in rows] for name in rows[0]}
