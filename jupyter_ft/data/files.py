"""The rows in a file: CSV and its relatives, JSON Lines, JSON, each also gzipped (`.gz`).

Each reader gives the rows one by one with the line at which each begins (0 for JSON, which has to be read whole).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import IO, cast

from jupyter_ft.errors import DataError

from .checks import MAX_DEPTH, Row, check_row, place, shown

Found = Generator[tuple[int, Row]]

_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_DELIMITERS = ",;\t|"
_CHUNK = 2**20  # bytes
_LONGEST_CELL = 2**30  # characters; the csv module's own limit is 131072


def check_text(path: Path) -> None:
    """Read the file once, to find out early that it is UTF-8 text.

    Raises `DataError` where it cannot be opened, is empty, holds NULs or is in another encoding (with the line).
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    blank, line, done = True, 1, 0
    try:
        with closing(_opened(path)) as file:
            mark = file.read(4)
            for bom, encoding in _BOMS.items():
                if mark.startswith(bom):
                    raise DataError(f"{path.name} is {encoding}, not UTF-8; save it as UTF-8")
            chunk = mark.removeprefix(codecs.BOM_UTF8)
            while chunk or mark:
                pending = len(decoder.getstate()[0])
                if b"\0" in chunk:
                    line += chunk.count(b"\n", 0, chunk.index(b"\0"))
                    raise DataError(f"{path.name}, line {line} has a NUL character; delete it, or save it as UTF-8")
                try:
                    blank = not decoder.decode(chunk).strip() and blank
                except UnicodeDecodeError as error:
                    raise _not_utf8(
                        path, error, line + error.object.count(b"\n", 0, error.start), done - pending
                    ) from None
                line, done = line + chunk.count(b"\n"), done + len(chunk)
                mark, chunk = b"", file.read(_CHUNK)
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, error, line, done - len(error.object)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise _unopened(path, error) from None
    if blank:
        raise DataError(f"{path.name} is empty; give a file with at least one row")


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _unopened(path: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{path.name} cannot be opened ({error.strerror}); check its permissions")
    return DataError(f"{path.name} is no whole gzip file ({error}); download or compress it again")


def _not_utf8(path: Path, error: UnicodeDecodeError, line: int, before: int) -> DataError:
    byte = error.object[error.start]
    at = before + error.start
    return DataError(f"{path.name}, line {line}: byte {at} (0x{byte:02x}) is not UTF-8; save it as UTF-8")


def opened_text(path: Path, newline: str | None) -> IO[str]:
    """The file opened as UTF-8 text, unzipped where it is gzipped; `newline` as for `open`."""
    if path.suffix.lower() == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding="utf-8-sig", newline=newline))
    return path.open(encoding="utf-8-sig", newline=newline)


def rows_of_csv(path: Path) -> Found:
    """Rows of a CSV with a header; the delimiter is the one of `, ; tab |` under which header and rows agree best."""
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield from _table(path, _delimiter(path))
    finally:
        csv.field_size_limit(usual)


def _table(path: Path, delimiter: str) -> Found:
    name, empty = path.name, True
    with closing(_records(path, delimiter)) as records:
        header = _header(next(records)[1], name)
        for line, cells in records:
            if len(cells) > len(header):
                raise DataError(
                    f"{name}, line {line} has {len(cells)} cells and the header {len(header)}; put double quotes "
                    f"around a cell that contains {'a tab' if delimiter == chr(9) else repr(delimiter)}"
                )
            yield line, dict(zip(header, cells + [None] * (len(header) - len(cells)), strict=True))
            empty = False
    if empty:
        raise DataError(f"{name} has a header and no rows; add at least one row under it")


def _records(path: Path, delimiter: str) -> Generator[tuple[int, list[str | None]]]:
    with opened_text(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells: list[str | None] = [*next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{path.name}, line {line}: a double quote is not closed or not doubled ({error}); "
                    'close it, and write " inside a quoted cell as ""'
                ) from None
            if cells:
                yield line, cells


def _header(cells: list[str | None], name: str) -> list[str]:
    header = [(cell or "").strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    for position, column in enumerate(header):
        if column in header[:position]:
            raise DataError(f"{name}, line 1 names two columns {shown(column)}; rename one of them")
    return header


def _delimiter(path: Path) -> str:
    if path.name.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            with closing(_records(path, delimiter)) as records:
                widths = [len(cells) for _, cells in islice(records, 50)]
        except DataError:
            continue
        agreeing = sum(width == widths[0] for width in widths) / len(widths) if widths else 0.0
        if widths and widths[0] > 1 and (agreeing, widths[0]) > best_score:
            best, best_score = delimiter, (agreeing, widths[0])
    return best


def rows_of_json_lines(path: Path) -> Found:
    """Rows of JSON Lines: one object on each line; blank lines are passed over."""
    with opened_text(path, newline="\n") as file:  # U+2028 is allowed inside a JSON string
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path.name}, line {number}"
                yield number, check_row(_decoded(line, where, rest=file), where)


def _decoded(line: str, where: str, *, rest: Iterator[str]) -> object:
    line = line.removesuffix("\n")
    try:
        return _parse(line, where)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated")
        if line.strip() in {"[", "{"}:
            fix = "put one object on each line, or name the file .json"
        elif cut and not any(later.strip() for later in rest):
            raise DataError(f"{where}: the last line breaks off in the middle; complete or delete it") from None
        else:
            fix = "put one JSON object on each line"
        raise DataError(f"{where} is not JSON ({error.msg} at character {error.colno}); {fix}") from None


def rows_of_json(path: Path) -> Found:
    """Rows of one JSON document: a list of objects, or `{"data": [...]}`."""
    name = path.name
    try:
        with opened_text(path, newline="") as file:
            document = _parse(file.read(), name)
    except json.JSONDecodeError as error:
        fix = "name the file .jsonl if each line is an object" if error.msg == "Extra data" else "correct it there"
        raise DataError(f"{name}, line {error.lineno} is not JSON ({error.msg}, column {error.colno}); {fix}") from None
    rows = document.get("data") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f'{name} holds no list of rows; write [{{…}}, {{…}}] or {{"data": [{{…}}, {{…}}]}}')
    if not rows:
        raise DataError(f"{name} holds an empty list; give at least one row")
    for index, row in enumerate(rows):
        yield 0, check_row(row, place(name, None, index))


def _parse(text: str, where: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in names if names.count(key) > 1)
            raise DataError(f"{where} has the key {shown(twice)} twice in one object; delete one of them")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise DataError(f"{where} is nested more than {MAX_DEPTH} deep; flatten it") from None


READERS: dict[str, Callable[[Path], Found]] = {
    ".csv": rows_of_csv,
    ".tsv": rows_of_csv,
    ".jsonl": rows_of_json_lines,
    ".ndjson": rows_of_json_lines,
    ".json": rows_of_json,
}
"""The reader for each suffix of a text file, which may be followed by `.gz`."""
