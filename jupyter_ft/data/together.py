"""Rows whose texts are tokenised together, which is several times as fast as one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from .conversations import Turn
from .layout import LayoutError, Tokenizer, encode
from .render import Item, Tally


def encoded(
    some: Iterable[tuple[int, Item]], texts_of: Callable[[Item], Sequence[str]], tally: Tally, tokenizer: Tokenizer
) -> Iterator[tuple[int, Item, list[list[int]]]]:
    """Each row, after its number, with the token ids of its texts; those that the chat template refuses are dropped."""
    held: list[tuple[int, Item, int]] = []
    texts: list[str] = []
    for number, item in some:
        try:
            written = texts_of(item)
        except LayoutError as reason:
            tally.drop(number, str(reason))
            continue
        held.append((number, item, len(written)))
        texts += written
    ids = iter(encode(tokenizer, texts)) if texts else iter(())
    for number, item, count in held:
        yield number, item, list(islice(ids, count))


def below(system: str | None, turns: list[Turn]) -> list[Turn]:
    """`turns` with the system line before them, where they have none of their own."""
    return [{"role": "system", "content": system}, *turns] if system and turns[0]["role"] != "system" else turns
