"""Fewer rows, same picture: of each bucket of steps the lowest, the highest and the first that is not finite.

`Picture` keeps such rows of a run that grows without end: a bounded number of them, each a true row of the run. When
there are too many the buckets become twice as wide; the extremes of two buckets hold those of both, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
BUCKETS = 4096
MOST_ROWS = 8 * BUCKETS  # two and a half times what is left after thinning by two columns


def extremes(buckets: NDArray[Any], watched: Sequence[Floats]) -> Indices:
    """Indices, in order, of the rows to keep: at most `2 * len(watched) + 1` a bucket, and the first and last of all.

    `buckets` holds the bucket of each row and never falls; `watched` are the columns whose peaks must survive.
    """
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[:1] - 1))
    sizes = np.diff(starts, append=len(buckets))
    kept = [np.array([0, len(buckets) - 1], dtype=np.intp)]
    kept.append(_first_of_each(buckets, np.any([~np.isfinite(values) for values in watched], axis=0)))
    for values in watched:
        for signed in (values, -values):
            low = np.where(np.isfinite(values), signed, np.inf)
            kept.append(_first_of_each(buckets, low == np.repeat(np.minimum.reduceat(low, starts), sizes)))
    return np.unique(np.concatenate(kept))


def _first_of_each(buckets: NDArray[Any], wanted: NDArray[np.bool_]) -> Indices:
    hits = np.flatnonzero(wanted)
    return hits[np.unique(buckets[hits], return_index=True)[1]]


class Picture:
    """At most `MOST_ROWS` rows of a run and their numbers in it, column by column: `columns` is (columns, rows).

    The first `taken` rows of the run are in it; a bucket is `width` rows (at 1 all are kept).
    """

    def __init__(self, watched: Sequence[int]) -> None:
        self._watched = watched
        self.numbers: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.columns: Floats = np.empty((0, 0))
        self.taken, self.width = 0, 1

    def extend(self, columns: Floats) -> None:
        """Take the next rows of the run; what was taken before is NaN in columns that are new."""
        missing = len(columns) - len(self.columns)
        old = np.pad(self.columns, ((0, missing), (0, 0)), constant_values=np.nan) if missing else self.columns
        numbers = np.arange(self.taken, self.taken + columns.shape[1])
        self.columns = np.concatenate([old, columns], axis=1)
        self.numbers = np.concatenate([self.numbers, numbers])
        self.taken += columns.shape[1]
        if len(self.numbers) > MOST_ROWS:
            self._thin()

    def _thin(self) -> None:
        while (self.taken - 1) // self.width >= BUCKETS:
            self.width *= 2
        kept = extremes(self.numbers // self.width, [self.columns[column] for column in self._watched])
        self.numbers, self.columns = self.numbers[kept], np.ascontiguousarray(self.columns[:, kept])

    def border(self, row: int) -> int:
        """The first row at or after `row` where a bucket begins."""
        return -(-row // self.width) * self.width

    def since(self, row: int) -> Floats:
        """The kept rows from number `row` on."""
        return self.columns[:, np.searchsorted(self.numbers, row) :]

    def cut(self, rows: int) -> None:
        """Forget the rows from number `rows` on, and those of its bucket before it: these have to be taken again."""
        if rows < self.taken:
            self.taken = rows // self.width * self.width
            kept = int(np.searchsorted(self.numbers, self.taken))
            self.numbers, self.columns = self.numbers[:kept], self.columns[:, :kept]
