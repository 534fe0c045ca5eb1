"""A token row as pieces of text that a person can read: what is trained, what is cut, what else could not be seen.

Any row of token columns can be shown. `input_ids` are trained where their `labels` are not -100; a prompt's ids are not
trained; any other ids are an answer and trained. `seq_lengths` are the rows inside a packed one. Single numbers are
facts about the row (a class, say).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .layout import Tokenizer
from .render import UNTRAINED

MOST_CHARACTERS = 4000  # of a column; a row may be 30 MB
_HEAD, _TAIL, _BEFORE, _AFTER = 240, 80, 40, 240  # tokens shown of a long column; the latter two around what is trained
_CONTEXT = 4  # tokens before a piece that some tokenizers need to write its first space
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]|(?<=[ -~])[\u200c\u200d]"  # joiners are part of emoji and of some scripts
)

Kind = Literal["given", "trained", "lost"]


@dataclass(frozen=True)
class Piece:
    """Some text of a row, or a word about it.

    `kind` is `given` (read, not trained), `trained`, `lost` (beyond `max_length`) or `mark` (no text of the row: where
    it is cut, where a packed row begins, what is left out here). `shape` is `token` for a special token, `hidden` for a
    character that cannot be seen, named as `U+202E`; else empty.
    """

    kind: Kind | Literal["mark"]
    text: str
    shape: Literal["", "token", "hidden"] = ""


@dataclass(frozen=True)
class Column:
    """Tokens of a row that belong together, as pieces. `name` is empty where there is one column."""

    name: str
    pieces: list[Piece]
    tokens: int
    trained: int


@dataclass(frozen=True)
class Parts:
    """The token columns of a row by what they are, see above: names of those given, and of those that answer."""

    given: tuple[str, ...]
    answers: tuple[str, ...]


def parts(names: Sequence[str]) -> Parts:
    """Which of the token columns `names` are given and which are answers; masks and lengths are neither."""
    ids = [name for name in names if name.endswith("_ids") and not name.startswith(("token_type", "position"))]
    given = tuple(name for name in ids if name.startswith("prompt"))
    return Parts(given, tuple(name for name in ids if name not in given))


def facts(row: Mapping[str, Any]) -> str:
    """The single numbers of a row: `label 1`."""
    return ", ".join(f"{name} {value}" for name, value in row.items() if isinstance(value, (int, float)))


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens of a tokenizer that stand for no text, by their ids."""
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


class Reader:
    """Writes token rows as pieces, with a tokenizer that nobody else uses meanwhile."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._special = special_tokens(tokenizer)

    def columns(self, row: Mapping[str, Any]) -> list[Column]:
        """The row as columns: what is given first, then the answers, cut together at `max_length`."""
        of = parts([name for name, value in row.items() if isinstance(value, list)])
        used = sum(len(row[name]) for name in of.given)
        shown = [self._column(name, row[name], ["given"] * len(row[name]), self._max_length) for name in of.given]
        for name in of.answers:
            kinds = _kinds(row, name)
            room = max(0, self._max_length - used)
            shown.append(self._column(name, row[name], kinds, room, row.get("seq_lengths")))
        return shown

    def _column(
        self, name: str, ids: list[int], kinds: list[Kind], room: int, packed: list[int] | None = None
    ) -> Column:
        trained = kinds[:room].count("trained")
        marks = _boundaries(packed or [])
        if len(ids) > room:
            lost: list[Kind] = ["lost"] * (len(ids) - room)
            kinds = [*kinds[:room], *lost]
            marks[room] = f"cut here: max_length {self._max_length:,}"
        title = "" if name == "input_ids" else name.removesuffix("_ids")
        return Column(title, list(self._pieces(ids, kinds, marks)), min(len(ids), room), trained)

    def _pieces(self, ids: list[int], kinds: list[Kind], marks: dict[int, str]) -> Iterator[Piece]:
        left = MOST_CHARACTERS
        end = 0
        for start, stop in _shown(kinds, sorted(marks)):
            if start > end:
                yield Piece("mark", f"… {start - end:,} tokens …")
            for piece in self._stretch(ids, kinds, marks, start, stop):
                text = piece.text if piece.kind == "mark" else piece.text[: max(0, left)]
                left -= len(piece.text) * (piece.kind != "mark")
                if text:
                    yield Piece(piece.kind, text, piece.shape)
            end = stop
        if left < 0:
            yield Piece("mark", f"… {-left:,} more characters …")
        if end < len(ids):
            yield Piece("mark", f"… {len(ids) - end:,} more tokens …")

    def _stretch(
        self, ids: list[int], kinds: list[Kind], marks: dict[int, str], start: int, stop: int
    ) -> Iterator[Piece]:
        while start < stop:
            if start in marks:
                yield Piece("mark", marks[start])
            kind, special = kinds[start], ids[start] in self._special
            end = start + 1
            while not special and end < stop and end not in marks and kinds[end] == kind:
                if ids[end] in self._special:
                    break
                end += 1
            text = self._text(ids, start, end)
            yield from [Piece(kind, text, "token")] if special else _seen(kind, text)
            start = end

    def _text(self, ids: list[int], start: int, end: int) -> str:
        """The text of some tokens; with those before them, since some tokenizers leave the first space away."""
        first = max(0, start - _CONTEXT)
        before, whole = (self._decoded(ids[first:to]) for to in (start, end))
        return whole[len(before) :] if before and whole.startswith(before) else self._decoded(ids[start:end])

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if ids else ""


def _kinds(row: Mapping[str, Any], name: str) -> list[Kind]:
    labels = row.get("labels")
    if name != "input_ids" or not isinstance(labels, list):
        classified = name == "input_ids" and any(key in row for key in ("label", "labels"))
        return ["given" if classified else "trained"] * len(row[name])
    return ["given" if label == UNTRAINED else "trained" for label in labels]


def _boundaries(packed: list[int]) -> dict[int, str]:
    starts = [sum(packed[:at]) for at in range(len(packed))]
    return {start: f"packed: {number} of {len(packed)}" for number, start in enumerate(starts, 1)}


def _shown(kinds: Sequence[Kind], marks: Sequence[int]) -> list[tuple[int, int]]:
    """The stretches to show: all of a short column, else its ends, where training begins, and around each mark."""
    total = len(kinds)
    if total <= _HEAD + _AFTER + _TAIL:
        return [(0, total)] if total else []
    trained = kinds.index("trained") if "trained" in kinds else 0
    wanted = [(0, _HEAD), (trained - _BEFORE, trained + _AFTER), (total - _TAIL, total)]
    wanted += [(mark - _BEFORE, mark + _BEFORE) for mark in marks[:12]]
    merged: list[tuple[int, int]] = []
    for start, stop in sorted((max(0, start), min(total, stop)) for start, stop in wanted):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def plain_pieces(kind: Kind, text: str) -> list[Piece]:
    """A text that is no token row, its beginning where it is long."""
    more = len(text) - MOST_CHARACTERS
    shown = list(_seen(kind, text[:MOST_CHARACTERS]))
    return [*shown, Piece("mark", f"… {more:,} more characters …")] if more > 0 else shown


def _seen(kind: Kind, text: str) -> Iterator[Piece]:
    """`text` with each character that cannot be seen as a piece of its own."""
    end = 0
    for found in _HIDDEN.finditer(text):
        if found.start() > end:
            yield Piece(kind, text[end : found.start()])
        yield Piece(kind, f"U+{ord(found[0]):04X}", "hidden")
        end = found.end()
    if end < len(text):
        yield Piece(kind, text[end:])
