"""How a session is shown: one panel each, a figure, a page to keep. The notebook is imported only when asked for."""

from __future__ import annotations

import threading
import weakref
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_ft.launch.thread import aside, join
from jupyter_ft.messages import Logged

if TYPE_CHECKING:
    from jupyter_ft.session import Session
    from jupyter_ft.session.race import Race
    from jupyter_ft.session.review import Desk
    from jupyter_ft.ui.live_figure import LiveFigure
    from jupyter_ft.ui.panel import Panel

FIRST_SECONDS = 2.0  # that text waits for the first pair: nothing comes later by itself

_panels: weakref.WeakKeyDictionary[Session, Panel] = weakref.WeakKeyDictionary()
_figures: weakref.WeakKeyDictionary[Session, LiveFigure] = weakref.WeakKeyDictionary()


def panel_of(session: Session) -> Panel:
    """The panel of a session; it is made once, and shown as often as is liked."""
    from jupyter_ft.ui.panel import Panel

    if session not in _panels:
        _panels[session] = Panel(session)
    return _panels[session]


def in_a_kernel() -> bool:
    """Whether there is a front end that could draw a widget."""
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def show(session: Session) -> None:
    """Show the panel in this cell; in a terminal, print the record."""
    if in_a_kernel():
        panel_of(session).show()
    else:
        from jupyter_ft.ui.record import record_text

        print(record_text(session))  # noqa: T201 - a terminal is shown text


def show_race(race: Race) -> None:
    """Show a race in this cell, kept up to date; in a terminal, print its table."""
    from jupyter_ft.ui import race as shown

    if in_a_kernel():
        shown.show_race(race)
    else:
        print(shown.race_text(race))  # noqa: T201 - a terminal is shown text


def race_figure(race: Race) -> Any:
    """The curves of a race's runs over one another, with their edits, as a plotly figure."""
    from jupyter_ft.ui.compared import compare

    return compare(race).figure


def review(desk: Desk) -> None:
    """Show a review in this cell: the panel, opened on it; in a terminal, print how it stands."""
    if in_a_kernel():
        panel_of(desk.session).show("review")
        return
    from jupyter_ft.ui.review_text import review_text

    desk.wait(FIRST_SECONDS)
    print(review_text(desk))  # noqa: T201 - a terminal is shown text


def figure(session: Session, *, live: bool = False) -> Any:
    """The curves as a plotly figure; `live`: the one widget of the session, which follows the run."""
    if live:
        return _live_figure(session)
    from jupyter_ft.ui.figure import figure as plotly_figure

    return plotly_figure(session)


def _live_figure(session: Session) -> Any:
    from jupyter_ft.ui.live_figure import LiveFigure
    from jupyter_ft.ui.pump import PUMP

    found = _figures.get(session)
    if found is None or found.closed:
        found = _figures[session] = LiveFigure(session)
    PUMP.watch(found)  # again, where the run was over and has been resumed
    return found.widget


def report(session: Session, path: Path | None = None) -> Path:
    """Write the run as one page; in a notebook, show a link to it."""
    from jupyter_ft.ui.report import write_report

    written = write_report(session, path)
    if in_a_kernel():
        from IPython.display import display

        display({"text/html": _link(written), "text/plain": f"{written}"}, raw=True)
    return written


def over(session: Session) -> None:
    """In a notebook, leave the page in the run folder; beside the thread that trained, and without failing the run."""
    if not in_a_kernel():
        return

    def leave() -> None:
        from jupyter_ft.ui.report import write_report

        try:
            write_report(session)
        except Exception as error:  # noqa: BLE001 - the run is over and well without it
            text = f"report.html was not written: {type(error).__name__}: {error}; %ft report tries again"
            session.log.append(Logged(level="warning", text=" ".join(text.split())))

    aside(leave, _report_of(session))


def reported(session: Session, timeout: float = 30.0) -> None:
    """Wait for that page: a kernel that is ended at once after its last cell would cut it off."""
    join([session.name, _report_of(session)], timeout)


def _report_of(session: Session) -> str:
    return f"report of {session.name}"


def _link(written: Path) -> str:
    here, megabytes = Path.cwd(), written.stat().st_size / 1e6
    if not written.is_relative_to(here):  # the notebook's server shows what is below its own folder only
        return f"<code>{escape(str(written))}</code> ({megabytes:.1f} MB)"
    near = written.relative_to(here).as_posix()
    return f"<a href='{escape(near)}' target='_blank'>{escape(near)}</a> ({megabytes:.1f} MB)"


def close(session: Session) -> None:
    """Close the panel and the live figure where there are any."""
    panel, drawn = _panels.pop(session, None), _figures.pop(session, None)
    if panel is not None:
        panel.close()
    if drawn is not None:
        drawn.close()


def cell_end() -> threading.Event | None:
    """An event that is set when the cell that runs now has ended; None where no cell runs."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None or not in_a_kernel():
        return None
    ended = threading.Event()

    def note(*_: object) -> None:
        shell.events.unregister("post_run_cell", note)
        ended.set()

    shell.events.register("post_run_cell", note)
    return ended
