"""What tells whether a model folder still holds the model that it held, in milliseconds: no weight is read whole.

Of a weight file its size, its header and some bytes of each tensor count, so that a model which was trained on and
saved in the same place is another one; of the configuration all but who wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

MOST_HEADER = 10**8  # bytes of a safetensors header, as the format has it
_MOST_TENSORS, _BYTES = 1024, 256  # looked at in a file, and of each of them
_BLOCKS = 64  # of a file of another format
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_WRITER = ("transformers_version", "_name_or_path")


def fingerprint(folder: Path) -> dict[str, str]:
    """A digest for each file of a model folder that says what the model is. `OSError` where one cannot be read."""
    found = next((files for kind in _WEIGHTS if (files := sorted(folder.glob(kind)))), [])
    config = folder / "config.json"
    digests = {config.name: _of_config(config)} if config.is_file() else {}
    return digests | {file.name: _of_weights(file) for file in found}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first file that is another one than before, or is gone; empty where there is none."""
    return next((name for name, digest in before.items() if now.get(name) != digest), "")


def _of_config(file: Path) -> str:
    raw = file.read_bytes()
    try:
        told = {key: value for key, value in json.loads(raw).items() if key not in _WRITER}
        raw = json.dumps(told, sort_keys=True).encode()
    except (ValueError, AttributeError):
        pass
    return hashlib.sha256(raw).hexdigest()[:32]


def _of_weights(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb", buffering=0) as opened:
        for place, count in _places(file, opened, size, digest):
            opened.seek(place)
            digest.update(opened.read(count))
    return digest.hexdigest()[:32]


def _places(file: Path, opened: BinaryIO, size: int, digest: Any) -> list[tuple[int, int]]:
    """Where to look: in the middle of each tensor, or of each of so many parts of the file."""
    if file.suffix == ".safetensors":
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(length)) if length <= MOST_HEADER else {}
            header.pop("__metadata__", None)
            spans = sorted(tuple(about["data_offsets"]) for about in header.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            spans = []  # no safetensors file: told where it is loaded
        if spans:
            digest.update(json.dumps(header, sort_keys=True).encode())
            spans = spans[:: -(-len(spans) // _MOST_TENSORS)]
            return [
                (8 + length + max(begin, (begin + end - _BYTES) // 2), min(_BYTES, end - begin)) for begin, end in spans
            ]
    step = max(1, size // _BLOCKS)
    return [(place, _BYTES) for place in range(step // 2, size, step)]
