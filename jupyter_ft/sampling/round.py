"""One question to several runs: where their chat threads meet, so that all the columns speak in one batch."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .chorus import Part

MOST = 16  # columns that speak at once
PATIENCE = 0.5  # seconds that the first waits for the others: one may be in the middle of another reply


class Round:
    """The columns of the question `turn`, `expected` of them over all runs. Held by who asks, found by its turn.

    The first thread that comes waits for the others and leads: it has all of them speak, while the others wait with
    their models in their hands. Who comes too late speaks by itself.
    """

    def __init__(self, turn: str, expected: int) -> None:
        self._left = expected
        self._parts: list[Part] = []
        self._changed = threading.Condition()
        self._closed = self._done = False
        rounds[turn] = self

    def less(self, count: int) -> None:
        """So many columns will not come: they are refused, taken back, or speak by themselves."""
        with self._changed:
            self._left -= count
            self._changed.notify_all()

    def meet(self, parts: list[Part], lead: Callable[[list[Part]], None]) -> None:
        """Have `parts` speak with the others; back when they have."""
        with self._changed:
            self._left -= len(parts)
            late, first = self._closed, not self._parts
            if not late:
                self._parts += parts
            self._changed.notify_all()
            if not late and not first:
                self._changed.wait_for(lambda: self._done)
                return
            if first and not late:
                self._changed.wait_for(lambda: self._left <= 0, PATIENCE)
                self._closed = True
                parts = list(self._parts)
        try:
            lead(parts)
        finally:
            if not late:
                with self._changed:
                    self._done, self._parts = True, []  # who asked holds no models
                    self._changed.notify_all()


rounds: weakref.WeakValueDictionary[str, Round] = weakref.WeakValueDictionary()
"""By the turn of the question."""
