"""From what the user names as data to rows: files, a hub id, a `datasets.Dataset`, a list of dicts, a DataFrame."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from glob import glob, has_magic
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jupyter_ft.errors import DataError, did_you_mean

from . import judged
from .arrow import from_hub, is_dataset, is_dataset_dict, pick_split, rows_of_dataset, rows_of_parquet
from .checks import Row, canonical, check_row, place, shown
from .documents import MANY, PASSAGE, TEXT_SUFFIXES, WHOLE, is_text, rows_of_text, text_files
from .files import READERS, check_text
from .spool import Spool

DEMOS = {"support": "tech_support.yml"}
DEMO_COLUMNS = ("Customer message", "Agent reply")
"""The demo's columns are those of `examples/tickets.csv`, so that the same recipe runs on both."""

SUFFIXES = (*READERS, ".parquet", *TEXT_SUFFIXES)
_READABLE = (
    "give a CSV, JSON Lines, Parquet or text file (or several), a folder of text, a hub id, a datasets.Dataset, "
    "a list of dicts or a DataFrame"
)
REPORT_EVERY = 200  # rows

Report = Callable[[str, int], None]
"""Told now and then what is done with the rows (reading, checking) and with how many it is done."""


@dataclass(frozen=True)
class Source:
    """Rows as they were found: each a dict from the user's own column names to values.

    `columns` are all that occur, in the order of first appearance. `fingerprint` is the SHA-256 of the rows, in their
    order, whatever the order of columns. `path` (a list for several files) is absolute, `demo:NAME` or `hub:ID`, and
    None when the rows cannot be read again. `lines` holds the line (from 1) at which each row begins, for files
    with lines. `files` are the names of several files, each with the number of its first row. `splits` are the other
    splits of a data set that has them. `raw`: the rows are passages of text files, see `rows_of_text`. `note` is what
    the user may want to know.
    """

    rows: Sequence[Row]
    name: str
    fingerprint: str
    path: str | list[str] | None
    lines: Sequence[int] | None
    columns: tuple[str, ...]
    files: tuple[tuple[int, str], ...] = ()
    splits: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    raw: bool = False
    note: str = ""

    def place(self, index: int) -> str:
        """Where row `index` (from 0) is, in the words of a message."""
        if not self.files:
            return place(self.name, self.lines, index)
        first, name = self.files[bisect_right(self.files, index, key=lambda file: file[0]) - 1]
        return f"{name}, line {self.lines[index]}" if self.lines else f"{name}, row {index - first + 1}"


