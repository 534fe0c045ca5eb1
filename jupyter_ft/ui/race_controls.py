"""The buttons under a race: one of its runs is chosen, and paused, stopped, forked with a change, promoted or shown."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from jupyter_ft.errors import FineTuneError
from jupyter_ft.launch.thread import aside
from jupyter_ft.messages import OVER
from jupyter_ft.ui.views import panel_of
from jupyter_ft.ui.watched import typed

if TYPE_CHECKING:
    from jupyter_ft.session import Receipt, Session
    from jupyter_ft.session.race import Race

VERBS = {
    "pause": ("Pause", "Hold before the next step; the others go on"),
    "resume": ("Resume", "Go on after a pause, or from the newest checkpoint"),
    "stop": ("Stop", "End at the next step, with a checkpoint; the others go on"),
    "promote": ("Promote", "Let this run win: the others are stopped, it goes on"),
    "show": ("Show", "Its panel, below"),
    "fork": ("Fork", "A new run from its weights, with the changes; it joins the race"),
}
NARROW = {"width": "auto"}


class RaceControls:
    """One row to choose and press, one to fork, a line that says what was done, and the panels that were asked for."""

    def __init__(self, race: Race, changed: Callable[[], None]) -> None:
        self._ref = weakref.ref(race)  # a front end may keep the buttons; a race that is closed must go
        self._changed = changed
        self._run = widgets.Dropdown(options=_names(race), description="Run")
        self._at = widgets.Text(value="live", description="at", layout={"width": "160px"})
        self._name = widgets.Text(placeholder="name", layout={"width": "120px"})
        self._changes = widgets.Text(placeholder="learning_rate=2e-5", layout={"width": "220px"})
        self._said = widgets.HTML()
        self._panels = widgets.VBox()
        self._buttons = {verb: self._button(verb) for verb in VERBS}
        *pressed, fork = self._buttons.values()
        row = {"flex_flow": "row wrap"}
        self.element = widgets.VBox(
            [
                widgets.HBox([self._run, *pressed], layout=row),
                widgets.HBox([self._at, self._name, self._changes, fork], layout=row),
                self._said,
                self._panels,
            ]
        )
        self.element.add_class("jft-race-controls")
        self._run.observe(lambda _: self.follow(), "value")
        self.follow()

    def _button(self, verb: str) -> widgets.Button:
        text, help_ = VERBS[verb]
        button = widgets.Button(description=text, tooltip=help_, layout=NARROW)
        button.add_class(f"jft-race-{verb}")
        button.on_click(lambda _: self.press(verb))
        return button

    def follow(self) -> None:
        """What can be pressed now, for the run that is chosen; told by the view of the race whenever it is drawn."""
        if self._ref() is None:
            return
        names, chosen = _names(self._race), self._run.value
        if tuple(names) != tuple(self._run.options):
            self._run.options = names
            self._run.value = chosen
        state = self._session.state
        can = {
            "pause": state == "running",
            "resume": state in ("paused", "stopped", "failed"),
            "stop": state not in OVER,
        }
        for verb, possible in can.items():
            self._buttons[verb].disabled = not possible

    @property
    def _race(self) -> Race:
        race = self._ref()
        if race is None:
            raise FineTuneError("the race is closed; %ft open NAME opens a run of it")
        return race

    @property
    def _session(self) -> Session:
        return next(session for session in self._race if session.name == self._run.value)

    def press(self, verb: str) -> None:
        """Do what a button says, on a thread: a fork may wait for a checkpoint. What is wrong is said in the line."""

        def work() -> None:
            try:
                said = self._do(verb, self._session)
                self.follow()
            except FineTuneError as error:
                said = str(error)
            except Exception as error:  # noqa: BLE001 - a line that stays empty would say that nothing was pressed
                said = f"{verb}: {type(error).__name__}: {error}"[:300]
            self._said.value = f"<span role='status'>{escape(said)}</span>"
            self._changed()

        aside(work, f"{verb} of {self._run.value}")

    def _do(self, verb: str, session: Session) -> str:
        if verb == "show":
            self._show(session)
            return f"The panel of {session.name} is below; a cell with %ft show {session.name} shows it anywhere."
        if verb == "promote":
            self._race.promote(session.name)
            return f"{session.name} is promoted; the others are stopped, with checkpoints."
        if verb == "fork":
            child = self._race.fork(
                session.name,
                self._name.value.strip() or None,
                self._at.value.strip() or "live",
                **pairs(self._changes.value),
            )
            self._name.value = ""
            return f"{child.name} goes on from {session.name}; a cell with %ft show {child.name} shows its panel."
        receipt: Receipt = getattr(session, verb)()
        return f"{session.name}: {verb} at step {receipt.wait()}."

    def _show(self, session: Session) -> None:
        panel = panel_of(session)
        self._panels.children = [*(one for one in self._panels.children if one is not panel), panel]
        panel.observe(lambda _: self._drop(panel), "comm")

    def _drop(self, panel: object) -> None:
        """A panel that is closed must not be held: its session comes with it."""
        self._panels.children = [one for one in self._panels.children if one is not panel]


def pairs(text: str) -> dict[str, Any]:
    """`learning_rate=2e-5 max_steps=80` as a mapping. `FineTuneError` for a word that is no `key=value`."""
    found: dict[str, Any] = {}
    for word in text.replace(",", " ").split():
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise FineTuneError(f"'{word}' is no change: write key=value, like learning_rate=2e-5")
        found[key] = typed(value)
    return found


def _names(race: Race) -> list[str]:
    return [session.name for session in race]
