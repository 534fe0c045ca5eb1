"""Rows out of Arrow: Parquet files, `datasets.Dataset` and `DatasetDict`, and data sets of the hub. Batch by batch."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from jupyter_ft.errors import DataError

from .checks import Row

_BATCH = 256  # rows; a row may be 30 MB
HELD_OUT_SPLITS = ("validation", "valid", "val", "dev", "eval", "test")


def rows_of_parquet(path: Path) -> Generator[tuple[int, Row]]:
    """The rows of a Parquet file (line 0: they have none). Raises `DataError` where it cannot be read."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            columns = file.schema_arrow.names
            if len(set(columns)) < len(columns):
                twice = next(column for column in columns if columns.count(column) > 1)
                raise DataError(f"{path.name} has two columns {twice!r}; rename one of them")
            for batch in file.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield 0, _plain(row)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no readable Parquet file ({_line(error)}); write it again") from None


def is_dataset(data: object) -> bool:
    """Whether `data` is a `datasets.Dataset`."""
    return _is_a(data, "Dataset")


def is_dataset_dict(data: object) -> bool:
    """Whether `data` is a `datasets.DatasetDict`."""
    return _is_a(data, "DatasetDict")


def _is_a(data: object, name: str) -> bool:  # without importing datasets for what is none of them
    return any(base.__name__ == name and base.__module__.startswith("datasets.") for base in type(data).__mro__)


def rows_of_dataset(dataset: Any) -> Generator[tuple[int, Row]]:
    """The rows of a `datasets.Dataset` in its order, files in it (images, sound) not opened, classes by their names."""
    named = {column: feature.names for column, feature in dataset.features.items() if _is_a(feature, "ClassLabel")}
    for batch in dataset.with_format("arrow").iter(batch_size=_BATCH):
        for row in batch.to_pylist():
            yield 0, _plain(row) | {column: _name(row[column], names) for column, names in named.items()}


def _name(number: int | None, names: list[str]) -> str | None:
    """The class of that number; -1 is no class."""
    return None if number is None or number < 0 else names[number]


def _plain(row: Row) -> Row:
    return {column: _unpacked(value) for column, value in row.items()}


def _unpacked(value: object) -> object:
    """`value`, with bytes replaced by what can be written down about them; they are nobody's text."""
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": sha256(value).hexdigest()}
    if isinstance(value, list):
        return [_unpacked(part) for part in value]
    return {key: _unpacked(part) for key, part in value.items()} if isinstance(value, dict) else value


def pick_split(splits: Mapping[str, Any], asked: str | None, name: str) -> tuple[str, Any]:
    """The split to train on: the one that is asked for, `train`, or the only one. `DataError` where it is not there."""
    if asked is None and "train" not in splits and len(splits) == 1:
        asked = next(iter(splits))
    wanted = asked or "train"
    if wanted not in splits:
        there = ", ".join(map(str, splits)) or "none"
        fix = "name one that is there" if splits else "give at least one"
        raise DataError(f"{name} has no split '{wanted}'; {fix} (splits: {there})")
    return wanted, splits[wanted]


def from_hub(name: str) -> Mapping[str, Any]:
    """The splits of the data set `name` of the hub, or in a folder laid out as one; no code of it is run.

    Raises `DataError` where it is not cached and cannot be fetched, or holds no rows that `datasets` can read.
    """
    import datasets

    quiet = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity_error()
    try:
        found = datasets.load_dataset(name)
    except ConnectionError:
        raise DataError(
            f"{name} is not in the cache and the hub cannot be reached; connect, or give a file of your own"
        ) from None
    except datasets.exceptions.DatasetNotFoundError:
        raise DataError(
            f"the hub has no data set {name} that you may read; check the name, or log in (hf auth login)"
        ) from None
    except (datasets.exceptions.DatasetsError, ValueError, OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{name} cannot be read as a data set ({_line(error)}); give a file of it instead") from None
    finally:
        datasets.utils.logging.set_verbosity(quiet)
    return found if isinstance(found, Mapping) else {"train": found}


def _line(error: BaseException, most: int = 160) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"
