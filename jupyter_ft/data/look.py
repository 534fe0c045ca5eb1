"""What a person looks at before (or while) a model is trained on rows: figures, what to beware of, and the rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jupyter_ft.errors import DataError

from .again import about_tokens
from .figures import Figures, Numbers, TokenRows, answered_otherwise, measure, repeats
from .formats import SAME, Examples
from .pieces import Column, Reader, facts, plain_pieces
from .render import Rendered, rows_in_words

BEYOND = 400  # tokens beyond max_length that are tokenised, to show what is cut
_NAMED = 5  # rows that a sentence names


@dataclass(frozen=True)
class Shown:
    """One row: its number as the user counts, a word about it, tokens in all and trained, and its columns.

    `state` is `train`, `held out` or `dropped`.
    """

    number: int
    state: str
    note: str
    columns: list[Column]

    @property
    def tokens(self) -> int:
        """Tokens that the model reads, of all columns."""
        return sum(column.tokens for column in self.columns)

    @property
    def trained(self) -> int:
        """Tokens that it is trained on."""
        return sum(column.trained for column in self.columns)


@dataclass(frozen=True)
class Overview:
    """What there is to say of all rows.

    `said` are sentences (the format and columns that were found, what was rendered), `cautions` what to beware of,
    `dropped` the rows that are left out and why (the first thousand). `lengths` are tokens a row; empty where nothing
    can be trained. `of_first` is the number of rows that were looked at, where these are not all. `by_token`: whether
    some tokens are trained and others not; a classifier reads all, and what an encoder guesses is drawn anew each time.
    """

    title: str
    said: tuple[str, ...]
    cautions: tuple[str, ...]
    dropped: Sequence[tuple[int, str]] = ()
    rows: int = 0
    held_out: int = 0
    tokens: int = 0
    trained: int = 0
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    of_first: int = 0
    by_token: bool = True


class Rows(Protocol):
    """Rows that can be shown one by one."""

    def __len__(self) -> int:
        """How many there are."""

    def shown(self, index: int) -> Shown:
        """Row `index`, from 0."""

    def index_of(self, number: int) -> int:
        """Where the row is that the user calls `number`, or the next one after it."""


@dataclass(frozen=True)
class Look:
    """An overview and the rows that it is about."""

    overview: Overview
    rows: Rows

    def page(self, first: int, count: int) -> list[Shown]:
        """At most `count` rows from `first` (from 0)."""
        return [self.rows.shown(index) for index in range(max(0, first), min(len(self.rows), first + count))]


class ExampleRows:
    """All examples, those that are dropped too, each rendered when it is shown.

    `render(examples, max_length)` renders as the method does; `held_out` holds the numbers of those held out.
    """

    def __init__(
        self,
        examples: Examples,
        render: Callable[[Examples, int], Rendered],
        tokenizer: Any,
        max_length: int,
        *,
        held_out: frozenset[int] = frozenset(),
        dropped: Sequence[tuple[int, str]] = (),
    ) -> None:
        self._examples, self._render, self._max_length = examples, render, max_length
        self._reader, self._held_out, self._dropped = Reader(tokenizer, max_length), held_out, dict(dropped)

    def __len__(self) -> int:
        return len(self._examples.rows)

    def index_of(self, number: int) -> int:
        """Rows are counted from 1 without a gap."""
        return number - 1

    def shown(self, index: int) -> Shown:
        """Row `index`, from 0, with some of what is cut off from it."""
        number, example = index + 1, self._examples.rows[index]
        state = "held out" if number in self._held_out else "train"
        one = replace(self._examples, rows=self._examples.rows.subset([index]))
        try:
            rows = self._render(one, self._max_length + BEYOND).rows
        except DataError:  # the template refuses it, or its answer is far beyond
            return Shown(number, "dropped", self._why(number, one), _as_it_is(example))
        columns = [column for row in rows for column in self._reader.columns(row)]
        cut = any(piece.kind == "lost" for column in columns for piece in column.pieces)
        if cut and not any(column.trained for column in columns):
            return Shown(number, "dropped", self._why(number, one), columns)
        if isinstance(rows[0].get("labels"), int) and "label" in example:  # by its name, not by its place among them
            return Shown(number, state, f"label {example['label']!r}", columns)
        return Shown(number, state, ", ".join(filter(None, map(facts, rows))), columns)

    def _why(self, number: int, one: Examples) -> str:
        if number in self._dropped:
            return self._dropped[number]
        try:
            return self._render(one, self._max_length).dropped[0][1]
        except DataError as error:
            return str(error).removeprefix(f"{one.name}: ")


def _as_it_is(example: Mapping[str, Any]) -> list[Column]:
    """A row that cannot be rendered, as its columns are."""
    columns = []
    for name, value in example.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
        columns.append(Column(name, plain_pieces("lost", text), 0, 0))
    return columns


class TrainerRows:
    """The rows that a trainer has, by their place in its data set."""

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]] | TokenRows,
        tokenizer: Any,
        max_length: int,
        state: str = "train",
    ) -> None:
        self._rows, self._state = rows, state
        self._numbers = rows.numbers if isinstance(rows, TokenRows) else np.arange(1, len(rows) + 1)
        self._reader, self._max_length = Reader(tokenizer, max_length), max_length

    def __len__(self) -> int:
        return len(self._rows)

    def index_of(self, number: int) -> int:
        """The row of that number, or the next one where it is not among these."""
        for these in (self._numbers == number, self._numbers > number):
            if these.any():
                return int(np.argmax(these))
        return len(self)

    def shown(self, index: int) -> Shown:
        """Row `index`, from 0."""
        row = self._rows[index]
        notes = [facts(row)]
        if "seq_lengths" in row:
            notes = [f"{rows_in_words(len(row['seq_lengths']))} packed into one", *notes]
        elif len(row.get("input_ids", ())) == self._max_length:
            notes = ["ends at max_length", *notes]
        return Shown(int(self._numbers[index]), self._state, ", ".join(filter(None, notes)), self._reader.columns(row))


def overview(
    title: str,
    said: Sequence[str],
    train: TokenRows,
    held_out: TokenRows | None,
    max_length: int,
    *,
    dropped: Sequence[tuple[int, str]] = (),
    left_out: int = 0,
    truncated: int = 0,
    of_first: int = 0,
    beware: Sequence[str] = (),
    by_token: bool = True,
) -> Overview:
    """The figures of the rows to train on, and what to beware of in them and in those held out.

    The last sentence of `said` is what rendering said; what it has of rows cut and left out is said by number here.
    """
    figures = measure(train, max_length)
    rendered, *notes = said[-1].split("; ")
    known = [line for line in said[:-1] if of_first or not line.endswith(SAME)]
    cautions = [
        *beware,
        *(note for note in notes if " left out (" not in note and " cut at max_length" not in note),
        *_about_cuts(dropped, left_out, truncated, max_length),
        *_about_repeats(figures, train.numbers),
        *(_about_overlap(figures, measure(held_out, max_length), held_out.numbers) if held_out is not None else ()),
    ]
    return Overview(
        title,
        (*known, rendered),
        tuple(cautions),
        dropped,
        len(train),
        0 if held_out is None else len(held_out),
        figures.tokens,
        figures.trained,
        figures.lengths,
        of_first,
        by_token,
    )


def _about_cuts(dropped: Sequence[tuple[int, str]], left_out: int, truncated: int, max_length: int) -> list[str]:
    said = []
    if left_out:
        named = _named([number for number, _ in dropped], left_out)
        said.append(f"{rows_in_words(left_out)} {'is' if left_out == 1 else 'are'} dropped ({named}): {dropped[0][1]}")
    if truncated:
        said.append(f"{rows_in_words(truncated)} {'is' if truncated == 1 else 'are'} cut at max_length {max_length:,}")
    return said


def _about_repeats(figures: Figures, numbers: Numbers) -> list[str]:
    said = []
    again, first = repeats(figures.keys)
    if len(again):
        share = f"{rows_in_words(len(again))} ({len(again) / len(figures.keys):.0%})"
        one, before = numbers[again[0]], numbers[first[0]]
        example = f"row {one:,} is row {before:,} again" if one != before else f"one of row {one:,}, say"
        said.append(f"{share} {'repeats' if len(again) == 1 else 'repeat'} an earlier one token by token ({example})")
    other, first = answered_otherwise(figures)
    apart = numbers[other] != numbers[first]  # two answers of one row are a choice between them, and meant
    other, first = other[apart], first[apart]
    if len(other):
        pair = f"rows {numbers[first[0]]:,} and {numbers[other[0]]:,}"
        said.append(f"{rows_in_words(len(other))} with the prompt of an earlier one, answered otherwise ({pair})")
    return said


def _about_overlap(train: Figures, held_out: Figures, numbers: Numbers) -> list[str]:
    said = []
    same = np.flatnonzero(np.isin(held_out.keys, train.keys))
    total = len(held_out.keys)
    if len(same):
        named = _named(numbers[same].tolist(), len(same))
        said.append(f"{len(same):,} of {total:,} held-out rows are trained on too ({named}): they measure memory")
    asked = np.isin(held_out.prompts, train.prompts[train.prompts != 0])
    asked[same] = False
    alike = np.flatnonzero(asked)
    if len(alike):
        named = _named(numbers[alike].tolist(), len(alike))
        said.append(f"{len(alike):,} of {total:,} held-out rows have the prompt of a row that is trained on ({named})")
    return said


def _named(numbers: Sequence[int], total: int) -> str:
    listed = ", ".join(f"{number:,}" for number in numbers[:_NAMED])
    return f"row{'s' if total > 1 else ''} {listed}{', …' if total > _NAMED else ''}"


def keep_about(file: Path, rendered: Rendered, said: Sequence[str] = (), key: str = "") -> None:
    """Write beside the token rows in `file` what a look at them wants to know and they do not tell.

    With `key` a later run finds them by it, see `again`.
    """
    file.with_suffix(".json").unlink(missing_ok=True)  # first: what it says is of the file that was there before
    np.save(file.with_suffix(".npy"), np.array(rendered.numbers, np.int64))
    about = {"said": [*said, rendered.said], "dropped": rendered.dropped, "left_out": rendered.left_out}
    about |= {"truncated": rendered.truncated} | about_tokens(file, rendered, key)
    file.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
