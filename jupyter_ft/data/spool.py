"""Rows on disk that read like a list: memory does not grow with them, but for a few numbers each."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from threading import Lock
from typing import Any, overload

import numpy as np

from jupyter_ft.demo import cache_folder
from jupyter_ft.errors import DataError

_IN_MEMORY = 2**24  # bytes; small data never touch the disk


class _Disk:
    """A file in the cache folder, without a name; the cell and the training thread may read it at the same time."""

    def __init__(self) -> None:
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            where: str | None = str(folder)
        except OSError:  # a home that cannot be written to
            where = None
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=where)  # noqa: SIM115 - closed in __del__
        self._lock = Lock()

    def write(self, at: int, data: bytes) -> None:
        with self._lock:
            try:
                self._file.seek(at)
                self._file.write(data)
            except OSError as error:
                folder = cache_folder()
                raise DataError(
                    f"the rows cannot be put into {folder} ({error.strerror}); make room or set JUPYTER_FT_CACHE"
                ) from None

    def read(self, at: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(at)
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class Spool(Sequence[dict[str, Any]]):
    """A list of JSON objects, in order, that can only grow at its end.

    The file is in the cache folder and has no name, so that nothing is left of it when the process ends. `keys` holds
    64 bits for each row; rows are the same where their keys are. In a `with`, the file goes where an error leaves it.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self._disk = _Disk()
        self._starts, self._sizes, self.keys = array("Q"), array("Q"), array("Q")
        self._end = 0
        for row in rows:
            self.append(row)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:  # whoever keeps the error keeps the frames, and with them this
            self._disk.close()

    def append(self, row: dict[str, Any]) -> None:
        """Put `row` at the end."""
        self.append_line(json.dumps(row, separators=(",", ":")).encode())

    def append_line(self, line: bytes) -> None:
        """Put a row that is JSON already at the end."""
        self._disk.write(self._end, line)
        self._starts.append(self._end)
        self._sizes.append(len(line))
        self.keys.append(int.from_bytes(blake2b(line, digest_size=8).digest(), "little"))
        self._end += len(line)

    def subset(self, indices: Iterable[int]) -> Spool:
        """The rows of these numbers (from 0), in this order; the file is shared, so neither may grow after it."""
        part = Spool.__new__(Spool)
        part._disk, part._end = self._disk, self._end
        chosen = array("Q", indices)
        part._starts = array("Q", (self._starts[index] for index in chosen))
        part._sizes = array("Q", (self._sizes[index] for index in chosen))
        part.keys = array("Q", (self.keys[index] for index in chosen))
        return part

    def distinct(self) -> int:
        """How many different rows there are."""
        return len(np.unique(np.frombuffer(self.keys, np.uint64))) if len(self) else 0

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Spool: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | Spool:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        row: dict[str, Any] = json.loads(self._disk.read(self._starts[index], self._sizes[index]))
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Spool, list)):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Spool({len(self):,} rows)"
