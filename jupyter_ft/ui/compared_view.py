"""A comparison of runs, drawn: a plotly figure to explore, a picture without scripts, tables, and text.

All that comes from people, files and models (names, settings, prompts, answers) is escaped.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from IPython.display import display

from jupyter_ft.ui.curve import HEIGHT, INK, LEFT, RIGHT, TOP, WIDTH, axes, bounds, path_of
from jupyter_ft.ui.figure import in_one_line
from jupyter_ft.ui.race import BOTTOM, COLOURS
from jupyter_ft.ui.thin import thin
from jupyter_ft.ui.views import in_a_kernel
from jupyter_ft.ui.watched import change_text, printable, shown

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from jupyter_ft.event_log import Floats
    from jupyter_ft.ui.compared import Looked, RunComparison

POINTS = 20_000  # of all curves of the figure
IN_PICTURE = 400  # points of a curve in the picture
ROWS_SHOWN, PROMPTS_SHOWN, ANSWERS_SHOWN = 100, 20, 8
LONGEST = 1000  # characters of an answer that are shown
_STYLE = (
    ".jft-compare table{border-collapse:collapse;font-size:13px;margin:.5em 0}"
    ".jft-compare :is(td,th){padding:2px 10px;text-align:left;vertical-align:top}"
    ".jft-compare .said td{max-width:26em;white-space:pre-wrap;overflow-wrap:anywhere}"
)


# --- the figure -------------------------------------------------------------------------------------------------------


def comparison_figure(runs: Sequence[Looked]) -> go.Figure:
    """The curves of `runs`, thinned so that all together stay within some tens of thousands of points."""
    import plotly.graph_objects as go

    limit = max(100, POINTS // max(1, len(runs)))
    drawn = [trace for number, run in enumerate(runs) for trace in _traces(run, COLOURS[number % len(COLOURS)], limit)]
    return go.Figure(
        [go.Scatter(**trace) for trace in drawn],
        layout={
            "template": "plotly_white",
            "height": 420,
            "hovermode": "closest",
            "margin": {"l": 60, "r": 20, "t": 30, "b": 45},
            "xaxis": {"title": {"text": "step"}},
            "yaxis": {"title": {"text": "loss"}},
        },
    )


def _traces(run: Looked, colour: str, limit: int) -> list[dict[str, Any]]:
    """The loss, what was scored on held-out rows, the edits on the curve, and dimmed what was taken back."""
    name = printable(run.name).replace("<", "&lt;")  # plotly reads a little HTML in names
    steps, losses = _thinned(*run.curve, limit)
    alike: dict[str, Any] = {"legendgroup": str(run.folder), "connectgaps": False}
    marks = run.edits[-limit:]
    scored = [event for event in run.scored[-limit:] if "eval_loss" in event.metrics]
    left = in_one_line(run.left, limit)
    traces: list[dict[str, Any]] = [
        {"name": name, "x": steps, "y": losses, "mode": "lines", "line": {"color": colour, "width": 1.5}},
        {
            "name": f"{name}, held out",
            "x": [event.step for event in scored],
            "y": [event.metrics["eval_loss"] for event in scored],
            "mode": "lines+markers",
            "line": {"color": colour, "width": 1.5, "dash": "dash"},
            "marker": {"size": 5},
        },
        {
            "name": f"{name}, changed",
            "x": [mark.step for mark in marks],
            "y": _heights([mark.step for mark in marks], *run.curve),
            "mode": "markers",
            "marker": {"color": colour, "symbol": "triangle-down", "size": 11, "line": {"color": "#fff", "width": 1}},
            "text": [f"step {mark.step}: {printable(change_text(mark)).replace('<', '&lt;')}" for mark in marks],
            "hovertemplate": "%{text}<extra></extra>",
        },
        {
            "name": f"{name}, taken back",
            "x": left[0],
            "y": left[1],
            "mode": "lines",
            "line": {"color": colour, "width": 1.5},
            "opacity": 0.35,
            "hoverinfo": "skip",
        },
    ]
    kept = [trace for number, trace in enumerate(traces) if number == 0 or len(trace["x"])]
    return [trace | alike | {"showlegend": number == 0} for number, trace in enumerate(kept)]


def _thinned(steps: Floats, losses: Floats, limit: int) -> tuple[Floats, Floats]:
    some = thin({"step": steps, "loss": losses}, limit, watched=("loss",))
    return some["step"], np.where(np.isfinite(some["loss"]), some["loss"], np.nan)


def _heights(at: Sequence[int], steps: Floats, losses: Floats) -> list[float]:
    """The loss at each of these steps; of one that is not done yet, the last."""
    if not len(steps):
        return [0.0] * len(at)
    return [float(losses[min(int(np.searchsorted(steps, step)), len(losses) - 1)]) for step in at]


# --- the picture ------------------------------------------------------------------------------------------------------


def picture(runs: Sequence[Looked]) -> str:
    """The curves as one `<img>`, which stays where a notebook is not trusted."""
    drawn = [(number, run, *_thinned(*run.curve, IN_PICTURE)) for number, run in enumerate(runs)]
    everything = np.concatenate([np.empty(0), *(losses for *_, losses in drawn)])
    if not np.isfinite(everything).any():
        return "<p>No step yet.</p>"
    low, high = bounds(everything[np.isfinite(everything)])
    pieces = [(number, *_thinned(*piece, IN_PICTURE)) for number, run, *_ in drawn for piece in run.left]
    ends = [steps[-1:] for _, _, steps, _ in drawn] + [steps[-1:] for _, steps, _ in pieces]
    last = float(np.concatenate(ends).max())

    def across(steps: Floats) -> Floats:
        return np.asarray(LEFT + (steps - 1) / max(1.0, last - 1) * (WIDTH - LEFT - RIGHT))

    def down(losses: Floats) -> Floats:
        return np.asarray(TOP + (high - losses) / (high - low) * (HEIGHT - TOP - BOTTOM))

    inside = [axes(low, high, 1, int(last))]
    for number, steps, losses in pieces:
        inside.append(_path(number, path_of(across(steps), down(np.clip(losses, low, high))), " opacity='.35'"))
    for number, run, steps, losses in drawn:
        inside.append(_path(number, path_of(across(steps), down(losses))))
        at = np.asarray([mark.step for mark in run.edits[-200:]], dtype=float)
        heights = down(np.asarray(_heights([int(step) for step in at], *run.curve)))
        inside += [_dot(number, x, y) for x, y in zip(across(at), heights, strict=True) if np.isfinite(y)]
    head = f"xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}'"
    svg = f"<svg {head} font-family='system-ui,sans-serif' font-size='11' fill='{INK}'>{''.join(inside)}</svg>"
    label = f"Losses of {len(drawn)} runs up to step {int(last)}"
    return f"<img alt='{label}' width='{WIDTH}' src='data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}'>"


def _path(number: int, path: str, more: str = "") -> str:
    return f"<path d='{path}' fill='none' stroke='{COLOURS[number % len(COLOURS)]}' stroke-width='1.5'{more}/>"


def _dot(number: int, x: float, y: float) -> str:
    return f"<circle class='mark' cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{COLOURS[number % len(COLOURS)]}'/>"


# --- tables and text --------------------------------------------------------------------------------------------------


def tables_html(told: RunComparison) -> str:
    """What is to be said, the runs, and the answers to their probes."""
    rows = told.rows
    colour = {run.name: COLOURS[number % len(COLOURS)] for number, run in enumerate(told.runs)}
    names = list(dict.fromkeys(name for row in rows for name in row))
    body = []
    for row in rows[:ROWS_SHOWN]:
        mark = f"<span style='color:{colour[row['run']]}'>■</span> "
        cells = [escape(_cell(row.get(name, math.nan))) for name in names]
        body.append([mark + cells[0], *cells[1:]])
    notes = [*told.notes, *([f"the first {ROWS_SHOWN} of {len(rows)} runs"] if len(rows) > ROWS_SHOWN else [])]
    said = "".join(f"<p>{escape(printable(note))}</p>" for note in notes)
    return f"<style>{_STYLE}</style>{said}{_table(names, body)}{_probes(told)}"


def comparison_html(told: RunComparison) -> str:
    """All of it without scripts."""
    from jupyter_ft.ui.compared import MOST_CURVES

    return f"<div class='jft-compare'>{picture(told.runs[:MOST_CURVES])}{tables_html(told)}</div>"


def _probes(told: RunComparison) -> str:
    asked = told.answers[:PROMPTS_SHOWN]
    if not asked:
        return ""
    who = list(dict.fromkeys(name for said in asked for name in said if name != "prompt"))
    who = ["base"] * ("base" in who) + [name for name in who if name != "base"][:ANSWERS_SHOWN]
    body = [[escape(printable(said.get(name, "–")[:LONGEST])) for name in ("prompt", *who)] for said in asked]
    return _table(["probe", *who], body, " class='said'")


def _table(names: Iterable[str], rows: Sequence[Sequence[str]], about: str = "") -> str:
    head = "".join(f"<th>{escape(printable(name))}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table{about}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "–"
    text = " ".join(printable(shown(value)).split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def comparison_text(told: RunComparison) -> str:
    """The tables as lines."""
    rows = told.rows
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name, math.nan)) for name in names] for row in rows[:ROWS_SHOWN])]
    widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
    lines = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in cells]
    for said in told.answers[:PROMPTS_SHOWN]:
        lines += ["", f"> {printable(said['prompt'])}"]
        lines += [f"  {name}: {printable(text[:LONGEST])}" for name, text in said.items() if name != "prompt"]
    return "\n".join([*(printable(note) for note in told.notes), *lines])


def show_comparison(told: RunComparison) -> None:
    """In a notebook the figure and below it the tables; elsewhere the text."""
    from jupyter_ft.ui.compared import MOST_CURVES

    if not in_a_kernel():
        print(comparison_text(told))  # noqa: T201 - a terminal is shown text
        return
    drawn = f"<div class='jft-compare'>{picture(told.runs[:MOST_CURVES])}</div>"
    figure = {"application/vnd.plotly.v1+json": json.loads(told.figure.to_json()), "text/html": drawn}
    display(figure | {"text/plain": f"losses of {len(told.runs)} run{'s' * (len(told.runs) > 1)}"}, raw=True)
    below = f"<div class='jft-compare'>{tables_html(told)}</div>"
    display({"text/html": below, "text/plain": comparison_text(told)}, raw=True)
