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

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby, pairwise
from statistics import median
from typing import TypedDict

from jupyter_ft.errors import DataError

from .formats import Examples
from .layout import Layout, LayoutError, Tokenizer, encode, first_ids
from .spans import lay_out

UNTRAINED = -100
"""The label of a token that is not trained; the loss of torch and transformers leaves it out."""
_REPORT_EVERY = 200  # rows
_LONGEST_TOKEN = 128  # characters; runs of spaces are the longest in common vocabularies


class TokenRow(TypedDict):
    """A row of token ids; `labels` are the same ids, -100 where not trained."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Rendered:
    """What the model is trained on, and the sentence about it.

    `dropped` holds the number of each row that is left out (from 1, among the examples) and why; `truncated` rows were
    cut to `max_length`; `tokens` and `trained_tokens` are sums over the rows that are kept.
    """

    rows: list[TokenRow]
    dropped: list[tuple[int, str]]
    truncated: int
    tokens: int
    trained_tokens: int
    said: str


@dataclass
class _Tally:
    """What has been rendered so far."""

    max_length: int
    rows: list[TokenRow] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of every row that could be written, before cutting
    truncated: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, number: int, row: TokenRow, length: int, note: str) -> None:
        self.lengths.append(length)
        cut = TokenRow(input_ids=row["input_ids"][: self.max_length], labels=row["labels"][: self.max_length])
        if all(label == UNTRAINED for label in cut["labels"]):
            self.dropped.append((number, f"its answer begins beyond max_length {self.max_length} ({length} tokens)"))
            return
        self.rows.append(cut)
        self.truncated += length > self.max_length
        self.notes[note] += bool(note)


def render(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    system: str | None,
    max_length: int,
    progress: Callable[[int, int], None] | None = None,
) -> Rendered:
    """`examples` as token ids and labels, cut from the right to `max_length` tokens.

    `system` precedes every row that has none (texts have none). `progress(done, total)` is called every 200 rows.
    Raises `DataError` where no row has anything left to train.
    """
    total = len(examples.rows)
    tally = _Tally(max_length)
    opening = first_ids(tokenizer)
    for number, example in enumerate(examples.rows, 1):
        try:
            layout = lay_out(example, tokenizer, system)
            tally.add(number, *_tokenised(layout, tokenizer, opening, max_length), layout.note)
        except LayoutError as reason:
            tally.dropped.append((number, str(reason)))
        if progress and (number % _REPORT_EVERY == 0 or number == total):
            progress(number, total)
    return _concluded(tally, examples, tokenizer)


def _tokenised(layout: Layout, tokenizer: Tokenizer, opening: list[int], max_length: int) -> tuple[TokenRow, int]:
    """The token row of a text, and its length in tokens; a giant text is cut first, and its length estimated."""
    text = layout.text[: (max_length + 1) * _LONGEST_TOKEN]
    spans = [(start, min(end, len(text))) for start, end in layout.spans if start < len(text)]
    ids, token_at = _edges(text, sorted({0, len(text), *(edge for span in spans for edge in span)}), tokenizer)
    labels = [UNTRAINED] * len(ids)
    for start, end in spans:
        labels[token_at[start] : token_at[end]] = ids[token_at[start] : token_at[end]]
    if not layout.templated:
        whole = layout.spans[0][0] == 0
        ids, labels = [*opening, *ids], [*(opening if whole else [UNTRAINED] * len(opening)), *labels]
    return TokenRow(input_ids=ids, labels=labels), len(ids) * len(layout.text) // max(len(text), 1)


def _edges(text: str, edges: list[int], tokenizer: Tokenizer) -> tuple[list[int], dict[int, int]]:
    """The ids of `text`, and the token at which each character of `edges` (0 and the end among them) stands.

    Where the pieces between the edges have the ids of the whole, they tell; else the ids of each beginning do, by where
    they part from those of the whole (a token that lies across an edge counts as after it).
    """
    ids, *pieces = encode(tokenizer, [text, *(text[one:two] for one, two in pairwise(edges))])
    if [*chain.from_iterable(pieces)] == ids:
        return ids, dict(zip(edges, accumulate(map(len, pieces), initial=0), strict=True))
    beginnings = encode(tokenizer, [text[:edge] for edge in edges[1:-1]]) if edges[1:-1] else []
    inner = [_common(beginning, ids) for beginning in beginnings]
    return ids, dict(zip(edges, [0, *inner, len(ids)], strict=True))


def _common(some: list[int], other: list[int]) -> int:
    """How many tokens two rows share from the start.

    Not the length of the shorter: the last token before an edge may be merged with what follows it.
    """
    for at, (one, two) in enumerate(zip(some, other, strict=False)):
        if one != two:
            return at
    return min(len(some), len(other))


def _concluded(tally: _Tally, examples: Examples, tokenizer: Tokenizer) -> Rendered:
    if not tally.rows:
        raise DataError(_nothing_left(tally, examples))
    tokens = sum(len(row["input_ids"]) for row in tally.rows)
    trained = sum(label != UNTRAINED for row in tally.rows for label in row["labels"])
    dropped = tally.dropped
    what = "every token" if examples.format == "text" else "the answers alone"
    said = [f"{_rows(len(tally.rows))}, {tokens:,} tokens, {trained:,} of them trained ({what})"]
    if tally.truncated:
        said.append(f"{_rows(tally.truncated)} cut at max_length {tally.max_length}")
    if dropped:
        said.append(f"{_rows(len(dropped))} left out (row {dropped[0][0]}: {dropped[0][1]})")
    said += [f"{_rows(count)}: {note}" for note, count in tally.notes.items() if count]
    said += _about_layout(examples, tokenizer)
    return Rendered(tally.rows, dropped, tally.truncated, tokens, trained, "; ".join(said))


def _nothing_left(tally: _Tally, examples: Examples) -> str:
    count = len(examples.rows)
    if not tally.lengths:
        return f"{examples.name}: no row of {count:,} can be trained (row 1: {tally.dropped[0][1]}); change the rows"
    middle = int(median(tally.lengths))
    return (
        f"{examples.name}: nothing is left to train in {_rows(count)}, because max_length {tally.max_length} cuts off "
        f"every answer (median length {middle:,} tokens); raise max_length"
    )


def _about_layout(examples: Examples, tokenizer: Tokenizer) -> Iterator[str]:
    if examples.format != "text" and not tokenizer.chat_template:
        plain = {"messages": "turns are written as User: … / Assistant: …"}
        how = plain.get(examples.format, "prompt and completion are joined as they are")
        yield f"the tokenizer has no chat template, so {how}"
    if not tokenizer.eos_token:
        yield "the tokenizer has no end-of-text token, so the model does not learn to stop"


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"


def preview(row: TokenRow, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The row in pieces of text, special tokens included, each with whether it is trained."""
    tokens = zip(row["input_ids"], row["labels"], strict=True)
    runs = [(trained, [pair[0] for pair in run]) for trained, run in groupby(tokens, lambda pair: pair[1] != UNTRAINED)]
    return [(str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)), trained) for trained, ids in runs]
