"""Texts as token ids, and the token at which each edge in them stands: where the ids of the text up to there end.

That is where TRL's ids of the prompt alone part from those of the row (a token across an edge counts as after it). A
special token parts a text for the tokenizer, so only what stands between the last one and the edge is tokenised again.
In a conversation that is the header of the answer, which is the same in every row, and kept.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from .layout import Tokenizer, encode

_KEPT_LENGTH, _KEPT = 100, 1000  # characters, pieces


class _Piece(NamedTuple):
    """The text from the last special token before an edge, which is the text's `number`-th, up to the edge.

    Number 0: no special token precedes the edge, or one lies across it; the piece is all that comes before.
    """

    number: int
    text: str


class EdgeFinder:
    """Tokenises for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        # slow tokenizers treat what stands beside a special token in ways of their own
        added = tokenizer.added_tokens_decoder if getattr(tokenizer, "is_fast", False) else {}
        self._special = {t.content: number for number, t in added.items() if not (t.normalized or t.single_word)}
        self._numbers = frozenset(self._special.values())
        longest_first = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"\Z.")
        self._kept: dict[str, list[int]] = {}

    def tokenise(self, texts: Sequence[str], edges: Sequence[list[int]]) -> Iterator[tuple[list[int], dict[int, int]]]:
        """For each text its ids, and the token at each of its `edges` (characters, ascending, inside the text)."""
        special = [[*self._pattern.finditer(text)] if inner else [] for text, inner in zip(texts, edges, strict=True)]
        pieces = [
            [_piece(text, found, edge) for edge in inner]
            for text, found, inner in zip(texts, special, edges, strict=True)
        ]
        new = [*dict.fromkeys(p.text for p in chain.from_iterable(pieces) if p.text not in self._kept)]
        all_ids = encode(self.tokenizer, [*texts, *new])
        known = dict(zip(new, all_ids[len(texts) :], strict=True))
        for text, ids, found, own, inner in zip(texts, all_ids, special, pieces, edges, strict=False):
            places = [at for at, token in enumerate(ids) if token in self._numbers] if found else []
            if [ids[at] for at in places] != [self._special[one.group()] for one in found]:
                own[:] = [_Piece(0, text[:edge]) for edge in inner]
                known.update(zip((p.text for p in own), encode(self.tokenizer, [p.text for p in own]), strict=True))
            starts = [places[p.number - 1] if p.number else 0 for p in own]
            beginnings = [self._kept.get(p.text) or known[p.text] for p in own]
            tokens = [
                start + common_beginning(some, ids, start) for some, start in zip(beginnings, starts, strict=True)
            ]
            yield ids, dict(zip(inner, tokens, strict=True))
        if len(self._kept) > _KEPT:
            self._kept.clear()
        self._kept.update((text, ids) for text, ids in known.items() if len(text) <= _KEPT_LENGTH)


def _piece(text: str, special: list[re.Match[str]], edge: int) -> _Piece:
    before = bisect_right(special, edge, key=re.Match.end)
    across = before < len(special) and special[before].start() < edge
    return _Piece(before, text[special[before - 1].start() : edge]) if before and not across else _Piece(0, text[:edge])


def common_beginning(some: list[int], ids: list[int], start: int = 0) -> int:
    """How many tokens `some` shares with `ids` from `start` on.

    Not its length: the last token before an edge may be merged with what follows it.
    """
    if ids[start : start + len(some)] == some:
        return len(some)
    return next(at for at, token in enumerate(some) if start + at >= len(ids) or token != ids[start + at])
