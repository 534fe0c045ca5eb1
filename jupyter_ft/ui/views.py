"""How a session is shown: one panel each, a figure to keep. The notebook is imported only when it is asked for."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_ft.session import Session
    from jupyter_ft.ui.panel import Panel

_panels: weakref.WeakKeyDictionary[Session, Panel] = weakref.WeakKeyDictionary()


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


def figure(session: Session) -> Any:
    """The curves as a plotly figure."""
    from jupyter_ft.ui.figure import figure as plotly_figure

    return plotly_figure(session)


def close(session: Session) -> None:
    """Close the panel where there is one."""
    panel = _panels.pop(session, None)
    if panel is not None:
        panel.close()


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
