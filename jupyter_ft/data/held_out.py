"""Rows kept apart to evaluate on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from jupyter_ft.errors import DataError

from .formats import Examples, normalise
from .read import read


def hold_out(
    examples: Examples, held_out: float | str | None, columns: Mapping[str, str], seed: int
) -> tuple[Examples, Examples | None]:
    """The rows to train on and those to evaluate on."""
    if held_out is None:
        return examples, None
    if isinstance(held_out, str):
        return examples, normalise(read(held_out), columns)
    total = len(examples.rows)
    wanted = max(1, round(held_out * total)) if held_out < 1 else int(held_out)
    if wanted >= total:
        raise DataError(f"held_out: {held_out:g} of {total} rows leaves none to train on")
    chosen = set(random.Random(seed).sample(range(total), wanted))
    kept = [row for index, row in enumerate(examples.rows) if index not in chosen]
    held = [row for index, row in enumerate(examples.rows) if index in chosen]
    return replace(examples, rows=kept), replace(examples, rows=held)
