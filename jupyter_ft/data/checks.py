"""What every row must be, wherever it came from, and the one way in which it is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from jupyter_ft.errors import DataError

MAX_DEPTH = 100  # containers inside containers; data of a conversation needs three

Row = dict[str, object]


def place(name: str, lines: Sequence[int] | None, index: int) -> str:
    """`"tickets.csv, line 17"`, or `"a list, row 3"` where there are no lines; both count from 1."""
    return f"{name}, line {lines[index]}" if lines is not None else f"{name}, row {index + 1}"


def kind_of(value: object) -> str:
    """What `value` is, in the words of a message: `a list`, `null`."""
    name = type(value).__name__
    return {"dict": "an object", "NoneType": "null", "str": "a text"}.get(name, f"a {name}")


def check_row(row: object, where: str) -> Row:
    """`row` itself, when it is an object with text keys and text that any model can read.

    Raises `DataError` for anything else, for a NUL or half a surrogate pair in a text, and for nesting beyond
    `MAX_DEPTH`.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where} is {kind_of(row)}, not an object; write it as {{column: value, …}}")
    for key in row:
        if not isinstance(key, str):
            raise DataError(f"{where} has the column name {key!r}, which is no text; name columns with text")
        for text in (key, *_texts(row[key], where, key)):
            _check_text(text, where, key)
    return row


def _texts(value: object, where: str, column: str) -> Iterator[str]:
    todo: list[tuple[object, int]] = [(value, 1)]  # a stack of our own, so that depth cannot end in RecursionError
    while todo:
        item, depth = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, (dict, list, tuple)):
            if depth > MAX_DEPTH:
                raise DataError(f"{where}: {column!r} is nested more than {MAX_DEPTH} deep; flatten it")
            inside = (*item.keys(), *item.values()) if isinstance(item, dict) else item
            todo.extend((part, depth + 1) for part in inside)


def _check_text(text: str, where: str, column: str) -> None:
    if "\0" in text:
        raise DataError(f"{where}: {shown(column)} has a NUL character; delete it")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(
            f"{where}: {shown(column)} has half of a surrogate pair (a broken emoji, \\ud83d and the like); "
            "write the whole character or delete it"
        )


def shown(name: str, most: int = 60) -> str:
    """`name` in quotes, on one line, printable and not longer than `most` characters."""
    text = ascii(name) if "\0" in name or not name.isprintable() else repr(name)
    return text if len(text) <= most else text[: most - 2] + "…" + text[-1]


def canonical(row: Row, where: str) -> bytes:
    """`row` as JSON that does not depend on the order of its columns; what JSON has no word for becomes text.

    Raises `DataError` where a value is in itself or has keys that cannot be sorted.
    """
    try:
        return json.dumps(row, sort_keys=True, separators=(",", ":"), default=str).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be written as JSON ({error}); use text and numbers") from None
