"""The record below a panel: an output of its own, which a saved notebook shows when the widget above it is gone.

A front end that has the widget's mime type draws the widget or an error in its place, never the HTML beside it. So the
record is a second output. In JupyterLab and Notebook 7 the record's own stylesheet hides it while the panel above
lives, and hides what is left of a panel that does not; elsewhere it is a folded line until the run is over.
A page that was loaded anew does not know the display id of an output; there the panel is told of each new `version`,
and puts it into the notebook itself (panel/keeper.ts).
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from typing import Any

from IPython.display import DisplayHandle, display

from jupyter_ft.event_log import Cursor
from jupyter_ft.messages import (
    OVER,
    Applied,
    CheckpointSaved,
    Crashed,
    EvalDone,
    Health,
    Logged,
    MemoryShort,
    ReplyDone,
    StateChanged,
    StepRefused,
)
from jupyter_ft.ui.record import folded_record, record_text
from jupyter_ft.ui.watched import Watched

SOON, LATER = 2.0, 30.0  # seconds between two updates: while nothing moves (paused, over), and while it trains
_TOLD = (Applied, CheckpointSaved, Crashed, EvalDone, Health, MemoryShort, ReplyDone, StateChanged, StepRefused)
_OUTPUT, _DRAWN = ".jp-OutputArea-child", ":has([data-mime-type])"  # only a widget's view does not say its type
_ONE_OF_TWO = f"""<style>
{_OUTPUT}:has(.jft)+{_OUTPUT}:has(.jft-below){{display:none}}
{_OUTPUT}:not({_DRAWN}):not(:has(.jft)):has(+{_OUTPUT} .jft-below){{display:none}}
</style>"""


class Below:
    """The record of one session, in each cell in which its panel was shown."""

    def __init__(self, session: Watched) -> None:
        self._session = session
        self._handles: list[DisplayHandle] = []
        self._told: Cursor | None = None
        self._at = float("-inf")
        self.key = uuid.uuid4().hex[:12]  # by which a view finds it in the notebook
        self.version = 0
        self.latest: dict[str, Any] = {}
        self._busy = threading.Lock()  # a view that polls is served on its own thread, beside the pump's

    def show(self) -> None:
        """Show the record in the cell that runs."""
        told = self._session.log.end
        handle = display(self.bundle(), raw=True, display_id=True)
        self._told = self._told or told
        if handle is not None:
            self._handles.append(handle)

    @property
    def pending(self) -> bool:
        """Whether the record of a run that may still say something stands in a cell."""
        return bool(self._handles) and (self._session.state not in OVER or self._told is None or self._news())

    def keep(self, now: float) -> None:
        """Bring the record up to date, where something happened and the last time is long enough ago."""
        still = self._session.state in (*OVER, "paused")
        with self._busy:
            if self._handles and now - self._at >= (SOON if still else LATER) and self._news():
                self.refresh(now)

    def refresh(self, now: float) -> None:
        """Bring the record up to date now."""
        self._at, self._told = now, self._session.log.end
        bundle = self.bundle()
        for handle in self._handles:
            handle.update(bundle, raw=True)

    def _news(self) -> bool:
        if self._told is None:
            return True
        news, now = self._session.log.read(self._told, steps="none")
        return now.rows != self._told.rows or any(
            isinstance(event, _TOLD) or (isinstance(event, Logged) and event.heed) for event in news.events
        )

    def bundle(self) -> dict[str, Any]:
        """The output as it should be now."""
        self.version += 1
        unfolded = not _cannot_hide() or self._session.state in OVER
        html = folded_record(self._session, unfolded=unfolded, mark=f"{self.key} {self.version}")
        self.latest = {"text/plain": record_text(self._session), "text/html": _ONE_OF_TWO + html}
        return self.latest


def _cannot_hide() -> bool:
    """Whether the front end is one in which the record cannot be hidden below a living panel."""
    return "google.colab" in sys.modules or "VSCODE_PID" in os.environ or "VSCODE_CWD" in os.environ
