"""One thread that computes the steps of every run on the CPU, for the run whose turn it is.

glibc keeps what a thread has freed for that thread. Runs that computed each on their own would hold the activations of
a step as many times as there are runs; given back at each turn, they would have to be faulted in again, which takes a
fifth of a step. OpenMP, too, has threads for each thread that computes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch

from .. import capture
from ..threads import openmp
from . import accelerated


class _Call:
    """What is to be done, and what came of it. It takes along what belongs to the thread that asks."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work: Callable[[], Any] | None = work
        self.done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self._asks, self._states, self._threads = threading.get_ident(), accelerated.here(), torch.get_num_threads()

    def do(self) -> None:
        """Do it as the thread that asked would have."""
        work, self.work = self.work, None
        assert work is not None
        try:
            with ExitStack() as stack:
                stack.enter_context(capture.standing_for(self._asks))
                if self._states is not None:
                    stack.enter_context(accelerated.under(self._states))
                stack.enter_context(_with_threads(self._threads))
                self.value = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it was asked for
            self.error = error


def _with_threads(count: int) -> AbstractContextManager[Any]:
    """As many as there are for the thread that asks: they are counted for each, and the last bits depend on them."""
    return nullcontext() if torch.get_num_threads() == count else openmp().limit(limits=count)


class Computing:
    """The thread, which lives while somebody is `among` its runs. Nothing of a call is held when it has returned."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._runs = 0
        self._calls: queue.SimpleQueue[_Call | None] | None = None

    @contextmanager
    def among(self) -> Iterator[None]:
        """Inside, a run may ask it to compute; the last that leaves ends the thread."""
        with self._guard:
            self._runs += 1
        try:
            yield
        finally:
            with self._guard:
                self._runs -= 1
                if self._runs == 0 and self._calls is not None:
                    self._calls.put(None)
                    self._calls = None

    @property
    def shared(self) -> bool:
        """Whether more than one run is here."""
        return self._runs > 1

    def do(self, work: Callable[[], Any]) -> Any:
        """What `work()` gives, or raises, there. What it prints is the caller's, who is `among` its runs."""
        call = _Call(work)
        with self._guard:
            if self._calls is None:
                calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
                threading.Thread(target=_live, args=(calls,), name="jupyter-ft steps", daemon=True).start()
                self._calls = calls
            self._calls.put(call)
        call.done.wait()
        if call.error is None:
            return call.value
        error, call.error = call.error, None
        try:
            raise error
        finally:
            del error  # it holds this frame


def _live(calls: queue.SimpleQueue[_Call | None]) -> None:
    while _do(calls.get()):
        pass


def _do(call: _Call | None) -> bool:
    if call is None:
        return False
    done = call.done
    try:
        call.do()
    finally:
        del call  # before the one who asked goes on
        done.set()
    return True


COMPUTING = Computing()
