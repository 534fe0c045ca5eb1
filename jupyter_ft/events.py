"""The events of a run in memory: all of the few, and of each kind that comes along by itself the newest and a spread.

Each has a number, by which readers keep their place. Of a kind that crowds the newest stay, and of the older ones every
second, fourth, eighth, …; the evaluation that was best stays too. What is let go of is on disk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

from .messages import CheckpointSaved, EvalDone, Event, Health, Logged, SnapshotSaved, StepRefused

Kind = TypeVar("Kind", bound=Event)
CROWDS = (EvalDone, StepRefused, Health, Logged, CheckpointSaved, SnapshotSaved)
NEWEST = 1000  # of a kind, kept as they are; of the older ones as many at most


@dataclass
class _Crowd:
    """The numbers of one kind that are held."""

    newest: deque[int] = field(default_factory=deque)
    older: list[int] = field(default_factory=list)  # each `stride`-th
    stride: int = 1
    passed: int = 0  # that have become old

    def add(self, number: int) -> list[int]:
        """Hold `number`; those that are to be let go of for it."""
        self.newest.append(number)
        if len(self.newest) <= NEWEST:
            return []
        old, place = self.newest.popleft(), self.passed
        self.passed += 1
        if place % self.stride:
            return [old]
        self.older.append(old)
        if len(self.older) <= NEWEST:
            return []
        dropped = self.older[1::2]
        self.older, self.stride = self.older[::2], 2 * self.stride
        return dropped


class Events:
    """Growing events; not safe between threads. `bounded`: what crowds is let go of, because it is on disk."""

    def __init__(self, bounded: bool) -> None:
        self.count = 0  # the number of the next
        self.whole = True  # nothing was let go of
        self._bounded = bounded
        self._held: dict[int, Event] = {}
        self._crowds = {kind: _Crowd() for kind in CROWDS}
        self._best: int | None = None
        self._best_crowded_out = False

    def add(self, event: Event) -> int:
        """Hold `event`; its number."""
        number, self.count = self.count, self.count + 1
        self._held[number] = event
        if self._bounded and isinstance(event, CROWDS):
            if isinstance(event, EvalDone) and event.step == event.best_step:
                self._now_best(number)
            for dropped in self._crowds[type(event)].add(number):
                self._let_go(dropped)
        return number

    def _now_best(self, number: int) -> None:
        if self._best is not None and self._best_crowded_out:
            del self._held[self._best]
        self._best, self._best_crowded_out = number, False

    def _let_go(self, number: int) -> None:
        self.whole = False
        if number == self._best:
            self._best_crowded_out = True
        else:
            del self._held[number]

    def forget(self, number: int) -> None:
        """Take back an event that no longer counts (of no kind that crowds)."""
        self._held.pop(number, None)

    def since(self, number: int) -> list[Event]:
        """Those from that number on, in order."""
        if number <= 0:
            return list(self._held.values())
        found = []
        for at in reversed(self._held):
            if at < number:
                break
            found.append(self._held[at])
        return found[::-1]

    def newest(self, kind: type[Kind]) -> Kind | None:
        """The last of a kind, or None."""
        return next((event for event in reversed(self._held.values()) if isinstance(event, kind)), None)
