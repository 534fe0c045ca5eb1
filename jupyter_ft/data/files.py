"""The text of a file, and the rows in it: CSV and its relatives, JSON Lines, JSON.

Each reader takes the whole text and gives the rows with the line at which each begins (None for JSON).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from jupyter_ft.errors import DataError

from .checks import MAX_DEPTH, Row, check_row, place, shown

Found = tuple[list[Row], list[int] | None]

_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_DELIMITERS = ",;\t|"
_LONGEST_CELL = 2**30  # characters; the csv module's own limit is 131072


def text_of(path: Path) -> str:
    """The text of a UTF-8 file, less its byte-order mark.

    Raises `DataError` where it cannot be opened, is empty, holds NULs or is in another encoding (with the line).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be opened ({error.strerror}); check its permissions") from None
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            raise DataError(f"{path.name} is {encoding}, not UTF-8; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}, line {line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; save it as UTF-8"
        ) from None
    if not text.strip():
        raise DataError(f"{path.name} is empty; give a file with at least one row")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path.name}, line {line} has a NUL character; delete it, or save the file as UTF-8")
    return text


def rows_of_csv(text: str, name: str) -> Found:
    """Rows of a CSV with a header; the delimiter is the one of `, ; tab |` under which header and rows agree best."""
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        return _table(text, _delimiter(text, name), name)
    finally:
        csv.field_size_limit(usual)


def _table(text: str, delimiter: str, name: str) -> Found:
    records = _records(text, delimiter, name)
    header = _header(next(records)[1], name)
    rows: list[Row] = []
    lines: list[int] = []
    for line, cells in records:
        if len(cells) > len(header):
            raise DataError(
                f"{name}, line {line} has {len(cells)} cells and the header {len(header)}; put double quotes around a "
                f"cell that contains {'a tab' if delimiter == chr(9) else repr(delimiter)}"
            )
        filled = cells + [None] * (len(header) - len(cells))
        rows.append(dict(zip(header, filled, strict=True)))
        lines.append(line)
    if not rows:
        raise DataError(f"{name} has a header and no rows; add at least one row under it")
    return rows, lines


def _records(text: str, delimiter: str, name: str) -> Iterator[tuple[int, list[str | None]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells: list[str | None] = [*next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{name}, line {line}: a double quote is not closed or not doubled ({error}); "
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


def _delimiter(text: str, name: str) -> str:
    if name.lower().endswith(".tsv"):
        return "\t"
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            widths = [len(cells) for _, cells in islice(_records(text, delimiter, name), 50)]
        except DataError:
            continue
        agreeing = sum(width == widths[0] for width in widths) / len(widths) if widths else 0.0
        if widths and widths[0] > 1 and (agreeing, widths[0]) > best_score:
            best, best_score = delimiter, (agreeing, widths[0])
    return best


def rows_of_json_lines(text: str, name: str) -> Found:
    """Rows of JSON Lines: one object on each line; blank lines are passed over."""
    rows: list[Row] = []
    lines: list[int] = []
    every = text.split("\n")  # not splitlines: U+2028 is allowed inside a JSON string
    last = max(number for number, line in enumerate(every, 1) if line.strip())
    for number, line in enumerate(every, 1):
        if line.strip():
            where = f"{name}, line {number}"
            rows.append(check_row(_decoded(line, where, last=number == last), where))
            lines.append(number)
    return rows, lines


def _decoded(line: str, where: str, *, last: bool) -> object:
    try:
        return _parse(line, where)
    except json.JSONDecodeError as error:
        if line.strip() in {"[", "{"}:
            fix = "put one object on each line, or name the file .json"
        elif last and (error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated")):
            raise DataError(f"{where}: the last line breaks off in the middle; complete or delete it") from None
        else:
            fix = "put one JSON object on each line"
        raise DataError(f"{where} is not JSON ({error.msg} at character {error.colno}); {fix}") from None


def rows_of_json(text: str, name: str) -> Found:
    """Rows of one JSON document: a list of objects, or `{"data": [...]}`."""
    try:
        document = _parse(text, name)
    except json.JSONDecodeError as error:
        fix = "name the file .jsonl if each line is an object" if error.msg == "Extra data" else "correct it there"
        raise DataError(f"{name}, line {error.lineno} is not JSON ({error.msg}, column {error.colno}); {fix}") from None
    rows = document.get("data") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f'{name} holds no list of rows; write [{{…}}, {{…}}] or {{"data": [{{…}}, {{…}}]}}')
    if not rows:
        raise DataError(f"{name} holds an empty list; give at least one row")
    return [check_row(row, place(name, None, index)) for index, row in enumerate(rows)], None


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


READERS: dict[str, Callable[[str, str], Found]] = {
    ".csv": rows_of_csv,
    ".tsv": rows_of_csv,
    ".jsonl": rows_of_json_lines,
    ".ndjson": rows_of_json_lines,
    ".json": rows_of_json,
}
"""The reader for each suffix."""
