"""Judgements as a file of their own (JSON Lines), or as rows of a data set, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import DataError
from .judgement import Judgement


def write_lines(judgements: Iterable[Judgement], path: Path) -> None:
    """One judgement a line, whole or not at all. Raises `DataError` where the place cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(one.model_dump_json() + "\n" for one in judgements)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written ({error.strerror}); choose another place") from None


def read_lines(path: Path) -> list[Judgement]:
    """What `write_lines` wrote. Raises `DataError` with the line (from 1) that is no judgement."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); give a file that to_jsonl wrote") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path.name}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where} is not JSON ({error}); put one judgement on each line") from None
            found.append(judgement_of(row, where))
    return found


def judgement_of(row: object, where: str) -> Judgement:
    """The judgement in a row; one without an `id` gets that of its contents, so that it is the same each time.

    Raises `DataError` where it is none.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is no judgement: not an object")
    given = {str(name): value for name, value in row.items() if value is not None}  # a data set fills in what lacks
    given["answers"] = [_answer(one) for one in given.get("answers") or []]
    if "id" not in given:
        told = json.dumps(given, sort_keys=True, default=str)
        given["id"] = sha256(told.encode()).hexdigest()[:12]
    try:
        return Judgement.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = str(first["msg"]).removeprefix("Value error, ")
        raise DataError(f"{where} is no judgement: {f'{place}: ' if place else ''}{said}") from None


def _answer(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    answer = {name: value for name, value in given.items() if value is not None}
    if isinstance(answer.get("sampling"), Mapping):
        answer["sampling"] = {name: value for name, value in answer["sampling"].items() if value is not None}
    return answer
