"""A run in a daemon thread of the kernel: it starts at once, and a dying kernel does not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable


def start(run: Callable[[], None], name: str) -> None:
    """Run `run` in the background. Whether it lives is told by its events, never by the thread.

    (`Thread.join` that is interrupted marks a running thread as dead before Python 3.13: cpython#90882.)
    """
    threading.Thread(target=run, name=f"jupyter-ft {name}", daemon=True).start()
