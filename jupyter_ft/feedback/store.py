"""Where judgements are kept: one table of `feedback.sqlite` in the run folder, which several kernels may write to.

What `add` has returned from is on disk (a write-ahead log with full sync; where a network drive cannot have one, a
rollback journal). Nothing is ever deleted: what is undone is marked.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ..errors import RunFolderError
from .judgement import Judgement

VERSION = 1
PATIENCE = 30.0  # seconds for another kernel that writes
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "webdav"})
"""File systems without the shared memory that a write-ahead log needs; those of FUSE (Colab's Drive, sshfs) too."""
_TABLE = """
CREATE TABLE IF NOT EXISTS judgements (
  id TEXT PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, choice TEXT, good INTEGER, prompt TEXT NOT NULL,
  answers TEXT NOT NULL, edited TEXT NOT NULL, tags TEXT NOT NULL, comment TEXT NOT NULL, reviewer TEXT NOT NULL,
  blind INTEGER NOT NULL, held_out INTEGER NOT NULL, shown TEXT NOT NULL, undone REAL
)"""
_JSON = ("prompt", "answers", "tags", "shown")
_COLUMNS = tuple(Judgement.model_fields)


class Store:
    """The table at `path`; the file is made by the first judgement. Safe between threads and between processes.

    Every method raises `RunFolderError` where the file is none of ours or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, judgements: Iterable[Judgement]) -> int:
        """Keep them, all or none; those whose `id` is known already are passed over. Gives how many are new."""
        rows = [_row(one) for one in judgements]
        marks = ", ".join("?" for _ in _COLUMNS)
        with self._open(to_write=True) as table:
            before = table.total_changes
            table.executemany(f"INSERT OR IGNORE INTO judgements ({', '.join(_COLUMNS)}) VALUES ({marks})", rows)
            return table.total_changes - before

    def undo(self, judgement: str) -> bool:
        """Mark the judgement with that id as undone; False where there is none in force."""
        if not self.path.exists():
            return False
        with self._open(to_write=True) as table:
            mark = "UPDATE judgements SET undone = ? WHERE id = ? AND undone IS NULL"
            return table.execute(mark, (time.time(), judgement)).rowcount == 1

    def read(self, *, undone: bool = False) -> list[Judgement]:
        """The judgements in force, in the order in which they were made; or those that were undone."""
        if not self.path.exists():
            return []
        which = "IS NOT NULL" if undone else "IS NULL"
        with self._open() as table:
            if not table.execute("PRAGMA user_version").fetchone()[0]:
                return []  # the first judgement is being written
            found = table.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM judgements WHERE undone {which} ORDER BY time, rowid"
            ).fetchall()
        return [_judgement(row) for row in found]

    @property
    def journal(self) -> str:
        """`wal`, or how else a judgement is kept from being half written."""
        with self._open() as table:
            return str(table.execute("PRAGMA journal_mode").fetchone()[0])

    @contextmanager
    def _open(self, *, to_write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection of its own, for any thread; to write, a transaction, which is on disk when it is left."""
        try:
            table = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            try:
                self._check_version(table)
                table.execute("PRAGMA synchronous = FULL")
                if to_write:
                    self._choose_journal(table)
                    table.execute("BEGIN IMMEDIATE")
                    table.execute(_TABLE)
                    table.execute(f"PRAGMA user_version = {VERSION}")
                yield table
                if to_write:
                    table.execute("COMMIT")
            finally:
                table.close()  # what was not committed is not there
        except sqlite3.Error as error:
            raise RunFolderError(
                f"{self.path} cannot be used ({error}); make room there or move the file away"
            ) from None

    def _check_version(self, table: sqlite3.Connection) -> None:
        version = table.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise RunFolderError(f"{self.path} was written by a newer version of jupyter-ft; upgrade this one")

    def _choose_journal(self, table: sqlite3.Connection) -> None:
        wanted = "delete" if on_network(self.path, mounts()) else "wal"
        if table.execute("PRAGMA journal_mode").fetchone()[0] != wanted:
            with suppress(sqlite3.OperationalError):  # somebody else writes: as it is now, it is as safe
                table.execute(f"PRAGMA journal_mode = {wanted}")


def _row(judgement: Judgement) -> list[Any]:
    values = judgement.model_dump(mode="json")
    return [json.dumps(values[name]) if name in _JSON else values[name] for name in _COLUMNS]


def _judgement(row: Sequence[Any]) -> Judgement:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Judgement.model_validate(values | {name: json.loads(values[name]) for name in _JSON})


def mounts() -> list[tuple[Path, str]]:
    """Where file systems are mounted, and of which type they are."""
    with suppress(OSError, psutil.Error):
        return [(Path(part.mountpoint), part.fstype.lower()) for part in psutil.disk_partitions(all=True)]
    return []


def on_network(path: Path, mounted: Iterable[tuple[Path, str]]) -> bool:
    """Whether `path` is on a drive that several machines may share, by the mount that is nearest above it."""
    above = [(len(place.parts), kind) for place, kind in mounted if path.resolve().is_relative_to(place)]
    kind = max(above, default=(0, ""))[1]
    return kind in NETWORK or kind.startswith("fuse")
