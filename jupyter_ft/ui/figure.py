"""The run as a plotly figure, to explore and to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jupyter_ft.event_log import Floats
from jupyter_ft.ui.thin import thin
from jupyter_ft.ui.watched import Past, Watched, change_text, past_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

POINTS = 5000
BAD, MARK = "#d64545", "#b7791f"


def figure(session: Watched) -> go.Figure:
    """Loss and learning rate over the steps, with a mark for each applied change and a red one where not finite."""
    import plotly.graph_objects as go  # half a second that only those who ask for it pay

    past = past_of(session)
    steps = thin(past.steps, POINTS)
    drawn = go.Figure(layout=_layout(session.name, past))
    drawn.add_trace(_line(go, steps, "loss", "y", "#3b82d6"))
    drawn.add_trace(_line(go, steps, "learning_rate", "y2", "#7c8794"))
    if past.bad_steps:
        drawn.add_trace(_bad(go, past))
    if past.changes:
        drawn.add_trace(_changes(go, past))
    return drawn


def _small(values: Floats) -> np.ndarray[Any, np.dtype[np.float32]]:
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return np.where(np.isfinite(narrow), narrow, np.float32(np.nan))  # plotly breaks a line at NaN, not at infinity


def _line(go: Any, steps: dict[str, Floats], name: str, axis: str, colour: str) -> Any:
    return go.Scatter(
        x=steps["step"].astype(np.int32),
        y=_small(steps[name]),
        name=name.replace("_", " "),
        yaxis=axis,
        mode="lines",
        line={"color": colour, "width": 1.5, "dash": "solid" if axis == "y" else "dot"},
        connectgaps=False,
    )


def _bad(go: Any, past: Past) -> Any:
    steps = np.asarray(past.bad_steps[:POINTS], dtype=np.int32)
    return go.Scatter(
        x=steps,
        y=np.zeros(len(steps), dtype=np.float32),
        yaxis="y3",
        mode="markers",
        name="not finite",
        marker={"color": BAD, "symbol": "line-ns-open", "size": 14, "line": {"width": 3, "color": BAD}},
        hovertemplate="step %{x}: not finite<extra></extra>",
    )


def _changes(go: Any, past: Past) -> Any:
    changes = past.changes[-POINTS:]
    return go.Scatter(
        x=np.asarray([change.step for change in changes], dtype=np.int32),
        y=np.full(len(changes), 0.97, dtype=np.float32),
        yaxis="y3",
        mode="markers",
        name="change",
        marker={"color": MARK, "symbol": "triangle-down", "size": 10},
        text=[f"step {change.step}: {_plain(change_text(change))}" for change in changes],
        hovertemplate="%{text}<extra></extra>",
    )


def _plain(text: str) -> str:
    return text.replace("<", "&lt;")  # plotly reads a little HTML in hover text


def _upright(step: int) -> dict[str, Any]:
    line = {"color": MARK, "width": 1, "dash": "dash"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": step, "x1": step, "y0": 0, "y1": 1, "line": line}


def _layout(name: str, past: Past) -> dict[str, Any]:
    return {
        "title": {"text": _plain(name)},
        "template": "plotly_white",
        "hovermode": "x unified",
        "height": 380,
        "margin": {"l": 60, "r": 60, "t": 50, "b": 45},
        "legend": {"orientation": "h", "y": 1.08, "x": 1, "xanchor": "right"},
        "shapes": [_upright(change.step) for change in past.changes[-200:]],
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
