"""Figures over token rows in an Arrow file: lengths, the share that is trained, and rows that are the same.

Batch by batch on arrays, so that a million rows take seconds, and without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pieces import parts
from .render import UNTRAINED

Keys = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class TokenRows:
    """The rows of an Arrow file that `TokenFile` wrote, mapped into memory; `numbers` are the user's, from 1."""

    def __init__(self, path: Path, numbers: Numbers | None = None) -> None:
        import pyarrow

        self.table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
        self.numbers = np.arange(1, len(self.table) + 1) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.table.slice(index, 1).to_pylist()[0]
        return row


@dataclass(frozen=True)
class Figures:
    """Of each row: its length in tokens as it is trained on, 64 bits of all its tokens, and of those of its prompt.

    `tokens` and `trained` are sums. A row without a prompt has 0 for it.
    """

    lengths: NDArray[np.int64]
    keys: Keys
    prompts: Keys
    tokens: int
    trained: int


def measure(rows: TokenRows, max_length: int) -> Figures:
    """The figures of all rows; a prompt and each of its answers are cut together at `max_length` tokens."""
    found = [_of_batch(batch, max_length) for batch in rows.table.to_batches() if len(batch)]
    lengths, keys, prompts = (np.concatenate([one[part] for one in found]) for part in range(3))
    return Figures(lengths, keys, prompts, sum(one[3] for one in found), sum(one[4] for one in found))


def _of_batch(batch: Any, max_length: int) -> tuple[NDArray[np.int64], Keys, Keys, int, int]:
    import pyarrow

    lists = {
        name: _flat(batch.column(name))
        for name in batch.schema.names
        if pyarrow.types.is_list(batch.schema.field(name).type)
    }
    of = parts(list(lists))
    used = sum((np.diff(lists[name][1]) for name in of.given), np.zeros(len(batch), np.int64))
    longest, tokens, trained = used.copy(), 0, 0
    for name in of.answers:
        kept = np.minimum(used + np.diff(lists[name][1]), max_length)
        longest = np.maximum(longest, kept)
        tokens += int(kept.sum())
        trained += int((kept - used).clip(0).sum())
    if not of.answers:  # prompts whose answers are to be generated
        tokens = int(used.sum())
    keys = _hashed(lists, (*of.given, *of.answers), None)
    given = lists["labels"][0] == UNTRAINED if "labels" in lists and "input_ids" in lists else None
    if given is not None:
        trained = int(len(given) - given.sum())
        return longest, keys, _hashed(lists, ("input_ids",), given), tokens, trained
    return longest, keys, _hashed(lists, of.given, None), tokens, trained


def _flat(column: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The values of all lists, and where each begins among them (one more than there are lists)."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    return column.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


def _hashed(
    lists: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
    names: tuple[str, ...],
    only: NDArray[np.bool_] | None,
) -> Keys:
    """64 bits for each row, of the tokens of some columns and where they stand; of the positions in `only` alone."""
    rows = len(next(iter(lists.values()))[1]) - 1
    total = np.zeros(rows, np.uint64)
    for salt, name in enumerate(names, 1):
        values, offsets = lists[name]
        at = np.arange(len(values)) - np.repeat(offsets[:-1], np.diff(offsets))
        mixed = _mixed(
            values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _mixed((at * 4 + salt).astype(np.uint64))
        )
        if only is not None:
            mixed[~only] = 0
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        total += sums[offsets[1:]] - sums[offsets[:-1]]
    return total


def _mixed(bits: Keys) -> Keys:
    """Each number stirred (the end of splitmix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def repeats(keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows (from 0) whose key an earlier row has, and for each the first row that has it."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[group] != np.arange(len(keys)))
    return again, first[group][again]


def answered_otherwise(figures: Figures) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows (from 0) that ask what an earlier row asks and are answered otherwise, and those earlier rows."""
    distinct = np.sort(np.unique(figures.keys, return_index=True)[1])
    asked = distinct[figures.prompts[distinct] != 0]
    again, first = repeats(figures.prompts[asked])
    return asked[again], asked[first]
