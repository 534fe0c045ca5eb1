"""How a figure is printed: both sides, their ratio, the aim."""

from __future__ import annotations

import statistics


def report(what: str, ours: list[float], theirs: list[float], unit: str, aim: str) -> None:
    """One line: both medians, their ratio, and the spread of the windows where there are several."""
    a, b = statistics.median(ours), statistics.median(theirs)
    line = f"{what}: {a:.3f} {unit} against {b:.3f} {unit} = {a / b:.3f} ({aim})"
    if len(ours) > 1:
        line += f"; windows {min(ours):.3f}-{max(ours):.3f} against {min(theirs):.3f}-{max(theirs):.3f}"
    print(line, flush=True)


def percentile(values: list[float], at: int) -> float:
    """The value below which `at` percent (1 to 99) of them lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[at - 1]
