"""`figure(live=True)`: a plotly `FigureWidget` that the pump keeps up to date, twice a second at most.

plotly has no append: each update sends whole arrays, so they are thinned to a thousand points. Nobody but the pump's
thread writes to the widget (two threads in `batch_update` break its bookkeeping).
"""

from __future__ import annotations

import logging
from typing import Any

from jupyter_ft.errors import FineTuneError
from jupyter_ft.event_log import Cursor
from jupyter_ft.messages import OVER, Applied, EvalDone, Resumed, StepRefused
from jupyter_ft.ui.figure import layout, shapes, traces
from jupyter_ft.ui.pump import PUMP, free_replies
from jupyter_ft.ui.watched import Watched, past_of

POINTS = 1000
EVERY = 0.5  # seconds between two updates
PATIENCE = 5  # updates in a row that may fail: a cell of the user's that changes the figure can be in the way
_DRAWN = (Applied, EvalDone, Resumed, StepRefused)
_log = logging.getLogger(__name__)


class LiveFigure:
    """The widget of one session, and what it has been told."""

    def __init__(self, session: Watched) -> None:
        self.name = session.name
        self._session = session
        self._cursor, self._at, self._failed = Cursor(), float("-inf"), 0
        self.widget = _widget(session)
        PUMP.watch(self)

    @property
    def closed(self) -> bool:
        """Whether the widget was closed, by whoever."""
        return self.widget.comm is None

    @property
    def watched(self) -> bool:
        """Whether there is, or may be, something to draw."""
        return not self.closed and (self._session.state not in OVER or self._news())

    def tell(self, now: float) -> int:
        """Draw what is new, where the last time is long enough ago; gives the number of updates, none or one."""
        if self.closed or now - self._at < EVERY or not self._news():
            return 0
        self._at = now
        seen = self._session.log.end
        try:
            self._draw()
        except Exception:
            self._failed += 1
            if self._failed >= PATIENCE:
                raise
            _log.debug("the figure of %s will be drawn again", self.name, exc_info=True)
            return 0
        self._cursor, self._failed = seen, 0
        return 1

    def _news(self) -> bool:
        news, now = self._session.log.read(self._cursor, steps="none")
        return now.rows != self._cursor.rows or any(isinstance(event, _DRAWN) for event in news.events)

    def _draw(self) -> None:
        past = past_of(self._session)
        with self.widget.batch_update():
            for trace, new in zip(self.widget.data, traces(past, POINTS), strict=True):
                trace.update({key: new[key] for key in ("x", "y", "text", "showlegend") if key in new})
            self.widget.layout.shapes = shapes(past)
        free_replies(self.widget.comm)

    def close(self) -> None:
        """Draw no more; what is drawn stays."""
        PUMP.forget(self)


def _widget(session: Watched) -> Any:
    past = past_of(session)
    try:
        import plotly.graph_objects as go

        lines = [go.Scatter(**trace) for trace in traces(past, POINTS)]
        return go.FigureWidget(lines, layout=layout(session.name, past))
    except ImportError as error:
        need = "plotly's live figure needs anywidget and ipywidgets (pip install anywidget ipywidgets)"
        raise FineTuneError(f"{need}; session.figure() works without: {error}".replace("\n", " ")) from None
