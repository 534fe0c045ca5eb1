"""The run as a plotly figure, to explore and to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jupyter_ft.event_log import Floats
from jupyter_ft.ui.curve import BAD, HELD_OUT, INK, LINE, MARK
from jupyter_ft.ui.thin import thin
from jupyter_ft.ui.watched import Past, Watched, change_text, held_out, past_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

POINTS = 5000
ALWAYS = {"loss", "learning rate"}  # drawn before there is a step


def figure(session: Watched) -> go.Figure:
    """Losses and learning rate over the steps, a mark for each applied change and a red one where not finite."""
    import plotly.graph_objects as go  # half a second that only those who ask for it pay

    past = past_of(session)
    drawn = [trace for trace in traces(past, POINTS) if len(trace["x"]) or trace["name"] in ALWAYS]
    return go.Figure([go.Scatter(**trace) for trace in drawn], layout=layout(session.name, past))


def traces(past: Past, limit: int) -> list[dict[str, Any]]:
    """The arguments of each `plotly.graph_objects.Scatter`, in the same order always, of `limit` points at most."""
    steps = thin(past.steps, limit)
    scored, losses = (np.asarray(part[-limit:], dtype=float) for part in held_out(past))
    evaluated = _line("eval_loss", scored, losses, "y", HELD_OUT)
    return [
        _line("loss", steps["step"], steps["loss"], "y", LINE),
        evaluated | {"mode": "lines+markers", "marker": {"size": 6}},
        _line("learning_rate", steps["step"], steps["learning_rate"], "y2", INK),
        _bad(past, limit),
        _changes(past, limit),
        _abandoned(past.abandoned, limit),
    ]


def _abandoned(pieces: list[tuple[Floats, Floats]], limit: int) -> dict[str, Any]:
    """What was taken back, dimmed: one line, broken between the pieces."""
    steps, losses = in_one_line(pieces, limit)
    return _line("taken back", steps, losses, "y", LINE) | {"opacity": 0.35, "hoverinfo": "skip"}


def in_one_line(pieces: list[tuple[Floats, Floats]], limit: int) -> tuple[Floats, Floats]:
    """The pieces one after the other with a gap between them, of `limit` points about in all."""
    drawn = [thin({"step": step, "loss": loss}, max(8, limit // len(pieces))) for step, loss in pieces]
    gap = np.full(1, np.nan)
    steps = [part for one in drawn for part in (one["step"], one["step"][-1:])]
    return np.concatenate([gap[:0], *steps]), np.concatenate(
        [gap[:0], *(p for one in drawn for p in (one["loss"], gap))]
    )


def _small(values: Floats) -> np.ndarray[Any, np.dtype[np.float32]]:
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return np.where(np.isfinite(narrow), narrow, np.float32(np.nan))  # plotly breaks a line at NaN, not at infinity


def _line(name: str, steps: Floats, values: Floats, axis: str, colour: str) -> dict[str, Any]:
    return {
        "x": steps.astype(np.int32),
        "y": _small(values),
        "name": name.replace("_", " "),
        "yaxis": axis,
        "mode": "lines",
        "line": {"color": colour, "width": 1.5, "dash": "solid" if axis == "y" else "dot"},
        "connectgaps": False,
        "showlegend": bool(len(steps)),
    }


def _bad(past: Past, limit: int) -> dict[str, Any]:
    """Red marks on an axis of their own: a step that was refused has no loss, which is not a loss of 0."""
    steps = np.asarray(past.bad_steps[-limit:], dtype=np.int32)
    rows = {refusal.step: refusal.rows for refusal in past.refused if refusal.rows}
    return {
        "x": steps,
        "y": np.zeros(len(steps), dtype=np.float32),
        "yaxis": "y3",
        "mode": "markers",
        "name": "not finite",
        "marker": {"color": BAD, "symbol": "line-ns-open", "size": 14, "line": {"width": 3, "color": BAD}},
        "text": [_rows_text(rows.get(int(step), [])) for step in steps],
        "hovertemplate": "step %{x}: not finite%{text}<extra></extra>",
        "showlegend": bool(len(steps)),
    }


def _rows_text(rows: list[int]) -> str:
    listed = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
    return f" (rows {listed})" if rows else ""


def _changes(past: Past, limit: int) -> dict[str, Any]:
    changes = past.changes[-limit:]
    return {
        "x": np.asarray([change.step for change in changes], dtype=np.int32),
        "y": np.full(len(changes), 0.97, dtype=np.float32),
        "yaxis": "y3",
        "mode": "markers",
        "name": "change",
        "marker": {"color": MARK, "symbol": "triangle-down", "size": 10},
        "text": [f"step {change.step}: {_plain(change_text(change))}" for change in changes],
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": bool(len(changes)),
    }


def _plain(text: str) -> str:
    return text.replace("<", "&lt;")  # plotly reads a little HTML in hover text


def _upright(step: int) -> dict[str, Any]:
    line = {"color": MARK, "width": 1, "dash": "dash"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": step, "x1": step, "y0": 0, "y1": 1, "line": line}


def shapes(past: Past) -> list[dict[str, Any]]:
    """A dashed line for each change."""
    return [_upright(step) for step in sorted({change.step for change in past.changes})[-200:]]


def layout(name: str, past: Past) -> dict[str, Any]:
    """The arguments of `plotly.graph_objects.Layout`."""
    return {
        "title": {"text": _plain(name)},
        "template": "plotly_white",
        "hovermode": "x unified",
        "height": 380,
        "margin": {"l": 60, "r": 60, "t": 50, "b": 45},
        "legend": {"orientation": "h", "y": 1.08, "x": 1, "xanchor": "right"},
        "shapes": shapes(past),
        "xaxis": {"title": {"text": "step"}},
        "yaxis": {"title": {"text": "loss"}},
        "yaxis2": {
            "title": {"text": "learning rate"},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "rangemode": "tozero",
            "tickmode": "auto",  # the template's `sync` puts ticks at odd values
            "exponentformat": "e",
        },
        "yaxis3": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    }
