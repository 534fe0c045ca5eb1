"""The pump: one thread that tells every open view its news, four times a second at most.

It is the only writer to the browser. (A view that polls is answered where it asked, under the panel's lock:
on Colab only what is sent while its own message is being handled arrives.)
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

WAKES_PER_SECOND = 20  # oftener than a view may be told: what comes after a silence should not wait
_log = logging.getLogger(__name__)


class Told(Protocol):
    """A panel or a live figure."""

    name: str

    @property
    def watched(self) -> bool:
        """Whether there is anything left to tell."""

    def tell(self, now: float) -> int:
        """Send what is new; gives the number of messages."""


class Pump:
    """Tells the news of any number of panels. Sleeps without waking while nobody looks."""

    def __init__(self) -> None:
        self._panels: list[Told] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def watch(self, panel: Told) -> None:
        """Begin to tell `panel` its news; a panel that is watched already stays so."""
        with self._changed:
            if panel not in self._panels:
                self._panels.append(panel)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="jupyter-ft-pump", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def forget(self, panel: Told) -> None:
        """Tell `panel` nothing more."""
        with self._changed:
            self._panels = [other for other in self._panels if other is not panel]

    def turn(self, now: float) -> int:
        """Tell each panel what is new to it; gives the number of messages sent."""
        with self._changed:
            self._panels = panels = [panel for panel in self._panels if panel.watched]
        sent = 0
        for panel in panels:
            try:
                sent += panel.tell(now)
            except Exception:  # noqa: BLE001 -- a panel that cannot be told must not silence the others
                _log.debug("the panel of %s is closed", panel.name, exc_info=True)
                self.forget(panel)
        return sent

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._panels))
            self.turn(time.monotonic())
            time.sleep(1 / WAKES_PER_SECOND)


def free_replies(comm: object) -> None:
    """Let the browser's next message be handled while a cell runs.

    ipykernel 7.4 hands a comm's messages to the shell that the comm last published from, which is the main one, busy
    with the cell; without this note it goes by the message's own header, as 7.0 to 7.3 did. Elsewhere it does nothing.
    """
    getattr(comm, "__dict__", {}).pop("_reply_subshell_id", None)


PUMP = Pump()
"""The one of this process."""
