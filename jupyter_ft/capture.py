"""What the training thread prints goes to the run's log, never to whatever cell happens to be running.

Where a background thread's output lands depends on the ipykernel version in four different ways; so while a run is
alive, `write` and `flush` of the streams know the threads: of those that are in `sys.stdout` and `sys.stderr` now, and
of any that is put there (`redirect_stdout`, `%%capture`). The streams themselves stay what they are and where they are:
whoever keeps one and puts it back has the user's own. Log handlers that are bound to one are served likewise.
"""

from __future__ import annotations

import re
import sys
import threading
import weakref
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
_lock = threading.RLock()
_listeners: dict[int, Tell] = {}


class _Ear:
    """In the place of a stream's `write` and `flush`: the lines of captured threads go to their listeners."""

    def __init__(self, stream: Any, level: str) -> None:
        self._write, self._flush, self._level = stream.write, stream.flush, level
        self._before = {name: vars(stream)[name] for name in ("write", "flush") if name in vars(stream)}
        self._unfinished: dict[int, str] = {}
        stream.write, stream.flush = self.write, self.flush

    def write(self, text: str) -> int:
        """Write through, or for a captured thread tell its listener of each finished line."""
        me = threading.get_ident()
        tell = _listeners.get(me)
        if tell is None:
            return int(self._write(text) or 0)
        *lines, rest = (self._unfinished.pop(me, "") + text).split("\n")
        if rest:
            self._unfinished[me] = rest[-10_000:]
        for line in lines:
            self._tell(tell, line)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; a captured thread has nothing to flush."""
        if threading.get_ident() not in _listeners:
            self._flush()

    def finish(self, thread: int, tell: Tell) -> None:
        """Tell of a last line that has no end."""
        self._tell(tell, self._unfinished.pop(thread, ""))

    def _tell(self, tell: Tell, line: str) -> None:
        shown = _ANSI.sub("", line.rpartition("\r")[2]).rstrip()  # of a progress bar only its last state
        if shown and not _SOURCE_LINE.match(shown):
            tell("debug" if _FOR_DEVELOPERS.search(shown) else self._level, shown)

    def leave(self, stream: Any) -> None:
        """Give the stream its own methods back, but what somebody else has put over them meanwhile."""
        for name in ("write", "flush"):
            if vars(stream).get(name) == getattr(self, name):
                del vars(stream)[name]
                vars(stream).update({name: self._before[name]} if name in self._before else {})


_ears: weakref.WeakKeyDictionary[Any, _Ear] = weakref.WeakKeyDictionary()


class _WatchedSys(ModuleType):
    """`sys` while somebody is captured: a stream that is put into it is listened to from then on."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in _LEVELS:
            _listen(value, _LEVELS[name])

    def __reduce__(self) -> tuple[Any, ...]:  # dill and cloudpickle know modules by their exact type
        return import_module, ("sys",)


@contextmanager
def captured(tell: Tell) -> Iterator[None]:
    """Send what this thread prints to `tell(level, line)`; all is as it was when nobody captures any more."""
    me = threading.get_ident()
    with _lock:
        _listeners[me] = tell
        for name, level in _LEVELS.items():
            _listen(getattr(sys, name), level)
        _turn_sys(ModuleType, _WatchedSys)
    try:
        yield
    finally:
        with _lock:
            for ear in list(_ears.values()):
                ear.finish(me, tell)
            _listeners.pop(me, None)
            if not _listeners:
                _leave()


def _listen(stream: Any, level: str) -> None:
    with _lock:
        try:
            if not isinstance(getattr(stream.write, "__self__", None), _Ear):
                _ears[stream] = _Ear(stream, level)
        except (AttributeError, TypeError):  # no stream, or one that takes no attributes: it stays as it is
            return


def _turn_sys(one: type, other: type) -> None:
    module: Any = sys
    if type(module) is one:  # and not what somebody else has made of it
        module.__class__ = other


def _leave() -> None:
    _turn_sys(_WatchedSys, ModuleType)
    for stream, ear in list(_ears.items()):
        ear.leave(stream)
    _ears.clear()
