"""What the training thread prints goes to the run's log, never to whatever cell happens to be running.

Where a background thread's output lands depends on the ipykernel version in four different ways; so while a run is
alive, a proxy that knows the threads stands before `sys.stdout` and `sys.stderr`, and before any stream that is put
there. `print` meets the proxy; whoever else reads `sys.stdout` gets the stream itself, so that a `redirect_stdout` or
`%%capture`, begun and ended when it likes, keeps and puts back the user's own. Log handlers get the proxy, too.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

Tell = Callable[[str, str], None]
_LEVELS = {"stdout": "out", "stderr": "warning"}
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FOR_DEVELOPERS = re.compile(r"\b(Future|Deprecation|PendingDeprecation)Warning\b")
_SOURCE_LINE = re.compile(r"  warnings\.warn\(")  # the second line of a printed warning
_lock = threading.Lock()
_listeners: dict[int, Tell] = {}
_stand_for: dict[int, int] = {}


class ThreadAware:
    """A stream that hands the lines of the captured threads to their listeners and is otherwise the stream below."""

    def __init__(self, below: Any, level: str) -> None:
        self.below, self._level = below, level
        self._unfinished: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Write through, or for a captured thread tell its listener of each finished line."""
        me = _me()
        tell = _listeners.get(me)
        if tell is None:
            return int(self.below.write(text) or 0)
        *lines, rest = (self._unfinished.pop(me, "") + text).split("\n")
        if rest:
            self._unfinished[me] = rest[-10_000:]
        for line in lines:
            self._tell(tell, line)
        return len(text)

    def flush(self) -> None:
        """Flush the stream below; a captured thread has nothing to flush."""
        if _me() not in _listeners:
            self.below.flush()

    def finish(self, thread: int, tell: Tell) -> None:
        """Tell of a last line that has no end."""
        self._tell(tell, self._unfinished.pop(thread, ""))

    def _tell(self, tell: Tell, line: str) -> None:
        shown = _ANSI.sub("", line.rpartition("\r")[2]).rstrip()  # of a progress bar only its last state
        if shown and not _SOURCE_LINE.match(shown):
            tell("debug" if _FOR_DEVELOPERS.search(shown) else self._level, shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def _stream(name: str) -> property:
    def get(module: ModuleType) -> Any:
        stream = vars(module)[name]  # where `print` looks
        free = isinstance(stream, ThreadAware) and _me() not in _listeners
        return stream.below if free else stream

    def put(module: ModuleType, stream: Any) -> None:
        own = _me() in _listeners  # a captured thread that redirects means what it says
        vars(module)[name] = stream if own else _before(stream, name)

    return property(get, put)


class _WatchedSys(ModuleType):
    """`sys` while somebody is captured."""

    stdout, stderr = _stream("stdout"), _stream("stderr")

    def __getattr__(self, name: str) -> Any:  # being there, it keeps the interpreter from reading past the properties
        raise AttributeError(f"module 'sys' has no attribute '{name}'")

    def __reduce__(self) -> tuple[Any, ...]:  # dill and cloudpickle know modules by their exact type
        return import_module, ("sys",)


@contextmanager
def captured(tell: Tell) -> Iterator[None]:
    """Send what this thread prints to `tell(level, line)`; all is as it was when nobody captures any more."""
    me = _me()
    with _lock:
        _put_proxies()
        _listeners[me] = tell
    try:
        yield
    finally:
        with _lock:
            for name in _LEVELS:
                if isinstance(stream := vars(sys)[name], ThreadAware):
                    stream.finish(me, tell)
            _listeners.pop(me, None)
            if not _listeners:
                _take_proxies_away()


@contextmanager
def standing_for(thread: int) -> Iterator[None]:
    """Inside, what this thread prints is printed by another (its number), which waits meanwhile."""
    _stand_for[threading.get_ident()] = thread
    try:
        yield
    finally:
        del _stand_for[threading.get_ident()]


def _me() -> int:
    own = threading.get_ident()
    return _stand_for.get(own, own)


@contextmanager
def for_users_only() -> Iterator[None]:
    """Keep from the cell what this thread prints for developers (`FutureWarning` and its like); the rest goes through.

    A captured thread stays as it is: its listener knows them apart.
    """
    if _me() in _listeners:
        yield
        return
    streams = {level: vars(sys)[name] for name, level in _LEVELS.items()}

    def tell(level: str, line: str) -> None:
        if level in streams:
            (streams[level].below if isinstance(streams[level], ThreadAware) else streams[level]).write(line + "\n")

    with captured(tell):
        yield


def _before(stream: Any, name: str) -> Any:
    return stream if stream is None or isinstance(stream, ThreadAware) else ThreadAware(stream, _LEVELS[name])


def _put_proxies() -> None:
    for name in _LEVELS:
        stream = vars(sys)[name]
        proxy = vars(sys)[name] = _before(stream, name)
        for handler in _stream_handlers():
            if handler.stream is stream:  # transformers' own, say, bound when a cell imported it
                handler.stream = proxy
    _turn_sys(ModuleType, _WatchedSys)


def _take_proxies_away() -> None:
    _turn_sys(_WatchedSys, ModuleType)
    for name in _LEVELS:
        if isinstance(stream := vars(sys)[name], ThreadAware):
            vars(sys)[name] = stream.below
    for handler in _stream_handlers():  # also those that were made meanwhile
        if isinstance(handler.stream, ThreadAware):
            handler.stream = handler.stream.below


def _turn_sys(one: type, other: type) -> None:
    module: Any = sys
    if type(module) is one:  # and not what somebody else has made of it
        module.__class__ = other


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.root, *logging.Logger.manager.loggerDict.copy().values()]
    handlers = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
