"""The steps of a run, a row of float64 each: on disk as they come; in memory the newest, and a picture of them all.

    steps/0001.f64    a line of JSON, {"columns": ["step", …], "after": null}, then the rows, little-endian

A file is only ever appended to. A new one begins when the log is opened again, when a column appears, and when steps
are taken back: the rows of earlier files past the step `after` do not count. A torn row or first line is passed over.
"""

from __future__ import annotations

import errno
import json
import os
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from .picture import Floats, Picture

BASE_COLUMNS = ("step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds", "epoch")
TIME = "time"  # on disk alone: seconds since the epoch
WATCHED = [BASE_COLUMNS.index(name) for name in ("loss", "grad_norm")]
NEWEST = 4096  # rows kept in memory at least
BLOCK = 65536  # rows read from disk at a time
BRANCHES = 8  # times that steps were taken back which are remembered


@dataclass
class _Part:
    """Rows `first` to `first + rows` of the run: in a file after its first line, or (of an old log) in memory."""

    columns: tuple[str, ...]
    first: int
    rows: int
    path: Path | None = None
    offset: int = 0  # bytes
    held: Floats | None = None  # (columns, rows)

    def read(self, start: int, stop: int) -> Floats:
        """Those of its rows that are numbers `start` to `stop` of the run, as (columns, rows); fewer where lost."""
        start, stop = start - self.first, stop - self.first
        if self.path is None:
            assert self.held is not None
            return self.held[:, start:stop]
        wide = len(self.columns)
        found = np.fromfile(self.path, "<f8", (stop - start) * wide, offset=self.offset + start * wide * 8)
        return found[: len(found) // wide * wide].reshape(-1, wide).T


class Steps:
    """Growing columns of float64, one row a step; a column that starts late is NaN before. Not safe between threads.

    Without a folder all rows stay in memory. `before` are rows that are kept elsewhere.
    """

    def __init__(self, folder: Path | None = None, before: Steps | None = None) -> None:
        self.columns = {name: place for place, name in enumerate((*BASE_COLUMNS, TIME))}
        self.rows = 0
        self._folder = folder
        self._parts: list[_Part] = []
        self._newest: Floats = np.empty((2 * NEWEST, len(self.columns)))  # by row, as on disk
        self._start = 0  # number of the first row of `_newest`
        self._saved = 0  # rows that are on disk
        self._file: FileIO | None = None
        self._last_file = 0
        self._after: int | None = None  # steps were taken back, and the disk does not know yet
        self._picture = Picture(WATCHED)
        self.abandoned: list[tuple[Floats, Floats]] = list(before.abandoned) if before is not None else []
        if before is not None and before.rows:
            self._know(before.columns)
            self._join(_Part(tuple(before.columns), 0, before.rows, held=before._read(0, before.rows)))
        for path in sorted(folder.glob("[0-9]*.f64"), key=_number) if folder is not None else ():
            self._last_file = _number(path)
            self._load(path)

    # --- writing ---

    def append(self, values: dict[str, float]) -> None:
        """Add one row; a name not seen before becomes a column. `save` writes it."""
        if not values.keys() <= self.columns.keys():
            self._know(values)
        if self.rows - self._start == len(self._newest):
            self._make_room()
        self._newest[self.rows - self._start] = [values.get(name, np.nan) for name in self.columns]
        self.rows += 1

    def _know(self, names: Iterable[str]) -> None:
        fresh = [name for name in names if name not in self.columns]
        if fresh:
            self.columns |= {name: place for place, name in enumerate(fresh, len(self.columns))}
            wider = np.full((len(self._newest), len(self.columns)), np.nan)
            wider[:, : self._newest.shape[1]] = self._newest
            self._newest = wider
            self._close_file()

    def _make_room(self) -> None:
        """Let go of what is on disk but the newest rows; where nothing can be let go of, grow."""
        self._complete_picture()
        past = max(0, min(self._saved, self.rows - NEWEST) - self._start)
        kept = self._newest[past:]
        self._newest = np.concatenate([kept, np.empty((max(len(kept), NEWEST), len(self.columns)))])
        self._start += past

    def truncate(self, last_step: int) -> None:
        """Take back the rows after `last_step`."""
        rows = self._rows_until(last_step)
        if rows < self.rows:
            self._cut(rows)
            self._after = last_step

    def _rows_until(self, last_step: int) -> int:
        return bisect_right(range(self.rows), last_step, key=lambda row: self._read(row, row + 1)[0, 0])

    def _cut(self, rows: int) -> None:
        self._remember(rows)
        self._close_file()
        self.rows, self._start, self._saved = rows, min(self._start, rows), min(self._saved, rows)
        for part in self._parts:
            part.rows = max(0, min(part.rows, rows - part.first))
        self._parts = [part for part in self._parts if part.rows]
        self._picture.cut(rows)

    def _remember(self, rows: int) -> None:
        """The numbers and losses of the rows that are taken back now, pictured, from the last one that stays."""
        if rows < self.rows:
            left = self.pictured(max(0, rows - 1))
            self.abandoned = [*self.abandoned, (left["step"].copy(), left["loss"].copy())][-BRANCHES:]

    # --- the disk ---

    def save(self) -> None:
        """Hand what is new to the system; a killed process loses none of it. `OSError` where the disk is full.

        What could not be written stays in memory and is tried again the next time.
        """
        if self._folder is None or (self._saved == self.rows and self._after is None):
            return
        file = self._file or self._begin_file(self._folder)
        part, wide = self._parts[-1], len(self.columns)
        data = self._newest[self._saved - self._start : self.rows - self._start].astype("<f8", copy=False).tobytes()
        file.seek(part.offset + part.rows * wide * 8)  # over a row that was cut short by a full disk
        _write(file, data)
        part.rows += self.rows - self._saved
        self._saved = self.rows

    def _begin_file(self, folder: Path) -> FileIO:
        folder.mkdir(exist_ok=True)
        path = folder / f"{self._last_file + 1:04}.f64"
        head = json.dumps({"columns": list(self.columns), "after": self._after}).encode() + b"\n"
        file = FileIO(path, "x")
        try:
            _write(file, head)
        except OSError:
            file.close()
            path.unlink()
            raise
        self._last_file += 1
        self._parts.append(_Part(tuple(self.columns), self._saved, 0, path, len(head)))
        self._file, self._after = file, None
        return file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    close = _close_file

    def _load(self, path: Path) -> None:
        with path.open("rb") as file:
            head = file.readline()
            size = os.fstat(file.fileno()).st_size
        try:
            said = json.loads(head)
            columns, after = tuple(map(str, said["columns"])), said["after"]
        except (ValueError, KeyError, TypeError):
            return  # torn, or not ours
        if not head.endswith(b"\n") or columns[:1] != ("step",):
            return
        if after is not None:
            self._cut(self._rows_until(int(after)))
        self._know(columns)
        self._join(_Part(columns, self.rows, (size - len(head)) // (8 * len(columns)), path, len(head)))

    def _join(self, part: _Part) -> None:
        self._parts.append(part)
        self.rows += part.rows
        self._start = self._saved = self.rows

    # --- reading ---

    def _read(self, start: int, stop: int) -> Floats:
        """A copy of the rows from number `start` to `stop`, as (columns, rows)."""
        found = np.full((len(self.columns), stop - start), np.nan)
        for part in self._parts:
            low, high = max(start, part.first), min(stop, part.first + part.rows, self._start)
            for at in range(low, high, BLOCK):
                rows = part.read(at, min(at + BLOCK, high))
                places = [self.columns[name] for name in part.columns]
                found[places, at - start : at - start + rows.shape[1]] = rows
        low = max(start, self._start)
        if low < stop:
            found[:, low - start :] = self._newest[low - self._start : stop - self._start].T
        return found

    def since(self, row: int) -> dict[str, Floats]:
        """Copies of the columns from row number `row` on."""
        return self._named(self._read(row, self.rows))

    def pictured(self, row: int) -> dict[str, Floats]:
        """The rows from number `row` on; of many, some tens of thousands at most, with all peaks and bad steps."""
        if self.rows - row <= NEWEST:
            return self.since(row)
        self._complete_picture()
        border = min(self._picture.border(row), self.rows)
        rest = self._picture.since(border)
        return self._named(np.concatenate([self._read(row, border), rest], axis=1) if border > row else rest.copy())

    def _complete_picture(self) -> None:
        for start in range(self._picture.taken, self.rows, BLOCK):
            self._picture.extend(self._read(start, min(start + BLOCK, self.rows)))

    def last(self) -> dict[str, float]:
        """The last row; empty where there is none."""
        return {name: float(values[0]) for name, values in self.since(self.rows - 1).items()} if self.rows else {}

    def _named(self, columns: Floats) -> dict[str, Floats]:
        return {name: values for name, values in zip(self.columns, columns, strict=False) if name != TIME}


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


def _write(file: FileIO, data: bytes) -> None:
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
