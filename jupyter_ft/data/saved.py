"""Examples in a file of our own (JSON Lines under a header line), for data that cannot be read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import IO, Any

from jupyter_ft.errors import DataError

from .formats import Examples
from .spool import Spool

_MARK = "jupyter_ft_rows"
_VERSION = 1


def save_rows(examples: Examples, path: str | Path) -> None:
    """Writes `examples` to `path`, whole or not at all; `load_rows` gives them back exactly."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for line in _lines(examples):
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _lines(examples: Examples) -> Iterator[str]:
    header = {
        f.name: getattr(examples, f.name) for f in fields(examples) if f.name not in {"rows", "beside", "numbers"}
    }
    header = {_MARK: _VERSION, "rows": len(examples.rows), **header, "beside": list(examples.beside)}
    yield json.dumps(header)
    yield from map(json.dumps, examples.rows)
    for beside in examples.beside.values():
        yield from _lines(beside)


def is_saved(data: object) -> bool:
    """Whether `data` is the path of a file that `save_rows` wrote."""
    if not isinstance(data, str | Path) or not str(data).endswith(".jsonl"):
        return False
    begins = f'{{"{_MARK}": '.encode()
    try:
        with Path(data).expanduser().open("rb") as file:
            return file.read(len(begins)) == begins
    except OSError:
        return False


def load_rows(path: str | Path) -> Examples:
    """The examples that `save_rows` wrote to `path`.

    Raises `DataError` where the file is missing, cut short or not one of ours.
    """
    path = Path(path).expanduser()
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            examples = _examples(file, path)
            if file.readline().strip():
                raise DataError(f"{path.name} is longer than it says; read the original data again")
        return examples
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} does not hold rows saved by jupyter-ft; read the original data again") from None


def _examples(file: IO[str], path: Path) -> Examples:
    header: dict[str, Any] = json.loads(file.readline())
    if header.pop(_MARK) != _VERSION:
        raise DataError(f"{path.name} was written by another version of jupyter-ft; read the original data again")
    count = header.pop("rows")
    names = header.pop("beside", [])
    rows = Spool(json.loads(line) for line in islice(file, count))
    if len(rows) != count:
        raise DataError(f"{path.name} is cut short; read the original data again")
    beside = {name: _examples(file, path) for name in names}
    return Examples(rows=rows, **{**header, "notes": tuple(header["notes"])}, beside=beside)
