"""The loss curve as a picture without scripts, for where nothing else can be drawn."""

from __future__ import annotations

from base64 import b64encode
from html import escape

import numpy as np

from jupyter_ft.event_log import Floats
from jupyter_ft.ui.thin import thin
from jupyter_ft.ui.watched import Past, held_out, shown

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 26  # of the plot, around its axes
POINTS = 1200
LINE, HELD_OUT, BAD, MARK, INK = "#3b82d6", "#2f9e6e", "#d64545", "#b7791f", "#7c8794"  # seen on white and on black


def curve_image(past: Past) -> str:
    """The curve as one `<img>`: it stays where a notebook that is not trusted loses inline SVG and styles."""
    if not len(past.steps["loss"]):
        return "<p class='dim'>No step yet.</p>"
    x, y = past.steps["step"], past.steps["loss"]
    label = f"Loss from step {int(x[0])} to {int(x[-1])}, last {shown(float(y[-1]))}"
    source = b64encode(curve_svg(past).encode()).decode()
    return f"<img class='curve' alt='{escape(label)}' width='{WIDTH}' src='data:image/svg+xml;base64,{source}'>"


def curve_svg(past: Past) -> str:
    """The loss as SVG: broken where not finite, red ticks there, a dashed line per change, the held-out loss green."""
    steps = thin(past.steps, POINTS, watched=("loss",))
    x, y = steps["step"], steps["loss"]
    scored, losses = (np.asarray(part, dtype=float) for part in held_out(past))
    everything = np.concatenate([y, losses])
    low, high = bounds(everything[np.isfinite(everything)])
    left = [thin({"step": step, "loss": loss}, POINTS // 4, watched=("loss",)) for step, loss in past.abandoned]
    ends = np.asarray([x[0], max([x[-1], *(one["step"][-1] for one in left)])])
    peaks = [float(loss) for one in left for loss in one["loss"] if np.isfinite(loss)]
    high = min(2 * high - low, max([high, *peaks]))  # what was taken back has often run away

    def down(values: Floats) -> Floats:
        return np.asarray(TOP + (high - values) / (high - low) * (HEIGHT - TOP - BOTTOM))

    def across(steps: Floats) -> Floats:
        return np.asarray(LEFT + (steps - ends[0]) / max(1.0, ends[1] - ends[0]) * (WIDTH - LEFT - RIGHT))

    inside = [
        axes(low, high, int(ends[0]), int(ends[1])),
        *(_left(across(one["step"]), down(np.clip(one["loss"], low, high))) for one in left),
        f"<path d='{path_of(across(x), down(y))}' fill='none' stroke='{LINE}' stroke-width='1.4'/>",
        *_held_out([_at(int(step), ends) for step in scored], down(losses)),
        *(_tick(step, ends) for step in past.bad_steps[:200]),
        *(_mark(step, ends) for step in sorted({change.step for change in past.changes})[-200:]),
    ]
    head = f"xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}'"
    return f"<svg {head} font-family='system-ui,sans-serif' font-size='11' fill='{INK}'>{''.join(inside)}</svg>"


def _left(across: Floats, down: Floats) -> str:
    """What was taken back, dimmed."""
    return f"<path class='left' d='{path_of(across, down)}' fill='none' stroke='{LINE}' opacity='.35'/>"


def _held_out(across: list[float], down: Floats) -> list[str]:
    if not across:
        return []
    path = path_of(np.asarray(across), down)
    dots = [
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.4' fill='{HELD_OUT}'/>"
        for x, y in zip(across, down, strict=True)
        if np.isfinite(y)
    ]
    return [f"<path d='{path}' fill='none' stroke='{HELD_OUT}' stroke-width='1.4'/>", *dots[-200:]]


def bounds(finite: Floats) -> tuple[float, float]:
    """The lowest and highest value of a plot, with a margin."""
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    pad = 0.06 * (high - low) or max(abs(high) * 0.1, 0.1)
    return low - pad, high + pad


def path_of(across: Floats, down: Floats) -> str:
    """The `d` of a path through points in pixels, broken where one is not finite."""
    pieces, pen_up = [], True
    for x, y in zip(across, down, strict=True):
        if np.isfinite(y):
            pieces.append(f"{'M' if pen_up else 'L'}{x:.1f} {y:.1f}")
        pen_up = not np.isfinite(y)
    return "".join(pieces)


def _at(step: int, x: Floats) -> float:
    first, last = float(x[0]), float(x[-1])
    return LEFT + min(1.0, max(0.0, (step - first) / max(1.0, last - first))) * (WIDTH - LEFT - RIGHT)


def _tick(step: int, x: Floats) -> str:
    at, top = _at(step, x), HEIGHT - BOTTOM
    line = f"x1='{at:.1f}' x2='{at:.1f}' y1='{top - 12}' y2='{top}' stroke='{BAD}' stroke-width='2.5'"
    return f"<line class='bad' {line}/>"


def _mark(step: int, x: Floats) -> str:
    at = _at(step, x)
    line = f"x1='{at:.1f}' x2='{at:.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}' stroke='{MARK}'"
    return f"<line class='mark' {line} stroke-dasharray='4 3'/>"


def axes(low: float, high: float, first: int, last: int) -> str:
    """Axes with three ticks each."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = [f"<path d='M{LEFT} {TOP}V{bottom}H{right}' fill='none' stroke='{INK}' opacity='.6'/>"]
    for part in (0.0, 0.5, 1.0):
        y, x = TOP + (1 - part) * (bottom - TOP), LEFT + part * (right - LEFT)
        drawn.append(
            f"<text x='{LEFT - 6}' y='{y + 4:.0f}' text-anchor='end'>{shown(low + part * (high - low))}</text>"
        )
        anchor = ("start", "middle", "end")[int(part * 2)]
        step = round(first + part * (last - first))
        drawn.append(f"<text x='{x:.0f}' y='{HEIGHT - 8}' text-anchor='{anchor}'>{step}</text>")
    return "".join(drawn)
