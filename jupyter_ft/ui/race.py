"""A race as one picture and one table, kept up to date in the cell that shows it."""

from __future__ import annotations

import math
import weakref
from base64 import b64encode
from html import escape
from typing import Any

import numpy as np
from IPython.display import DisplayHandle, display

from jupyter_ft.event_log import Floats
from jupyter_ft.session.race import Race
from jupyter_ft.ui.curve import HEIGHT, INK, LEFT, RIGHT, TOP, WIDTH, axes, bounds, path_of
from jupyter_ft.ui.pump import PUMP
from jupyter_ft.ui.race_controls import RaceControls
from jupyter_ft.ui.thin import thin
from jupyter_ft.ui.views import in_a_kernel
from jupyter_ft.ui.watched import shown

VIEW = "application/vnd.jupyter.widget-view+json"
SECONDS = 1.0  # between two updates of the cell
SMOOTH = 0.8  # weight of the past in the drawn loss: the runs of a race are told apart by their trend
COLOURS = ("#3b82d6", "#d9822b", "#2f9e6e", "#a855c7", "#d64545", "#0e9aa7", "#b7791f", "#7c8794")
BOTTOM = 26
_STYLE = (
    ".jft-race table{border-collapse:collapse;font-size:13px}.jft-race :is(td,th){padding:2px 10px;text-align:left}"
)


class RaceView:
    """One display of a race, told its news by the pump until every run is over."""

    def __init__(self, race: Race) -> None:
        self.name, self._ref = race.name, weakref.ref(race)
        self._handle: DisplayHandle | None = display(_bundle(race), raw=True, display_id=True)
        self._told, self._ended = -math.inf, False
        self._controls = RaceControls(race, self.again) if in_a_kernel() else None
        if self._controls is not None:
            view = {"version_major": 2, "version_minor": 0, "model_id": self._controls.element.model_id}
            display({VIEW: view, "text/plain": "", "text/html": "<span hidden></span>"}, raw=True)

    def again(self) -> None:
        """Draw it soon: something was done to a run."""
        self._told, self._ended = -math.inf, False
        PUMP.watch(self)

    @property
    def watched(self) -> bool:
        """Whether there is anything left to tell."""
        return self._handle is not None and not self._ended

    def tell(self, now: float) -> int:
        """Draw it anew, once in a while, and a last time when it is over."""
        if self._handle is None or now - self._told < SECONDS:
            return 0
        race = self._ref()
        self._told, self._ended = now, race is None or not race.live
        if race is None:
            return 0
        self._handle.update(_bundle(race), raw=True)
        if self._controls is not None:
            self._controls.follow()
        return 1


def show_race(race: Race) -> None:
    """Show a race in the cell that runs."""
    PUMP.watch(RaceView(race))


def _bundle(race: Race) -> dict[str, Any]:
    return {"text/html": race_html(race), "text/plain": race_text(race)}


def race_html(race: Race) -> str:
    """The curves laid over one another, and below them a row a run, the best first."""
    table = race.table()
    colour = {session.name: COLOURS[number % len(COLOURS)] for number, session in enumerate(race)}
    heads = "".join(f"<th>{escape(str(name))}</th>" for name in ["run", *table.columns])
    rows = []
    for name, row in table.iterrows():
        cells = "".join(f"<td>{escape(_cell(value))}</td>" for value in row)
        rows.append(f"<tr><td><span style='color:{colour[str(name)]}'>■</span> {escape(str(name))}</td>{cells}</tr>")
    body = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    head = f"<style>{_STYLE}</style><p>{escape(_headline(race))}</p>{_image(race)}"
    return f"<div class='jft-race'>{head}{body}{''.join(f'<p>{escape(line)}</p>' for line in _failures(race))}</div>"


def race_text(race: Race) -> str:
    """The same as lines, without the curves."""
    table = race.table()
    rows = [["run", *map(str, table.columns)], *([str(name), *map(_cell, row)] for name, row in table.iterrows())]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_headline(race), *lines, *_failures(race)])


def _failures(race: Race) -> list[str]:
    """Why those that failed did: the others go on, so nothing else in the cell says it."""
    failed = [(one.name, " ".join(one.said.split())) for one in race if one.state == "failed"]
    return [f"{name} failed: {said}" for name, said in failed if said]


def _cell(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "–"
    return shown(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)[:60]


def _headline(race: Race) -> str:
    best = f" · best so far: {race.best.name}" if race.best is not None else ""
    if race.promoted is not None:
        best = f" · promoted: {race.promoted.name}"
    told = f" · {race.said[-1]}" if race.said else ""
    return f"{race.name}: {len(race)} runs, {len(race.live)} live{best}{told}"


def _image(race: Race) -> str:
    drawn = [(session.name, _smooth(session.log.read(steps="picture")[0].steps)) for session in race]
    drawn = [(name, (x, y)) for name, (x, y) in drawn if len(x)]
    if not drawn:
        return "<p>No step yet.</p>"
    everything = np.concatenate([y for _, (_, y) in drawn])
    low, high = bounds(everything[np.isfinite(everything)])
    last = max(float(x[-1]) for _, (x, _) in drawn)
    places = {session.name: number for number, session in enumerate(race)}
    inside = [axes(low, high, 1, int(last))]
    for name, (x, y) in drawn:
        across = LEFT + (x - 1) / max(1.0, last - 1) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
        colour = COLOURS[places[name] % len(COLOURS)]
        inside.append(f"<path d='{path_of(across, down)}' fill='none' stroke='{colour}' stroke-width='1.6'/>")
    head = f"xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}'"
    svg = f"<svg {head} font-family='system-ui,sans-serif' font-size='11' fill='{INK}'>{''.join(inside)}</svg>"
    source = b64encode(svg.encode()).decode()
    label = f"Smoothed losses of {len(drawn)} runs up to step {int(last)}"
    return f"<img alt='{label}' width='{WIDTH}' src='data:image/svg+xml;base64,{source}'>"


def _smooth(steps: dict[str, Floats]) -> tuple[Floats, Floats]:
    """The steps and their losses, an exponential mean that begins unbiased (arXiv 1412.6980, section 3)."""
    if not len(steps.get("loss", ())):
        return np.empty(0), np.empty(0)
    some = thin(steps, 600, watched=("loss",))
    mean, weight, means = 0.0, 0.0, []
    for value in some["loss"]:
        if math.isfinite(value):
            mean, weight = SMOOTH * mean + (1 - SMOOTH) * value, SMOOTH * weight + (1 - SMOOTH)
        means.append(mean / weight if weight else math.nan)
    return some["step"], np.asarray(means)
