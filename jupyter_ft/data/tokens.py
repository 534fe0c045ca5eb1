"""Token rows on disk: an Arrow file that is mapped into memory, so that only the rows of this step are in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_BATCH_TOKENS = 2**20
PACKED_COLUMNS = ("seq_lengths", "input_ids", "labels")
"""The columns of packed rows; a column of tokens is last, since it is by that one that batches are filled."""


class TokenFile:
    """Takes token rows one by one; `dataset()` gives them as a `datasets.Dataset` over the file.

    A context manager: on leaving, the file is whole at `path`, or, after an error, not there (and an older one stays).
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str] = ("input_ids", "labels"),
        flags: Sequence[str] = (),
        numbers: Sequence[str] = (),
        texts: Sequence[str] = (),
    ) -> None:
        import pyarrow

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._partial = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        ids = pyarrow.list_(pyarrow.int32())
        kinds = ((columns, ids), (flags, pyarrow.bool_()), (numbers, pyarrow.int64()), (texts, pyarrow.large_string()))
        self._schema = pyarrow.schema([(name, kind) for names, kind in kinds for name in names])
        self._file = pyarrow.OSFile(str(self._partial), "wb")
        self._writer = pyarrow.ipc.new_stream(self._file, self._schema)
        self._columns, self._held = columns, dict[str, list[Any]]({name: [] for name in self._schema.names})
        self._held_tokens, self._rows = 0, 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Put `row`, token ids (a truth value where it is a flag, a text, else one number) by column, at the end."""
        for name, held in self._held.items():
            held.append(row[name])
        self._rows += 1
        self._held_tokens += len(row[self._columns[-1]])
        if self._held_tokens >= _BATCH_TOKENS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        self._writer.write_batch(pyarrow.record_batch(self._held, schema=self._schema))
        self._held = {name: [] for name in self._held}
        self._held_tokens = 0

    def __len__(self) -> int:
        return self._rows

    def __enter__(self) -> TokenFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            self._file.close()
            if kind is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def dataset(self) -> Any:
        """The rows, mapped into memory."""
        from datasets import Dataset

        return Dataset.from_file(str(self.path))


def save_tokens(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write token rows that are in memory to an Arrow file, whole or not at all."""
    with TokenFile(path, columns) as file:
        for row in rows:
            file.append(row)
