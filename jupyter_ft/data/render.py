"""From examples to token ids and labels: what the model sees, and which tokens it is trained on.

The answers alone are trained in conversations and prompt–completion rows, each to the end of its turn, so that the
model learns to stop; every token is trained in text rows.

For a conversational prompt–completion row, ids and labels equal those of TRL 1.16 (`tokenize_fn` and `build_labels` in
trl/trainer/sft_trainer.py): the row is tokenised as one text, and trained from where its ids part from those of the
prompt alone. Differences, all on purpose: TRL trains `messages` rows on every token unless the template has generation
markers, here only on the answers; a template that refuses a system turn gets it inside the first user turn; where a
template writes nothing after the last answer, the end-of-text token is put there.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from jupyter_ft.errors import DataError

from .edges import EdgeFinder
from .formats import Example, Examples
from .layout import Layout, LayoutError, Tokenizer, first_ids
from .spans import lay_out
from .tokens import TokenFile
from .writer import Writer

UNTRAINED = -100
"""The label of a token that is not trained; the loss of torch and transformers leaves it out."""
REPORT_EVERY = 200  # rows; of a large data set, a hundredth
TOGETHER = 50  # rows that the tokenizer gets at once
_MOST_CHARACTERS = 2**20  # of rows together
MOST_REASONS = 1000
_LONGEST_TOKEN = 128  # characters; runs of spaces are the longest in common vocabularies
Item = TypeVar("Item")


class TokenRow(TypedDict):
    """A row of token ids; `labels` are the same ids, -100 where not trained."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Rendered:
    """What the model is trained on, and the sentence about it.

    `rows` are a list, or a `datasets.Dataset` over a file; `numbers` are theirs as the user counts them (from 1).
    `left_out` rows are not among them; `dropped` holds the number of each and why, for the first thousand. `truncated`
    rows were cut to `max_length`; `tokens` and `trained_tokens` are sums over the rows that are kept.
    """

    rows: Sequence[TokenRow]
    numbers: array[int]
    dropped: list[tuple[int, str]]
    left_out: int
    truncated: int
    tokens: int
    trained_tokens: int
    said: str


@dataclass
class Tally:
    """What has been rendered so far, whatever its rows are made of."""

    rows: list[Any] | TokenFile
    max_length: int
    numbers: array[int] = field(default_factory=lambda: array("I"))
    dropped: list[tuple[int, str]] = field(default_factory=list)
    left_out: int = 0
    truncated: int = 0
    tokens: int = 0
    trained: int = 0

    def put(self, number: int, row: Mapping[str, Any]) -> None:
        """Keep a row, whose number as the user counts is `number`."""
        self.rows.append(row)
        self.numbers.append(number)

    def drop(self, number: int, reason: str) -> None:
        """Leave a row out."""
        self.left_out += 1
        if len(self.dropped) < MOST_REASONS:
            self.dropped.append((number, reason))

    def check(self, name: str, total: int) -> None:
        """Raises `DataError` where nothing is kept of `total` rows of `name`."""
        if not len(self.rows):
            number, reason = self.dropped[0]
            raise DataError(f"{name}: no row of {total:,} can be trained (row {number}: {reason})")

    def losses(self) -> list[str]:
        """What is cut and left out, in words."""
        said = []
        if self.truncated:
            said.append(f"{rows_in_words(self.truncated)} cut at max_length {self.max_length}")
        if self.left_out:
            number, reason = self.dropped[0]
            said.append(f"{rows_in_words(self.left_out)} left out (row {number}: {reason})")
        return said

    def rendered(self, *said: str) -> Rendered:
        """All of it, with the parts of the sentence about it."""
        rows = self.rows if isinstance(self.rows, list) else self.rows.dataset()
        counts = self.left_out, self.truncated, self.tokens, self.trained
        return Rendered(rows, self.numbers, self.dropped, *counts, said="; ".join(said))


@dataclass
class _Tally(Tally):
    """With what the sentence about answers and texts needs."""

    lengths: array[int] = field(default_factory=lambda: array("Q"))  # of all that could be written, before cutting
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, number: int, row: TokenRow, length: int, note: str) -> None:
        self.lengths.append(length)
        cut = TokenRow(input_ids=row["input_ids"][: self.max_length], labels=row["labels"][: self.max_length])
        trained = len(cut["labels"]) - cut["labels"].count(UNTRAINED)
        if not trained:
            self.drop(number, f"its answer begins beyond max_length {self.max_length} ({length} tokens)")
            return
        self.put(number, cut)
        self.tokens += len(cut["input_ids"])
        self.trained += trained
        self.truncated += length > self.max_length
        self.notes[note] += bool(note)


def render(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    system: str | None,
    max_length: int,
    progress: Callable[[int, int], None] | None = None,
    file: Path | None = None,
) -> Rendered:
    """`examples` as token ids and labels, cut from the right to `max_length` tokens.

    `system` precedes every row that has none (texts have none). `progress(done, total)` is called every 200 rows, or
    every hundredth of them. With `file` the rows go to that Arrow file, in memory that does not grow with them. Raises
    `DataError` where no row has anything left to train, and what `progress` raises.
    """
    finder, opening = EdgeFinder(tokenizer), first_ids(tokenizer)
    written = partial(lay_out, writer=Writer(tokenizer), system=system)
    with token_rows(file) as rows:
        tally = _Tally(rows, max_length)
        for some in in_groups(numbered(examples), len(examples.rows), progress):
            _add_all(some, tally, written, finder, opening)
        if not len(rows):
            raise DataError(_nothing_left(tally, examples))
    return _concluded(tally, examples, tokenizer)


