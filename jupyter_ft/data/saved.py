"""Examples in a file of our own (JSON Lines under a header line), for data that cannot be read again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from jupyter_ft.errors import DataError

from .formats import Examples

_MARK = "jupyter_ft_rows"
_VERSION = 1


def save_rows(examples: Examples, path: str | Path) -> None:
    """Writes `examples` to `path`, whole or not at all; `load_rows` gives them back exactly."""
    path = Path(path)
    header = asdict(examples)
    rows = header.pop("rows")
    lines = [json.dumps({_MARK: _VERSION, "rows": len(rows), **header}), *(json.dumps(row) for row in rows)]
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_rows(path: str | Path) -> Examples:
    """The examples that `save_rows` wrote to `path`.

    Raises `DataError` where the file is missing, cut short or not one of ours.
    """
    path = Path(path)
    try:
        header, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if header.pop(_MARK) != _VERSION:
            raise DataError(f"{path.name} was written by another version of jupyter-ft; read the original data again")
        if header.pop("rows") != len(rows):
            raise DataError(f"{path.name} is cut short; read the original data again")
        return Examples(rows=rows, **{**header, "notes": tuple(header["notes"])})
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} does not hold rows saved by jupyter-ft; read the original data again") from None
