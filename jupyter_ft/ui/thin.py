"""Fewer points for a plot: the lowest and highest of each stretch of steps, and points that are not finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jupyter_ft.picture import Floats, extremes

WATCHED = ("loss", "grad_norm")
"""Columns whose peaks must survive; the others are taken at the same rows."""


def thin(columns: dict[str, Floats], limit: int, watched: Sequence[str] = WATCHED) -> dict[str, Floats]:
    """At most `limit` rows of `columns`, of which one is `step`. Each row that is left is a true one, at its true step.

    Stretches are as long in steps, whatever the rows: those of a long run lie closer together at its end.
    """
    steps = columns.get("step", np.empty(0))
    if len(steps) <= limit:
        return columns
    peaks = [columns[name] for name in watched if name in columns]
    bad = not all(np.isfinite(values).all() for values in peaks)
    stretches = max(1, (limit - 2) // (2 * len(peaks) + bad))
    kept = extremes(np.floor((steps - steps[0]) * (stretches / (steps[-1] - steps[0] + 1))), peaks)
    return {name: values[kept] for name, values in columns.items()}
