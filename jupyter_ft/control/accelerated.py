"""accelerate's process-wide state, a copy for each training thread.

`AcceleratorState`, `PartialState` and `GradientState` keep their attributes in one dict on the class, which every
`TrainingArguments(…)` empties: made in a cell, it would take the state away from a run in the middle of a step. While
a run lives, the dicts are looked up by thread: a training thread finds its own, everybody else the user's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.state import AcceleratorState, GradientState, PartialState

_CLASSES = (AcceleratorState, PartialState, GradientState)
States = list[dict[str, Any]]
_guard = threading.Lock()
_living = 0


class _ByThread:
    """In place of a class's `_shared_state`: the dict of the thread that asks, else the user's."""

    def __init__(self, users: dict[str, Any]) -> None:
        self.users = users
        self.local = threading.local()

    def __get__(self, _instance: object, _owner: type | None = None) -> dict[str, Any]:
        found: dict[str, Any] = getattr(self.local, "own", self.users)
        return found


def take_over() -> States:
    """The states that are in force for the user now, to be a session's; the user goes on with copies of them.

    For a trainer that was built outside: its accelerator holds on to these very dicts.
    """
    taken: States = []
    with _guard:
        for kind in _CLASSES:
            looked_up = vars(kind)["_shared_state"]
            mine = looked_up.users if isinstance(looked_up, _ByThread) else looked_up
            taken.append(mine)
            if isinstance(looked_up, _ByThread):
                looked_up.users = dict(mine)
            elif isinstance(looked_up, dict):
                kind._shared_state = dict(mine)
    return taken


def give_back(states: States) -> None:
    """What `take_over` took is the user's again, unless cells have changed their copies since."""
    with _guard:
        for kind, mine in zip(_CLASSES, states, strict=True):
            looked_up = vars(kind)["_shared_state"]
            if isinstance(looked_up, _ByThread) and looked_up.users == mine:
                looked_up.users = mine
            elif type(looked_up) is dict and looked_up == mine:
                kind._shared_state = mine


def here() -> States | None:
    """This thread's own states; None where it has the user's."""
    own = [getattr(kept.local, "own", None) for kept in _kept()]
    return own if own and None not in own else None  # type: ignore[return-value]


@contextmanager
def under(states: States) -> Iterator[None]:
    """Inside, this thread has `states`: its own, or those that `here` gave in a thread that waits meanwhile."""
    for kept, state in zip(_kept(), states, strict=False):
        kept.local.own = state
    try:
        yield
    finally:
        for kept in _kept():
            vars(kept.local).pop("own", None)


@contextmanager
def own_state(states: States | None = None) -> Iterator[None]:
    """Inside, on this thread, accelerate's state is `states`, or a fresh one; no other thread sees or changes it."""
    _install()
    try:
        with under(states or [{} for _ in _CLASSES]):
            yield
    finally:
        _remove()


def _kept() -> list[_ByThread]:
    """What looks up by thread: nothing, where accelerate does so itself, on a TPU."""
    return [kept for kind in _CLASSES if isinstance(kept := vars(kind)["_shared_state"], _ByThread)]


def _install() -> None:
    global _living  # noqa: PLW0603 - how many runs need it; the last one puts the plain dicts back
    with _guard:
        _living += 1
        for kind in _CLASSES:
            plain = vars(kind)["_shared_state"]
            if type(plain) is dict:  # on a TPU accelerate itself keeps one for each thread
                kind._shared_state = _ByThread(plain)


def _remove() -> None:
    global _living  # noqa: PLW0603
    with _guard:
        _living -= 1
        if _living == 0:
            for kind in _CLASSES:
                looked_up = vars(kind)["_shared_state"]
                if isinstance(looked_up, _ByThread):
                    kind._shared_state = looked_up.users
