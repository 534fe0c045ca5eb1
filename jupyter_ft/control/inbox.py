"""Where commands wait for the training thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ..messages import ForTrainer


class Inbox:
    """Commands in the order in which they came. Safe to use from any thread."""

    def __init__(self) -> None:
        self._waiting: list[ForTrainer] = []
        self._changed = threading.Condition()
        self._closed = self._nudged = False

    def put(self, command: ForTrainer) -> bool:
        """Leave a command; False where nobody will read it any more."""
        with self._changed:
            if self._closed:
                return False
            self._waiting.append(command)
            self._changed.notify_all()
            return True

    def nudge(self) -> None:
        """Wake who waits in `take`, with nothing to take."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def put_back(self, commands: Iterable[ForTrainer]) -> None:
        """Commands that were taken and not answered come first again."""
        with self._changed:
            self._waiting = [*commands, *self._waiting]
            self._changed.notify_all()

    def take(self, wait: bool = False) -> list[ForTrainer]:
        """All that waits now; with `wait`, block until there is something, or a nudge."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: bool(self._waiting) or self._nudged)
            self._nudged = False
            taken, self._waiting = self._waiting, []
            return taken

    def wait_for(self, kind: type[ForTrainer], seconds: float) -> None:
        """Block until a command of that kind waits, or a nudge comes, `seconds` at most; nothing is taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._nudged or any(isinstance(c, kind) for c in self._waiting), seconds)
            self._nudged = False

    def take_all(self, kind: type[ForTrainer]) -> list[ForTrainer]:
        """Only the commands of that kind; the others go on waiting."""
        with self._changed:
            taken = [command for command in self._waiting if isinstance(command, kind)]
            self._waiting = [command for command in self._waiting if not isinstance(command, kind)]
            return taken

    def holds(self, kind: type[ForTrainer]) -> bool:
        """Whether a command of that kind waits."""
        with self._changed:
            return any(isinstance(command, kind) for command in self._waiting)

    def close(self) -> list[ForTrainer]:
        """Take nothing more; what was left unread is returned, to be refused."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, []
            return left
