"""What the training thread prints goes to the run's log, never to whatever cell happens to be running.

Where a background thread's output lands depends on the ipykernel version in four different ways; so while a run is
alive `sys.stdout` and `sys.stderr` are wrapped by a proxy that knows the threads, for log handlers too. Everybody else
writes through it.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Tell = Callable[[str, str], None]
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FOR_DEVELOPERS = re.compile(r"\b(Future|Deprecation|PendingDeprecation)Warning\b")
_SOURCE_LINE = re.compile(r"  warnings\.warn\(")  # the second line of a printed warning
_lock = threading.Lock()
_listeners: dict[int, Tell] = {}


class ThreadAware:
    """A stream that hands the lines of the captured threads to their listeners and is otherwise the stream below."""

    def __init__(self, below: Any, level: str) -> None:
        self._below, self._level = below, level
        self._unfinished: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Write through, or for a captured thread tell its listener of each finished line."""
        me = threading.get_ident()
        tell = _listeners.get(me)
        if tell is None:
            return int(self._below.write(text) or 0)
        *lines, rest = (self._unfinished.pop(me, "") + text).split("\n")
        if rest:
            self._unfinished[me] = rest[-10_000:]
        for line in lines:
            shown = _ANSI.sub("", line.rpartition("\r")[2]).rstrip()  # of a progress bar only its last state
            if shown and not _SOURCE_LINE.match(shown):
                tell("debug" if _FOR_DEVELOPERS.search(shown) else self._level, shown)
        return len(text)

    def flush(self) -> None:
        """Flush the stream below; a captured thread has nothing to flush."""
        if threading.get_ident() not in _listeners:
            self._below.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


@contextmanager
def captured(tell: Tell) -> Iterator[None]:
    """Send what this thread prints to `tell(level, line)`; the streams are put back when nobody captures any more."""
    me = threading.get_ident()
    with _lock:
        _listeners[me] = tell
        _put_proxies()
    try:
        yield
    finally:
        with _lock:
            _listeners.pop(me, None)
            if not _listeners:
                _take_proxies_away()


def _put_proxies() -> None:
    for name, level in (("stdout", "out"), ("stderr", "warning")):
        stream = getattr(sys, name)
        if not isinstance(stream, ThreadAware):
            proxy = ThreadAware(stream, level)
            setattr(sys, name, proxy)
            for handler in _stream_handlers():
                if handler.stream is stream:  # transformers' own, say, bound when a cell imported it
                    handler.stream = proxy


def _take_proxies_away() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, ThreadAware):
            setattr(sys, name, stream._below)
    for handler in _stream_handlers():  # also those that were made meanwhile
        if isinstance(handler.stream, ThreadAware):
            handler.stream = handler.stream._below


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.root, *logging.Logger.manager.loggerDict.copy().values()]
    handlers = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
