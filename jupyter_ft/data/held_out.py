"""Rows kept apart from training, to evaluate on."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from jupyter_ft.errors import DataError

from .formats import Examples, normalise
from .read import Report, read


def hold_out(
    examples: Examples, held_out: float | str | None, columns: Mapping[str, str], seed: int, method: str = "sft"
) -> tuple[Examples, Examples | None]:
    """The rows to train on, in their order, and those to evaluate on (None where none are asked for).

    `held_out` is a share (0 < x < 1) or a number of rows (1, 2, …), drawn by `seed` alone, or names a split of the data
    set or other data, which `columns` are mapped in as well. Equal rows are kept on one side, so that nothing is
    evaluated that was trained on; the sentence about the rows held out says how many there are. Raises `DataError`
    where one side would be empty, and as `read` and `normalise` do.
    """
    if held_out is None:
        return examples, None
    if isinstance(held_out, str):
        return examples, examples.beside.get(held_out) or elsewhere(examples, held_out, columns, method=method)
    total = len(examples.rows)
    wanted = max(1, round(held_out * total)) if held_out < 1 else int(held_out)
    asked = f"held_out: {held_out:g}"
    if wanted >= total:
        raise DataError(
            f"{asked} of {examples.name}, which has {_rows(total)}, leaves none to train on; hold out fewer"
        )
    chosen, repeats = _chosen(examples, wanted, seed)
    if not chosen.any() or chosen.all():
        raise DataError(f"{asked}: all rows of {examples.name} are the same; hold out another file")
    train, test = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    said = f"{_rows(len(test))} of {total:,} held out from {examples.name} (seed {seed})"
    if repeats:
        said += f"; {repeats:,} {'repeats' if repeats > 1 else 'repeat'} of another row kept on its side"
    kept, apart = (
        replace(examples, rows=examples.rows.subset(map(int, side)), numbers=side + 1) for side in (train, test)
    )
    return kept, replace(apart, said=said, notes=())


def _chosen(examples: Examples, wanted: int, seed: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], int]:
    """Which rows are held out, and how many repeat an earlier one. Groups of equal rows are drawn whole."""
    keys = np.frombuffer(examples.rows.keys, np.uint64)
    _, first, group, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    order = array("Q", np.argsort(first).tolist())  # by first appearance, not by hash
    random.Random(seed).shuffle(order)
    drawn = np.zeros(len(sizes), np.bool_)
    count = 0
    for number in order:
        if count + sizes[number] <= wanted:
            drawn[number] = True
            count += int(sizes[number])
        if count == wanted:
            break
    if not count and len(sizes) > 1:  # every group is larger than what is wanted
        drawn[int(np.argmin(sizes))] = True
    return drawn[group], len(keys) - len(sizes)


def elsewhere(
    examples: Examples,
    name: str,
    columns: Mapping[str, str],
    progress: Report | None = None,
    method: str = "sft",
) -> Examples:
    """The rows of other data that are held out. Raises `DataError` as `read` does, or where their format is another."""
    try:
        found = normalise(read(name, progress, method), columns, progress, method)
    except DataError as error:
        raise DataError(f"held_out: {error}") from None
    return of_same_format(found, examples, name)


def of_same_format(found: Examples, examples: Examples, name: str) -> Examples:
    """`found`, where its rows are of the format of `examples`; else `DataError`."""
    if found.format != examples.format:
        raise DataError(
            f"held_out: {name} holds {found.format} rows and {examples.name} {examples.format} rows; "
            "give both the same columns"
        )
    return replace(found, said=f"{_rows(len(found.rows))} held out: {found.said}")


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"
