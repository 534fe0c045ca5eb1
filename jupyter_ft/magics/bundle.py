"""`%ft doctor --bundle`: what somebody needs who is to help, and nothing of the data.

Of each run: its recipe without texts, and its events without replies. What the run printed is left out, and so is every
text that repeats some of its rows, prompts or replies.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jupyter_ft.errors import FineTuneError, RunFolderError
from jupyter_ft.messages import (
    Applied,
    ChatWaits,
    CheckpointSaved,
    Crashed,
    DataReady,
    EvalDone,
    Event,
    Health,
    Logged,
    MemoryShort,
    Probed,
    Refused,
    ReplyDone,
    Resumed,
    SaveFailed,
    SnapshotSaved,
    StateChanged,
    StepDone,
    StepRefused,
    event_from,
)
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import RunFolder, runs_root
from jupyter_ft.sampling.squad import BUILT_IN
from jupyter_ft.session.start import rows_of
from jupyter_ft.ui.report import without_secrets

LEFT_OUT = "(left out)"
KEPT = (
    *(StateChanged, DataReady, StepDone, StepRefused, EvalDone, Health, MemoryShort, ChatWaits, Resumed),
    *(Applied, Refused, CheckpointSaved, SnapshotSaved, SaveFailed, Logged, Crashed),
)
"""What is kept of a log; an event of another kind is not, whatever it will be."""
_TEXTS = ("system", "probes")  # of a recipe
_RUN_OF = 4  # words in a row that are in the data too: no accident
_LONG = 12  # letters of a word that is in the data too
MOST_BYTES = 20_000_000  # of rows to compare with
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\b(?:hf_|sk-|ghp_|xox[a-z]-)[\w-]{6,}")
_SECRET = re.compile(r"((?:token|api[_-]?key|password|secret)['\"]?\s*[=:]\s*)\S+", re.IGNORECASE)


def write_bundle(path: Path, report: str) -> Path:
    """Write the zip file and give its path. `RunFolderError` where it is there already or cannot be written."""
    path = path.expanduser()
    try:
        with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("doctor.txt", report)
            for recipe in sorted(runs_root().glob("*/recipe.yaml")):
                folder = RunFolder(recipe.parent)
                for name, text in _told(folder):
                    bundle.writestr(f"runs/{folder.name}/{name}", text)
    except FileExistsError:
        raise RunFolderError(f"{path} is there already; give another name") from None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}") from None
    return path.resolve()


def _told(folder: RunFolder) -> Iterator[tuple[str, str]]:
    try:
        asked, about = folder.read_recipe()
    except RunFolderError as error:
        yield "unreadable.txt", str(error)
        return
    events = list(_events(folder.events))
    private = Private.of(folder, asked, about, events)
    for kind in ("rewards", "metrics"):
        functions = {name: one | {"source": LEFT_OUT} for name, one in (about.get(kind) or {}).items()}
        about = about | ({kind: functions} if functions else {})
    shown = {key: LEFT_OUT if key in _TEXTS and value else value for key, value in asked.items()}
    yield (
        "recipe.yaml",
        yaml.safe_dump(
            private.without(without_secrets({"recipe": shown, "about": about})), sort_keys=False, allow_unicode=True
        ),
    )
    lines = [json.dumps(private.without(_plain(event))) for event in events if isinstance(event, KEPT)]
    yield "events.jsonl", "\n".join(lines) + "\n"


def _events(file: Path) -> Iterator[Event]:
    """What the log holds now; it is only read, because another process may be writing it."""
    for line in file.read_bytes().split(b"\n") if file.exists() else ():
        with suppress(ValidationError):  # torn, or from another version: not kept, because it is not known
            yield event_from(line)


def _plain(event: Event) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(event.model_dump_json())
    if isinstance(event, Logged) and event.level == "out":
        plain["text"] = LEFT_OUT  # a print in a callback or a reward function shows rows more often than not
    if isinstance(event, DataReady) and event.labels:
        plain |= {"said": LEFT_OUT, "labels": [LEFT_OUT] * len(event.labels)}
    if isinstance(event, EvalDone):
        plain["metrics"] = {k: v for k, v in plain["metrics"].items() if not k.startswith("eval_recall_")}
        if event.confusion is not None:
            plain["confusion"]["labels"] = [LEFT_OUT] * len(event.confusion.labels)
    return plain


class Private:
    """What must not leave: runs of words out of the rows, prompts and replies. Knowing no rows, no free text passes."""

    def __init__(self, texts: Iterable[str], *, complete: bool) -> None:
        self._complete = complete
        self._known: set[tuple[str, ...]] = set()
        for text in texts:
            words = _WORD.findall(text.lower())
            self._known.update(_runs(words, min(_RUN_OF, len(words))) if len(words) > 1 or len(text) > 5 else ())
            self._known.update((word,) for word in words if len(word) >= _LONG)

    @classmethod
    def of(cls, folder: RunFolder, asked: dict[str, Any], about: dict[str, Any], events: list[Event]) -> Private:
        """What is private in one run."""
        spoken = [event for event in events if isinstance(event, ReplyDone | Probed)]
        said = [text for event in spoken for text in (event.prompt, event.text)]
        said += [text for key in _TEXTS for text in _strings(asked.get(key))]
        functions = set(asked.get("metrics") or ()) - set(BUILT_IN)
        if asked.get("rewards") or functions:  # what a function raises may hold the answer that it was given
            return cls(said, complete=False)
        try:
            if not _at_hand(folder, about):
                return cls(said, complete=False)
            examples = rows_of(folder, parse_recipe(asked))
            rows = [row for part in (examples, *examples.beside.values()) for row in part.rows]
        except (FineTuneError, OSError, KeyError, TypeError, ValueError):
            return cls(said, complete=False)
        return cls([*said, *_strings(rows)], complete=True)

    def without(self, value: Any, key: str = "") -> Any:
        """The same, with what is private left out."""
        if isinstance(value, dict):
            return {name: self.without(inner, str(name)) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.without(inner, key) for inner in value]
        if not isinstance(value, str):
            return value
        if key in ("path", "data") and Path(value).is_absolute():
            return Path(value).name
        if not self._complete and key in ("text", "error", "traceback", "reason", "note"):
            return LEFT_OUT
        return "\n".join(LEFT_OUT if self._repeats(line) else _without_tokens(line) for line in value.split("\n"))

    def _repeats(self, line: str) -> bool:
        words = _WORD.findall(line.lower())
        return any(run in self._known for length in range(1, _RUN_OF + 1) for run in _runs(words, length))


def _at_hand(folder: RunFolder, about: dict[str, Any]) -> bool:
    """Whether the rows can be read here, without a network and in a moment."""
    source = folder.rows if folder.rows.exists() else Path(str(about["data"]["path"]))
    return str(source).startswith("demo:") or (source.is_file() and source.stat().st_size <= MOST_BYTES)


def _runs(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def _without_tokens(line: str) -> str:
    return _SECRET.sub(r"\1…", _TOKEN.sub("…", line))
