"""A thread beside the training thread for functions of the user's: what they raise comes back, one that hangs is left.

A thread cannot be ended from outside. One that is left goes on as a daemon until its function returns; the next call
gets a new one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .capture import Tell, captured

LOOK_EVERY = 0.1  # seconds between looks at whether to go on waiting


class Left(Exception):
    """The function was left while it ran; the message says why."""


@dataclass
class _Call:
    work: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    error: BaseException | None = None


class Worker:
    """Runs functions one after the other. `tell(level, line)` gets what they print."""

    def __init__(self, name: str, tell: Tell) -> None:
        self._name, self._tell = name, tell
        self._calls: queue.SimpleQueue[_Call | None] | None = None

    def run(self, work: Callable[[], Any], why_leave: Callable[[float], str]) -> Any:
        """What `work()` gives, or raises. `why_leave(seconds)` is asked while it runs; what it says is why it is left.

        Raises `Left` with that.
        """
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=self._live, args=(self._calls,), name=self._name, daemon=True).start()
        call, began = _Call(work), time.monotonic()
        self._calls.put(call)
        while not call.done.wait(LOOK_EVERY):
            if why := why_leave(time.monotonic() - began):
                self.rest()
                raise Left(why)
        if call.error is not None:
            raise call.error
        return call.value

    def rest(self) -> None:
        """Let the thread end, when what it does has ended."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None

    def _live(self, calls: queue.SimpleQueue[_Call | None]) -> None:
        while (call := calls.get()) is not None:
            with captured(self._tell_safely):
                try:
                    call.value = call.work()
                except BaseException as error:  # noqa: BLE001 - whatever a user's function raises is the caller's to say
                    call.error = error
            call.done.set()

    def _tell_safely(self, level: str, line: str) -> None:
        with suppress(Exception):  # a function that was left prints after the run is over
            self._tell(level, line)
