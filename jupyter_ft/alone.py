"""One thread of one process of this machine at a time in a folder, by a lock of the operating system.

The system lets go of it when a process dies, so it is never stale. It is meant for moments: what is held for long is
the file `lock` in a run folder, which says by whom.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .demo import cache_folder

_threads = threading.Lock()  # a network file system may keep other processes out, but not threads of this one


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, nobody else is inside for `folder`; waits for its turn. `OSError` where there is no folder."""
    with _threads:
        handle = _locked(folder)
        try:
            yield
        finally:
            os.close(handle)


def _locked(folder: Path) -> int:
    """The folder itself, locked; where its file system has no such locks (or Windows no such files), a stand-in."""
    with suppress(OSError):
        return _lock(folder, os.O_RDONLY)
    name = hashlib.sha256(str(folder.resolve(strict=True)).encode()).hexdigest()[:16]
    stand_in = cache_folder() / "locks" / name
    stand_in.parent.mkdir(parents=True, exist_ok=True)
    return _lock(stand_in, os.O_RDWR | os.O_CREAT)


def _lock(place: Path, flags: int) -> int:
    handle = os.open(place, flags, 0o600)
    try:
        _wait_for(handle)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _wait_for(handle: int) -> None:
    if os.name != "nt":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
        return
    import msvcrt

    while True:  # it gives up after ten seconds
        with suppress(OSError):
            msvcrt.locking(handle, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined,unused-ignore]
            return
