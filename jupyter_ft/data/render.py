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
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby, islice, pairwise
from pathlib import Path
from typing import TypedDict

import numpy as np

from jupyter_ft.errors import DataError

from .formats import Example, Examples
from .layout import Layout, LayoutError, Tokenizer, encode, first_ids
from .spans import lay_out
from .tokens import TokenFile

UNTRAINED = -100
"""The label of a token that is not trained; the loss of torch and transformers leaves it out."""
REPORT_EVERY = 200  # rows; of a large data set, a hundredth
TOGETHER = 50  # rows that the tokenizer gets at once
_MOST_CHARACTERS = 2**20  # of rows together
MOST_REASONS = 1000
_LONGEST_TOKEN = 128  # characters; runs of spaces are the longest in common vocabularies


class TokenRow(TypedDict):
    """A row of token ids; `labels` are the same ids, -100 where not trained."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Rendered:
    """What the model is trained on, and the sentence about it.

    `rows` are a list, or a `datasets.Dataset` over a file. `left_out` rows are not among them; `dropped` holds the
    number of each (from 1, among the examples) and why, for the first thousand. `truncated` rows were cut to
    `max_length`; `tokens` and `trained_tokens` are sums over the rows that are kept. `numbers` are
    those of the examples behind each row, where not every example is one row.
    """

    rows: Sequence[TokenRow]
    dropped: list[tuple[int, str]]
    left_out: int
    truncated: int
    tokens: int
    trained_tokens: int
    said: str
    numbers: array[int] | None = None


@dataclass
class _Tally:
    """What has been rendered so far."""

    max_length: int
    rows: list[TokenRow] | TokenFile
    dropped: list[tuple[int, str]] = field(default_factory=list)
    left_out: int = 0
    lengths: array[int] = field(default_factory=lambda: array("Q"))  # of all that could be written, before cutting
    truncated: int = 0
    tokens: int = 0
    trained: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def drop(self, number: int, reason: str) -> None:
        self.left_out += 1
        if len(self.dropped) < MOST_REASONS:
            self.dropped.append((number, reason))

    def add(self, number: int, row: TokenRow, length: int, note: str) -> None:
        self.lengths.append(length)
        cut = TokenRow(input_ids=row["input_ids"][: self.max_length], labels=row["labels"][: self.max_length])
        trained = len(cut["labels"]) - cut["labels"].count(UNTRAINED)
        if not trained:
            self.drop(number, f"its answer begins beyond max_length {self.max_length} ({length} tokens)")
            return
        self.rows.append(cut)
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
    total = len(examples.rows)
    every = max(REPORT_EVERY, total // 100 // TOGETHER * TOGETHER)
    opening = first_ids(tokenizer)
    with nullcontext(list[TokenRow]()) if file is None else TokenFile(file) as rows:
        tally = _Tally(max_length, rows)
        numbered = enumerate(examples.rows, 1)
        while some := list(islice(numbered, TOGETHER)):
            _add_all(some, tally, tokenizer, system, opening)
            done = some[-1][0]
            if progress and (done % every == 0 or done == total):
                progress(done, total)
        if not len(rows):
            raise DataError(_nothing_left(tally, examples))
    return _concluded(tally, rows if isinstance(rows, list) else rows.dataset(), examples, tokenizer)


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
        return sorted({0, len(self.text), *chain.from_iterable(self.spans)})


def _add_all(
    some: list[tuple[int, Example]], tally: _Tally, tokenizer: Tokenizer, system: str | None, opening: list[int]
) -> None:
    """Lay out and tokenise some rows together, which is several times as fast as one by one."""
    held: list[_Cut] = []
    for number, example in some:
        try:
            held.append(_cut(number, lay_out(example, tokenizer, system), tally.max_length))
        except LayoutError as reason:
            _tokenise(held, tally, tokenizer, opening)
            tally.drop(number, str(reason))
        if sum(len(cut.text) for cut in held) > _MOST_CHARACTERS:
            _tokenise(held, tally, tokenizer, opening)
    _tokenise(held, tally, tokenizer, opening)


def _cut(number: int, layout: Layout, max_length: int) -> _Cut:
    text = layout.text[: (max_length + 1) * _LONGEST_TOKEN]
    spans = [(start, min(end, len(text))) for start, end in layout.spans if start < len(text)]
    return _Cut(number, text, spans, len(layout.text), layout.templated, layout.note)


def _tokenise(held: list[_Cut], tally: _Tally, tokenizer: Tokenizer, opening: list[int]) -> None:
    """Tokenise what is held, and empty it."""
    if not held:
        return
    texts = [[cut.text, *(cut.text[one:two] for one, two in pairwise(cut.edges))] for cut in held]
    encoded = iter(encode(tokenizer, [*chain.from_iterable(texts)]))
    for cut, own in zip(held, texts, strict=True):
        ids, *pieces = islice(encoded, len(own))
        row, length = _token_row(cut, ids, _edges(cut, ids, pieces, tokenizer), opening)
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


def _edges(cut: _Cut, ids: list[int], pieces: list[list[int]], tokenizer: Tokenizer) -> dict[int, int]:
    """The token of `ids`, those of the text, at which each character of its edges (0 and the end among them) stands.

    Where the pieces between the edges have the ids of the whole, they tell; else the ids of each beginning do, by where
    they part from those of the whole (a token that lies across an edge counts as after it).
    """
    edges = cut.edges
    if [*chain.from_iterable(pieces)] == ids:
        return dict(zip(edges, accumulate(map(len, pieces), initial=0), strict=True))
    beginnings = encode(tokenizer, [cut.text[:edge] for edge in edges[1:-1]]) if edges[1:-1] else []
    inner = [common_beginning(beginning, ids) for beginning in beginnings]
    return dict(zip(edges, [0, *inner, len(ids)], strict=True))


def common_beginning(some: list[int], other: list[int]) -> int:
    """How many tokens two rows share from the start.

    Not the length of the shorter: the last token before an edge may be merged with what follows it.
    """
    for at, (one, two) in enumerate(zip(some, other, strict=False)):
        if one != two:
            return at
    return min(len(some), len(other))


def _concluded(tally: _Tally, rows: Sequence[TokenRow], examples: Examples, tokenizer: Tokenizer) -> Rendered:
    what = "every token" if examples.format == "text" else "the answers alone"
    said = [f"{rows_in_words(len(rows))}, {tally.tokens:,} tokens, {tally.trained:,} of them trained ({what})"]
    if tally.truncated:
        said.append(f"{rows_in_words(tally.truncated)} cut at max_length {tally.max_length}")
    if tally.left_out:
        number, reason = tally.dropped[0]
        said.append(f"{rows_in_words(tally.left_out)} left out (row {number}: {reason})")
    said += [f"{rows_in_words(count)}: {note}" for note, count in tally.notes.items() if count]
    said += _about_layout(examples, tokenizer)
    return Rendered(rows, tally.dropped, tally.left_out, tally.truncated, tally.tokens, tally.trained, "; ".join(said))


def _nothing_left(tally: _Tally, examples: Examples) -> str:
    count = len(examples.rows)
    if not tally.lengths:
        return f"{examples.name}: no row of {count:,} can be trained (row 1: {tally.dropped[0][1]}); change the rows"
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
