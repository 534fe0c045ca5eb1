"""One turn at a time: the process-wide lease, and the random streams that change hands with it.

accelerate's state and torch's global generators belong to the process, so sessions take turns, step by step. A session
that draws from the global generators has its own streams, swapped in for its turn; one that does not leaves them alone.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


class Lease:
    """A lock that is handed to whoever has waited longest."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._held = False

    def acquire(self) -> None:
        """Wait for one's turn."""
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Event()
            self._queue.append(mine)
        mine.wait()

    def release(self) -> None:
        """Hand the turn to the next in the queue."""
        with self._guard:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._held = False

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self._queue)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


LEASE = Lease()


@dataclass
class Streams:
    """A snapshot of the global random generators of torch (CPU and CUDA), Python and numpy."""

    torch_cpu: torch.Tensor
    torch_cuda: list[torch.Tensor]
    python: tuple[Any, ...]
    numpy: dict[str, Any]

    @classmethod
    def now(cls) -> Streams:
        """The state of the generators as they are."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(torch.get_rng_state(), cuda, random.getstate(), np.random.get_state(legacy=False))

    @classmethod
    def seeded(cls, seed: int) -> Streams:
        """The state that seeding all with `seed` gives. The global ones are not touched: another may be using them."""
        devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        return cls(
            torch.Generator().manual_seed(seed).get_state(),
            [torch.Generator(f"cuda:{index}").manual_seed(seed).get_state() for index in devices],
            random.Random(seed).getstate(),
            np.random.RandomState(seed).get_state(legacy=False),
        )

    def put(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:
            torch.cuda.set_rng_state_all(self.torch_cuda)
        random.setstate(self.python)
        np.random.set_state(self.numpy)


@contextmanager
def seeded_streams(seed: int) -> Iterator[None]:
    """Seed the global generators inside; the user's state is put back."""
    users = Streams.now()
    Streams.seeded(seed).put()
    try:
        yield
    finally:
        users.put()


class Turn:
    """A session's turns: the lease and, where it draws from the global generators, its streams."""

    def __init__(self, lease: Lease, streams: Streams, draws: bool) -> None:
        self._lease = lease
        self._streams = streams
        self.draws = draws
        self._held = False
        self._users: Streams | None = None

    @property
    def streams(self) -> Streams:
        """The session's own streams as they are now."""
        return self._streams if self._users is None else Streams.now()

    def restore(self, streams: Streams) -> None:
        """Go on from a checkpoint's streams."""
        self._streams = streams
        if self._users is not None:
            streams.put()

    def begin_drawing(self) -> None:
        """From now on the session draws from the global generators: dropout was raised from 0."""
        self.draws = True
        if self._held and self._users is None:
            self._swap_in()

    def _swap_in(self) -> None:
        self._users = Streams.now()
        self._streams.put()

    def take(self) -> None:
        """Wait for the lease, then swap the session's streams in."""
        self._lease.acquire()
        self._held = True
        try:
            if self.draws:
                self._swap_in()
        except BaseException:
            self._held = False
            self._lease.release()
            raise

    def give(self) -> None:
        """Put the user's streams back and hand the lease on."""
        try:
            if self._users is not None:
                self._streams = Streams.now()
                self._users.put()
                self._users = None
        finally:
            self._held = False
            self._lease.release()
