"""One line in the cell that counts the rows while they are read, where that takes longer than a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from IPython.display import DisplayHandle, display

FIRST, EVERY = 1.0, 0.5  # seconds: until the line is shown, and between two updates


class ReadingLine:
    """Called with what is done and with how many rows; the line stays, and says at the end how long it took."""

    def __init__(self, *, rich: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._rich, self._clock = rich, clock
        self._began = clock()
        self._due = self._began + FIRST
        self._most = 0
        self._handle: DisplayHandle | None = None
        self.where = ""

    def __call__(self, what: str, rows: int) -> None:
        """Note how far it is, and show it where that is due."""
        self.where = f" while {what} rows ({rows:,} done)"
        self._most = max(self._most, rows)
        now = self._clock()
        if now >= self._due:
            self._due = now + EVERY
            self._show(f"{what} rows: {rows:,}")

    def end(self, *, whole: bool) -> None:
        """Say what it came to, if a line was shown; `whole`: all was read, and not broken off."""
        if self._due > self._began + FIRST:
            took = f"{self._clock() - self._began:.0f} s"
            self._show(f"{self._most:,} rows read in {took}" if whole else f"broken off after {took}", end="\n")

    def _show(self, text: str, end: str = "") -> None:
        if not self._rich:
            print(f"\r{text:<60}", end=end, flush=True)  # noqa: T201 - a terminal is shown text
        elif self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)
