"""How a session is looked at: its figures, and what the notebook draws of it; `Session` adds what it is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..event_log import that_count
from ..messages import EvalDone

if TYPE_CHECKING:
    import pandas as pd

    from ..event_log import EventLog
    from .review.desk import Desk


class Views(Protocol):
    """How the notebook side shows a session; it registers itself, because imports run downward only."""

    def show(self, session: Any) -> None: ...  # noqa: D102
    def show_race(self, race: Any) -> None: ...  # noqa: D102
    def race_figure(self, race: Any) -> Any: ...  # noqa: D102
    def figure(self, session: Any, *, live: bool) -> Any: ...  # noqa: D102
    def report(self, session: Any, path: Path | None) -> Path: ...  # noqa: D102
    def review(self, desk: Desk) -> None: ...  # noqa: D102
    def cell_end(self) -> threading.Event | None: ...  # noqa: D102
    def over(self, session: Any) -> None: ...  # noqa: D102
    def close(self, session: Any) -> None: ...  # noqa: D102


class Shown:
    """Curves as a table, a panel, a figure and a page."""

    log: EventLog
    views: ClassVar[Views | None] = None

    @property
    def metrics(self) -> pd.DataFrame:
        """One row an optimizer step, indexed by `step`; `eval_loss` and the like where it was evaluated."""
        import pandas as pd

        steps = pd.DataFrame(self.log.read()[0].steps).astype({"step": int}).set_index("step")
        evaluated = {event.step: event.metrics for event in that_count(self.log.history(), EvalDone)}
        return steps.join(pd.DataFrame.from_dict(evaluated, orient="index")) if evaluated else steps

    def show(self) -> None:
        """The panel again, in this cell."""
        if self.views is not None:
            self.views.show(self)

    _ipython_display_ = show

    def figure(self, *, live: bool = False) -> Any:
        """Losses and learning rate with a mark for each edit, as a `plotly.graph_objects.Figure`.

        `live`: a `FigureWidget` (5 MB in the browser) that follows the run, twice a second at most, until it is over.
        """
        return self.views.figure(self, live=live) if self.views is not None else None

    def report(self, path: str | Path | None = None) -> Path | None:
        """Write the run as one page (HTML, 5 MB, works offline): `report.html` in the run folder, or `path`.

        Curves to explore, edits, evaluations, chats, recipe; no row of the data. Raises `RunFolderError` where the
        place cannot be written.
        """
        return self.views.report(self, None if path is None else Path(path)) if self.views is not None else None
