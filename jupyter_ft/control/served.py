"""Calls from cells that belong between two steps: done by the training thread while it holds the lease.

`trainer.evaluate()` or `model.save_pretrained(…)` in the middle of a step would meet half-written weights and flip the
model out of training mode. They wait for the boundary instead; while the run is paused they are done at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..messages import ForTrainer
from .inbox import Inbox
from .lease import LEASE


class ServingInbox(Inbox):
    """An inbox that also takes calls; whoever reads the commands at a boundary does the calls first, `around` each."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._server: int | None = None
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext

    def serve_here(self) -> None:
        """This thread trains: what it calls itself is done directly."""
        self._server = threading.get_ident()

    def call(self, do: Callable[[], Any]) -> Any:
        """The result of `do`, done at the next boundary; directly from the training thread or when the run is over.

        Ctrl-C stops waiting: the call is taken back where it has not begun.
        """
        future: Future[Any] = Future()
        with self._changed:
            direct = self._closed or threading.get_ident() == self._server
            if not direct:
                self._calls.append((future, do))
                self._changed.notify_all()
        if direct:
            return do()
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def take(self, wait: bool = False) -> list[ForTrainer]:
        """As `Inbox.take`, after the calls. The turn is given up meanwhile: the user's random streams are in place."""
        while True:
            self._serve()
            with self._changed:
                if wait:
                    self._changed.wait_for(lambda: bool(self._waiting or self._calls) or self._nudged)
                if not self._calls:
                    self._nudged = False
                    taken, self._waiting = self._waiting, []
                    return taken

    def close(self) -> list[ForTrainer]:
        """As `Inbox.close`; the calls that still wait are done."""
        left = super().close()
        self._serve()
        return left

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._calls:
                    return
                future, do = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            with LEASE, self.around():
                try:
                    future.set_result(do())
                except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the cell that called
                    future.set_exception(error)


class Served:
    """Methods of an object, replaced by ones that wait for a boundary, until `restore`."""

    def __init__(self, inbox: ServingInbox) -> None:
        self._inbox = inbox
        self._before: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str) -> None:
        """Have `owner.name(…)` served where `owner` has such a method."""
        original = getattr(owner, name, None)
        if original is None:
            return

        def served(*args: Any, **kwargs: Any) -> Any:
            return self._inbox.call(lambda: original(*args, **kwargs))

        served.__doc__ = original.__doc__
        self._before.append((owner, name, vars(owner).get(name)))
        vars(owner)[name] = served

    def restore(self) -> None:
        """Give the objects their own methods back."""
        for owner, name, before in reversed(self._before):
            if before is None:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = before
        self._before.clear()
