"""Token rows that a run in the same folder of runs has made already of the same: used again instead of made anew.

"The same" is a SHA-256 of all that token rows come from: the rows, the tokenizer as it is in memory, its chat template,
the settings, and the code that renders. No row leaves the folder of runs: the file is linked into the new run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np

from ..own_tokenizer import own_core
from .formats import Examples
from .render import Rendered

FILES = ("tokens.arrow", "held_out.arrow")
_OF_TOKENIZER = ("chat_template", "model_max_length", "padding_side", "truncation_side", "special_tokens_map")
_PACKAGES = ("transformers", "tokenizers", "jinja2")
_CLOCKS = ("strftime_now", "now(")
"""What a chat template calls that writes the day into a row."""


def key_of(examples: Examples, tokenizer: Any, **settings: Any) -> str:
    """A SHA-256 of all that the token rows of `examples` come from; empty for a tokenizer that cannot be read whole."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:  # a slow one keeps its vocabulary where it likes
        return ""
    core = own_core(tokenizer.backend_tokenizer)
    core.no_truncation()  # what the last call has left there
    core.no_padding()
    own = {name: getattr(tokenizer, name, None) for name in _OF_TOKENIZER} | {"class": type(tokenizer).__name__}
    day = strftime("%Y-%m-%d") if any(clock in str(own["chat_template"]) for clock in _CLOCKS) else ""
    plain = json.dumps([own, settings, day, examples.format, examples.fingerprint], sort_keys=True, default=str)
    numbers = b"" if examples.numbers is None else np.asarray(examples.numbers, np.int64).tobytes()
    digest = hashlib.sha256()
    for part in (plain.encode(), core.to_str().encode(), examples.rows.keys.tobytes(), numbers, _code().encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


@cache
def _code() -> str:
    """The source of this package, and the versions of those that write and tokenise."""
    digest = hashlib.sha256("".join(version(name) for name in _PACKAGES).encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def about_tokens(file: Path, rendered: Rendered, key: str) -> dict[str, Any]:
    """What `made_before` wants to find beside the token rows in `file`."""
    if not key:
        return {}
    counts = {"tokens": rendered.tokens, "trained": rendered.trained_tokens}
    numbers = np.array(rendered.numbers, np.int64)
    return {"key": key, "sha256": _sum(file, numbers), "rendered": rendered.said, **counts}


def made_before(key: str, file: Path, runs: Path) -> tuple[Rendered, str] | None:
    """The rows of that key, put into `file`, and the name of the run in `runs` that made them; None where none has.

    A file that is not what it was when it was written is passed over.
    """
    for theirs, about in _with_key(key, runs, file):
        try:
            numbers = np.load(theirs.with_suffix(".npy"), allow_pickle=False)
            if theirs != file:
                _link(theirs, file)
            if _sum(file, numbers) != about["sha256"]:
                continue
            return _rendered(file, numbers, about), theirs.parents[1].name
        except (OSError, ValueError, KeyError, TypeError):  # it is going away, or not ours
            continue
    return None


def _with_key(key: str, runs: Path, own: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Files of token rows whose record has this key; `own`, of a run that goes on, first, then the newest."""
    found = [own.with_suffix(".json"), *(p.with_suffix(".json") for name in FILES for p in runs.glob(f"*/data/{name}"))]
    for record in sorted(found, key=lambda path: (path.parent != own.parent, -_written(path))) if key else ():
        with suppress(OSError, ValueError):
            about = json.loads(record.read_text(encoding="utf-8"))
            if about.get("key") == key:
                yield record.with_suffix(".arrow"), about


def _written(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _link(theirs: Path, file: Path) -> None:
    """`theirs` at `file` too, whole or not at all: a link, or where the disk has none, a copy."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(theirs, partial)
        except OSError:
            shutil.copyfile(theirs, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _rendered(file: Path, numbers: Any, about: dict[str, Any]) -> Rendered:
    from datasets import Dataset

    rows = Dataset.from_file(str(file))
    if len(rows) != len(numbers):
        raise ValueError(f"{file} has {len(rows)} rows and {len(numbers)} numbers")
    return Rendered(
        rows=rows,
        numbers=array("I", numbers.astype(np.uint32).tobytes()),
        dropped=[(int(number), str(why)) for number, why in about["dropped"]],
        left_out=about["left_out"],
        truncated=about["truncated"],
        tokens=about["tokens"],
        trained_tokens=about["trained"],
        said=about["rendered"],
    )


def _sum(file: Path, numbers: Any) -> str:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
    digest.update(numbers.tobytes())
    return digest.hexdigest()
