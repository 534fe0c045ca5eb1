"""Where an export goes: written beside its place, there by one rename, and only where there is room for it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ExportError, FineTuneError
from ..memory.fit import size_text

RECORD = "jupyter_ft.json"
"""What an export says of itself; a folder without it is not replaced."""
SPARE = 2**24  # bytes for the tokenizer, the card and the like


def check_free(to: Path, *, force: bool) -> None:
    """`ExportError` where something is at `to` already; with `force` an older export or an empty folder may be."""
    if not to.exists() and not to.is_symlink():
        return
    if not force:
        raise ExportError(f"{to} is there already; --force (in Python: force=True) replaces it, --to takes another")
    if not to.is_dir() or to.is_symlink() or (any(to.iterdir()) and not (to / RECORD).is_file()):
        raise ExportError(f"{to} holds something that is no export, which --force does not replace; give another --to")


def check_room(to: Path, size: int) -> None:
    """`ExportError` where `size` bytes more do not fit on the disk of `to`."""
    there = next(place for place in (to, *to.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if size + SPARE > free:
        raise ExportError(
            f"{to} will take {size_text(size + SPARE)}, and {size_text(free)} are free there; "
            "make room, or give another disk with --to"
        )


@contextmanager
def published(to: Path, *, force: bool) -> Iterator[Path]:
    """A folder beside `to` to write into, which becomes `to` when all is done; where it is not, nothing is left.

    Raises `ExportError` as `check_free` does, and where the place cannot be written.
    """
    check_free(to, force=force)
    staging = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
    try:
        staging.mkdir(parents=True)
        yield staging
        check_free(to, force=force)
        aside = staging.with_name(f"{staging.name}.old")
        if to.exists():
            to.rename(aside)
        staging.rename(to)
        shutil.rmtree(aside, ignore_errors=True)
    except FineTuneError:
        raise
    except OSError as error:
        raise ExportError(
            f"{to} cannot be written: {error.strerror or error}; make room, or give another --to"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of the files in `folder`."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def keep_record(folder: Path, said: dict[str, Any]) -> None:
    """Write what an export says of itself."""
    (folder / RECORD).write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