def token_rows(
    file: Path | None, columns: Sequence[str] = ("input_ids", "labels"), **more: Sequence[str]
) -> AbstractContextManager[list[Any] | TokenFile]:
    """Where rows are put: a list, or with `file` a `TokenFile` of these columns (`more`: flags, numbers)."""
    return nullcontext(list[Any]()) if file is None else TokenFile(file, columns, **more)


def in_groups(found: Iterator[Item], total: int, progress: Callable[[int, int], None] | None) -> Iterator[list[Item]]:
    """What is `found`, in groups to be tokenised together; after each `progress(done, total)` is called where due."""
    every, done = max(REPORT_EVERY, total // 100 // TOGETHER * TOGETHER), 0
    while some := list(islice(found, TOGETHER)):
        yield some
        done += len(some)
        if progress and (done % every == 0 or done == total):
            progress(done, total)


def numbered(examples: Examples) -> Iterator[tuple[int, Example]]:
    """The rows, each with its number as the user counts them (from 1)."""
    numbers = range(1, len(examples.rows) + 1) if examples.numbers is None else map(int, examples.numbers)
    return zip(numbers, examples.rows, strict=True)


@dataclass(frozen=True)
class _Cut:
    """A row's text, a giant one cut short, with its trained spans and its length before the cut, in characters."""

    number: int
    text: str
    spans: list[tuple[int, int]]
    whole: int
    templated: bool
    note: str

    @property
    def edges(self) -> list[int]:
        """Where its spans begin and end, inside it."""
        return sorted({*chain.from_iterable(self.spans)} - {0, len(self.text)})


def _add_all(
    some: list[tuple[int, Example]],
    tally: _Tally,
    written: Callable[[Example], Layout],
    finder: EdgeFinder,
    opening: list[int],
) -> None:
    """Lay out and tokenise some rows together, which is several times as fast as one by one."""
    held: list[_Cut] = []
    characters = 0
    for number, example in some:
        try:
            held.append(_cut(number, written(example), tally.max_length))
        except LayoutError as reason:
            _tokenise(held, tally, finder, opening)
            tally.drop(number, str(reason))
            continue
        characters += len(held[-1].text)
        if characters > _MOST_CHARACTERS:
            _tokenise(held, tally, finder, opening)
            characters = 0
    _tokenise(held, tally, finder, opening)


def _cut(number: int, layout: Layout, max_length: int) -> _Cut:
    text = layout.text[: (max_length + 1) * _LONGEST_TOKEN]
    spans = [(start, min(end, len(text))) for start, end in layout.spans if start < len(text)]
    return _Cut(number, text, spans, len(layout.text), layout.templated, layout.note)


def _tokenise(held: list[_Cut], tally: _Tally, finder: EdgeFinder, opening: list[int]) -> None:
    """Tokenise what is held, and empty it."""
    if not held:
        return
    found = finder.tokenise([cut.text for cut in held], [cut.edges for cut in held])
    for cut, (ids, token_at) in zip(held, found, strict=True):
        row, length = _token_row(cut, ids, token_at | {0: 0, len(cut.text): len(ids)}, opening)
        tally.add(cut.number, row, length, cut.note)
    held.clear()


def _token_row(cut: _Cut, ids: list[int], token_at: dict[int, int], opening: list[int]) -> tuple[TokenRow, int]:
    """The token row of a text, and its length in tokens; that of a giant text is estimated."""
    labels = [UNTRAINED] * len(ids)
    for start, end in cut.spans:
        labels[token_at[start] : token_at[end]] = ids[token_at[start] : token_at[end]]
    if not cut.templated:
        whole = bool(cut.spans) and cut.spans[0][0] == 0
        ids, labels = [*opening, *ids], [*(opening if whole else [UNTRAINED] * len(opening)), *labels]
    return TokenRow(input_ids=ids, labels=labels), len(ids) * cut.whole // max(len(cut.text), 1)


def _concluded(tally: _Tally, examples: Examples, tokenizer: Tokenizer) -> Rendered:
    what = "every token" if examples.format == "text" else "the answers alone"
    return tally.rendered(
        f"{rows_in_words(len(tally.rows))}, {tally.tokens:,} tokens, {tally.trained:,} of them trained ({what})",
        *tally.losses(),
        *(f"{rows_in_words(count)}: {note}" for note, count in tally.notes.items() if count),
        *_about_layout(examples, tokenizer),
    )


def _nothing_left(tally: _Tally, examples: Examples) -> str:
    count = len(examples.rows)
    if not tally.lengths:
        number, reason = tally.dropped[0]
        return f"{examples.name}: no row of {count:,} can be trained (row {number}: {reason}); change the rows"
    middle = int(np.median(np.frombuffer(tally.lengths, np.uint64)))
    return (
        f"{examples.name}: nothing is left to train in {rows_in_words(count)}, because max_length {tally.max_length} "
        f"cuts off every answer (median length {middle:,} tokens); raise max_length"
    )


def _about_layout(examples: Examples, tokenizer: Tokenizer) -> Iterator[str]:
    if examples.format != "text" and not tokenizer.chat_template:
        plain = {"messages": "turns are written as User: … / Assistant: …"}
        how = plain.get(examples.format, "prompt and completion are joined as they are")
        yield f"the tokenizer has no chat template, so {how}"
    if not tokenizer.eos_token:
        yield "the tokenizer has no end-of-text token, so the model does not learn to stop"


def rows_in_words(count: int) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def preview(row: TokenRow, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The row in pieces of text, special tokens included, each with whether it is trained."""
    tokens = zip(row["input_ids"], row["labels"], strict=True)
    runs = [(trained, [pair[0] for pair in run]) for trained, run in groupby(tokens, lambda pair: pair[1] != UNTRAINED)]
    return [(str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)), trained) for trained, ids in runs]
