"""Fewer points, same picture: the lowest and highest of each bucket, and every point that is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jupyter_ft.event_log import Floats

Indices = NDArray[np.intp]
WATCHED = ("loss", "grad_norm")
"""Columns whose peaks must survive; the others are taken at the same rows."""


def thin(columns: dict[str, Floats], limit: int, watched: Sequence[str] = WATCHED) -> dict[str, Floats]:
    """At most `limit` rows of `columns`. Each row that is left is a true one, at its true step."""
    rows = len(next(iter(columns.values()), np.empty(0)))
    if rows <= limit:
        return columns
    kept = rows_to_keep([columns[name] for name in watched if name in columns], rows, limit)
    return {name: values[kept] for name, values in columns.items()}


def rows_to_keep(watched: Sequence[Floats], rows: int, limit: int) -> Indices:
    """Indices, in order, of at most `limit` rows: first, last, bucket extremes, and what is not finite."""
    if not watched:
        return _spread(np.arange(rows, dtype=np.intp), limit)
    strange: Indices = np.flatnonzero(np.any([~np.isfinite(values) for values in watched], axis=0))
    few = _spread(strange, limit // 4)
    buckets = max(1, (limit - 2 - len(few)) // (2 * len(watched)))
    ends = np.array([0, rows - 1], dtype=np.intp)
    return np.unique(np.concatenate([ends, few, *(_extremes(values, buckets) for values in watched)]))


def _spread(indices: Indices, most: int) -> Indices:
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).astype(np.intp)]


def _extremes(values: Floats, buckets: int) -> Indices:
    width = -(-len(values) // buckets)
    room = np.full(width * -(-len(values) // width), np.nan)
    room[: len(values)] = np.where(np.isfinite(values), values, np.nan)
    table = room.reshape(-1, width)
    starts = np.arange(len(table), dtype=np.intp) * width
    low = starts + np.argmin(np.where(np.isnan(table), np.inf, table), axis=1)
    high = starts + np.argmax(np.where(np.isnan(table), -np.inf, table), axis=1)
    return np.concatenate([low, high]).clip(max=len(values) - 1)