def read(data: object, progress: Report | None = None, method: str = "sft") -> Source:
    """The rows of `data`.

    That is a path (.csv .tsv .jsonl .ndjson .json .txt .md, each also .gz, or .parquet), several (a list, a glob, or
    with commas between; of the same columns), a folder of text (.txt and .md files in it and below), a hub id
    (`OWNER/NAME` or `OWNER/NAME:SPLIT`), `demo:support`, the judgements of a run as `method` learns from them
    (`feedback:RUN`), a `datasets.Dataset` or `DatasetDict`, a list of dicts or a
    pandas DataFrame. Files and data sets are read row by row onto the disk, in memory that does not grow with them, but
    for .json. Raises `DataError`, one line with the file, the line or row (from 1) and the fix.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, (str, Path)):
        return _read_named(str(data).strip(), progress, method)
    if isinstance(data, (list, tuple)):
        names = [item for item in data if isinstance(item, (str, Path))]
        return _read_files(names, progress) if names and len(names) == len(data) else _in_memory(data, "a list")
    return _read_object(data, progress)


def _read_object(data: Any, progress: Report | None) -> Source:
    if is_dataset(data):
        return _spooled([("a Dataset", rows_of_dataset(data))], None, progress)
    if is_dataset_dict(data):
        return _read_splits(data, None, "a DatasetDict", None, progress)
    if hasattr(data, "to_dict") and hasattr(data, "columns") and hasattr(data, "notna"):
        return _in_memory(_rows_of_frame(data), "a DataFrame")
    hint = "; write .to_pandas() after it" if hasattr(data, "to_pandas") else f"; {_READABLE}"
    raise DataError(f"data is of type {type(data).__name__}, which cannot be read{hint}")


def _in_memory(rows: Sequence[object], name: str, path: str | None = None) -> Source:
    if not rows:
        raise DataError(f"{name} has no rows; give at least one")
    checked = [check_row(row, place(name, None, index)) for index, row in enumerate(rows)]
    digest = sha256()
    for index, row in enumerate(checked):
        digest.update(canonical(row, place(name, None, index)) + b"\n")
    columns = tuple(dict.fromkeys(column for row in checked for column in row))
    return Source(checked, name, digest.hexdigest(), path, None, columns)


def _spooled(
    named: Iterable[tuple[str, Generator[tuple[int, Row]]]], path: str | list[str] | None, progress: Report | None
) -> Source:
    """The rows of one or more sources of the same columns, one after the other, put onto the disk."""
    with Spool() as spool:
        return _put(spool, named, path, progress)


def _put(
    spool: Spool,
    named: Iterable[tuple[str, Generator[tuple[int, Row]]]],
    path: str | list[str] | None,
    progress: Report | None,
) -> Source:
    lines, digest = array("Q"), sha256()
    files: list[tuple[int, str]] = []
    columns: dict[str, None] = {}
    for name, found in named:
        first, own = len(spool), dict[str, None]()
        with closing(found) as rows:
            for line, row in rows:
                where = f"{name}, line {line}" if line else f"{name}, row {len(spool) - first + 1}"
                written = canonical(check_row(row, where), where)
                digest.update(written + b"\n")
                spool.append_line(written)
                lines.append(line)
                own.update(dict.fromkeys(row))
                if progress and len(spool) % REPORT_EVERY == 0:
                    progress("reading", len(spool))
        if len(spool) == first:
            raise DataError(f"{name} has no rows; give at least one")
        _check_same_columns(columns, own, name, files)
        columns.update(own)
        files.append((first, name))
    several = f"{len(files):,} files ({files[0][1]} to {files[-1][1]})"
    return Source(
        spool,
        files[0][1] if len(files) == 1 else several,
        digest.hexdigest(),
        path,
        lines if any(lines) else None,
        tuple(columns),
        tuple(files) if len(files) > 1 else (),
    )


def _check_same_columns(
    columns: dict[str, None], own: dict[str, None], name: str, files: list[tuple[int, str]]
) -> None:
    if not files or columns.keys() == own.keys():
        return
    extra = next((column for column in own if column not in columns), None)
    lacking = next((column for column in columns if column not in own), "")
    what = f"has no column {shown(lacking)}" if extra is None else f"has a column {shown(extra)}"
    raise DataError(f"{name} {what}, unlike {files[0][1]}; give files of the same columns")


def _read_named(name: str, progress: Report | None, method: str) -> Source:
    if not name:
        raise DataError(f"no data is named; {_READABLE}")
    kind, colon, rest = name.partition(":")
    if colon and kind in _PREFIXES:
        return _read_prefixed(kind, rest, progress, method)
    if colon and kind in {"http", "https", "hf", "s3", "gs"}:
        raise DataError(f"not readable yet: {name}; {_READABLE}")
    path = Path(name).expanduser()
    if path.exists():
        return _read_folder(path, progress) if path.is_dir() else _read_files([path], progress)
    if has_magic(name):
        found = sorted(Path(item) for item in glob(str(path), recursive=True) if Path(item).is_file())
        if not found:
            raise DataError(f"{name} matches no file; check the pattern{_listed(path.parent)}")
        return _read_files(found, progress)
    if "," in name:
        return _read_files([part for part in name.split(",") if part.strip()], progress)
    if _is_hub_id(name):
        return _read_hub(name, progress)
    raise DataError(_missing(name, path))


_PREFIXES = ("demo", "hub", "feedback")


def _read_prefixed(kind: str, rest: str, progress: Report | None, method: str) -> Source:
    if kind == "demo":
        return _read_demo(rest)
    if kind == "hub":
        return _read_hub(rest, progress)
    found = judged.sides(rest, method)
    apart = {judged.HELD_OUT: found.held_out} if found.held_out else {}
    return replace(_in_memory(found.train, found.name), splits=apart, note=found.note)


def _is_hub_id(name: str) -> bool:
    path = Path(name)
    wanted = name.count("/") == 1 and name[0] not in "./~" and not name.endswith("/")
    return wanted and not name.lower().removesuffix(".gz").endswith(SUFFIXES) and not path.parent.is_dir()


def _read_hub(name: str, progress: Report | None) -> Source:
    there, _, split = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
    folder = Path(there).expanduser()
    if not there or ("/" not in there and not folder.is_dir()):
        raise DataError(f"hub:{name} is no hub id; write OWNER/NAME or OWNER/NAME:SPLIT")
    known = str(folder.resolve()) if folder.is_dir() else there
    suffix = f":{split}" if split else ""
    return _read_splits(from_hub(known), split or None, there + suffix, f"hub:{known}{suffix}", progress)


def _read_splits(
    splits: Mapping[str, Any], asked: str | None, name: str, path: str | None, progress: Report | None
) -> Source:
    split, dataset = pick_split(splits, asked, name)
    source = _spooled([(name, rows_of_dataset(dataset))], path, progress)
    others = {other: rows for other, rows in splits.items() if other != split}
    return Source(source.rows, name, source.fingerprint, path, None, source.columns, splits=others)


def _read_folder(folder: Path, progress: Report | None) -> Source:
    paths, others = text_files(folder)
    if not paths:
        what = "has no text in it (.txt .md)" if any(folder.iterdir()) else "is an empty folder"
        raise DataError(f"{folder} {what}; name a file{_listed(folder)}")
    named = [(path.relative_to(folder).as_posix(), path) for path in paths]
    found = _read_texts(named, str(folder.resolve()), progress)
    note = f"files in {folder.name} that are left out: {others}" if others else ""
    return replace(found, name=folder.resolve().name, note=note)


def _read_texts(named: Sequence[tuple[str, Path]], again: str | list[str], progress: Report | None) -> Source:
    most = WHOLE if len(named) >= MANY else PASSAGE
    return replace(
        _spooled(((name, rows_of_text(path, at, most)) for at, (name, path) in enumerate(named)), again, progress),
        raw=True,
    )


def _read_files(names: Sequence[str | Path], progress: Report | None) -> Source:
    paths = [Path(str(name).strip()).expanduser() for name in names]
    for path in paths:
        if path.is_dir() or not path.exists():
            raise DataError(f"{path} is a folder; name files" if path.is_dir() else _missing(str(path), path))
    resolved = [str(path.resolve()) for path in paths]
    again = resolved if len(resolved) > 1 else resolved[0]
    texts = [path for path in paths if is_text(path)]
    if texts and len(texts) < len(paths):
        other = next(path for path in paths if path not in texts)
        raise DataError(f"{texts[0].name} is raw text and {other.name} is not; give files of one kind")
    if texts:
        return _read_texts([(path.name, path) for path in paths], again, progress)
    return _spooled(((path.name, _rows_of_file(path)) for path in paths), again, progress)


def _rows_of_file(path: Path) -> Generator[tuple[int, Row]]:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if path.suffix.lower() == ".parquet":
        return rows_of_parquet(path)
    reader = READERS.get(suffix)
    if reader is None:
        what = f"{path.suffix} files" if path.suffix else "files without a suffix"
        hint = " (or read it with pandas and give the DataFrame)" if path.suffix else ""
        raise DataError(f"{path.name}: {what} cannot be read; save it as {' '.join(SUFFIXES)}{hint}")
    check_text(path)
    return reader(path)


def _missing(name: str, path: Path) -> str:
    if not path.parent.is_dir():
        return f"{name} does not exist: there is no folder {path.parent}; check the path"
    near = get_close_matches(path.name, [item.name for item in _siblings(path.parent)], n=1, cutoff=0.5)
    if near:
        return f"{name} does not exist; did you mean '{path.with_name(near[0])}'?"
    return f"{name} does not exist; check the path{_listed(path.parent)}"


def _siblings(folder: Path) -> list[Path]:
    try:
        return sorted(item for item in folder.iterdir() if item.name.lower().removesuffix(".gz").endswith(SUFFIXES))
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
    return [dict(zip(columns, row, strict=True)) for row in values]


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
    return _in_memory(_exchanges(text), f"demo:{name}", f"demo:{name}")


def _exchanges(text: str) -> list[Row]:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    conversations: Sequence[Sequence[object]] = yaml.load(text, loader)["conversations"]
    turns = [[str(turn or "").strip() for turn in conversation] for conversation in conversations]
    pairs = [pair for told in turns for pair in zip(told[::2], told[1::2], strict=False)]
    return [dict(zip(DEMO_COLUMNS, pair, strict=True)) for pair in pairs if all(pair)]
