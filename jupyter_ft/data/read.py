"""From what the user names as data to rows: a file, a list of dicts, a DataFrame, or `demo:support`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jupyter_ft.errors import DataError, did_you_mean

from .checks import Row, check_row, fingerprint, place
from .files import READERS, text_of

DEMOS = {"support": "tech_support.yml"}
DEMO_COLUMNS = ("Customer message", "Agent reply")
"""The demo's columns are those of `examples/tickets.csv`, so that the same recipe runs on both."""

_READABLE = "give a CSV or JSON Lines file, a list of dicts or a DataFrame"


@dataclass(frozen=True)
class Source:
    """Rows as they were found: each a dict from the user's own column names to values.

    `fingerprint` is the SHA-256 of the rows, whatever the order of columns. `path` is absolute, or `demo:NAME`, and
    None when the rows cannot be read again. `lines` holds the line (from 1) at which each row begins, for files with
    lines.
    """

    rows: list[Row]
    name: str
    fingerprint: str
    path: str | None
    lines: list[int] | None


def read(data: object) -> Source:
    """The rows of `data`: a path (.csv .tsv .jsonl .ndjson .json), a list of dicts, a pandas DataFrame, `demo:support`.

    Raises `DataError`, one line with the file, the line or row (from 1) and the fix.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, (str, Path)):
        return _read_named(str(data).strip())
    if isinstance(data, (list, tuple)):
        return _source([check_row(row, place("a list", None, index)) for index, row in enumerate(data)], "a list")
    if hasattr(data, "to_dict") and hasattr(data, "columns") and hasattr(data, "notna"):
        return _source(_rows_of_frame(data), "a DataFrame")
    hint = "; write .to_pandas() after it" if hasattr(data, "to_pandas") else f"; {_READABLE}"
    raise DataError(f"data is of type {type(data).__name__}, which cannot be read{hint}")


def _source(rows: list[Row], name: str, path: str | None = None, lines: list[int] | None = None) -> Source:
    if not rows:
        raise DataError(f"{name} has no rows; give at least one")
    return Source(rows, name, fingerprint(rows, name), path, lines)


def _read_named(name: str) -> Source:
    if not name:
        raise DataError(f"no data is named; {_READABLE}")
    kind, colon, rest = name.partition(":")
    if colon and kind == "demo":
        return _read_demo(rest)
    if colon and kind in {"hub", "feedback", "http", "https", "hf", "s3", "gs"}:
        raise DataError(f"not readable yet: {name}; {_READABLE}")
    path = Path(name).expanduser()
    if path.is_dir():
        raise DataError(f"{name} is a folder; name a file in it{_listed(path)}")
    if not path.exists():
        raise DataError(_missing(name, path))
    return _read_file(path)


def _read_file(path: Path) -> Source:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        what = f"{path.suffix} files" if path.suffix else "files without a suffix"
        hint = " (or read it with pandas and give the DataFrame)" if path.suffix else ""
        raise DataError(f"{path.name}: {what} cannot be read; save it as {' '.join(READERS)}{hint}")
    rows, lines = reader(text_of(path), path.name)
    for index, row in enumerate(rows):
        check_row(row, place(path.name, lines, index))
    return _source(rows, path.name, str(path.resolve()), lines)


def _missing(name: str, path: Path) -> str:
    looks_like_hub = name.count("/") == 1 and path.suffix.lower() not in READERS and not path.parent.is_dir()
    if looks_like_hub and name[0] not in "./~":
        return f"not readable yet: {name} is no file here, and hub data cannot be read; {_READABLE}"
    if not path.parent.is_dir():
        return f"{name} does not exist: there is no folder {path.parent}; check the path"
    near = get_close_matches(path.name, [item.name for item in _siblings(path.parent)], n=1, cutoff=0.5)
    if near:
        return f"{name} does not exist; did you mean '{path.with_name(near[0])}'?"
    return f"{name} does not exist; check the path{_listed(path.parent)}"


def _siblings(folder: Path) -> list[Path]:
    try:
        return sorted(item for item in folder.iterdir() if item.suffix.lower() in READERS)
    except OSError:
        return []


def _listed(folder: Path) -> str:
    names = [item.name for item in _siblings(folder)[:5]]
    return f" (there are: {', '.join(names)})" if names else ""


def _rows_of_frame(frame: Any) -> list[Row]:
    columns = [str(column) for column in frame.columns]
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise DataError(f"a DataFrame with two columns {twice!r} cannot be read; rename one of them")
    clean = frame.astype(object).where(frame.notna(), None)  # NaN, NaT and NA are all "nothing here"
    values = [[_plain(value) for value in row] for row in clean.itertuples(index=False, name=None)]
    rows: list[Row] = [dict(zip(columns, row, strict=True)) for row in values]
    return [check_row(row, place("a DataFrame", None, index)) for index, row in enumerate(rows)]


def _plain(value: Any) -> object:
    return value.tolist() if hasattr(value, "tolist") else value  # numpy's numbers and arrays (lists, after Parquet)


def _read_demo(name: str) -> Source:
    if name not in DEMOS:
        raise DataError(f"there is no demo:{name}{did_you_mean(name, DEMOS) or '; write demo:support'}")
    spec = find_spec("chatterbot_corpus")  # finding is not importing
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f'demo:{name} needs the package chatterbot-corpus; run: pip install "jupyter-ft[demo]"')
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / "english" / DEMOS[name]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        fix = 'pip install --force-reinstall "chatterbot-corpus>=1.3.3"'
        raise DataError(f"demo:{name}: {path} cannot be read; run: {fix}") from None
    return _source(_exchanges(text), f"demo:{name}", path=f"demo:{name}")


def _exchanges(text: str) -> list[Row]:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    conversations: Sequence[Sequence[object]] = yaml.load(text, loader)["conversations"]
    turns = [[str(turn or "").strip() for turn in conversation] for conversation in conversations]
    pairs = [pair for told in turns for pair in zip(told[::2], told[1::2], strict=False)]
    return [dict(zip(DEMO_COLUMNS, pair, strict=True)) for pair in pairs if all(pair)]
