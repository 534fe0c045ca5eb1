"""A run in a daemon thread of the kernel: it starts at once, and a dying kernel does not wait for it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence

from ..capture import captured
from ..event_log import EventLog
from ..messages import Event, Logged

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def start(run: Callable[[], Event | None], name: str, log: EventLog, after: Callable[[], None] = lambda: None) -> None:
    """Run `run` in the background; what it prints goes to `log`. Whether it lives is told by its events.

    The event that it gives is logged last, when the user's streams are as they were; then `after` is called.
    (`Thread.join` that is interrupted marks a running thread as dead before Python 3.13: cpython#90882.)
    """

    def live() -> None:
        with captured(lambda level, line: log.append(Logged(level=level, text=line[:4000]))):
            end = run()
        if end is not None:
            log.append(end)
        after()

    thread = threading.Thread(target=live, name=f"jupyter-ft {name}", daemon=True)
    _threads.add(thread)
    thread.start()


def aside(work: Callable[[], None], name: str) -> None:
    """Do something short in the background, which the end of the process waits for as it does for runs."""
    thread = threading.Thread(target=work, name=f"jupyter-ft {name}", daemon=True)
    _threads.add(thread)
    thread.start()


def join(names: Sequence[str], timeout: float) -> None:
    """Let the threads of these names come to their end, in this order, `timeout` seconds at most in all."""
    deadline = time.monotonic() + timeout
    for name in names:
        for thread in [one for one in _threads if one.name == f"jupyter-ft {name}"]:
            thread.join(max(0.0, deadline - time.monotonic()))


def join_all(timeout: float) -> None:
    """Let the threads come to their end, `timeout` seconds at most.

    At exit only: a daemon thread that is cut off inside torch takes the process down with `terminate`.
    """
    deadline = time.monotonic() + timeout
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
