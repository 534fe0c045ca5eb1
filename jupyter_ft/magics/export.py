"""`%ft export` and `%ft push`: the weights of a run as files, loaded again and compared before it says done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from IPython.display import DisplayHandle, display

from jupyter_ft.errors import ExportError
from jupyter_ft.session import sessions
from jupyter_ft.session.export import export, push

from .line import Grammar, Line, Option
from .notebook import Place, say, session_of

EVERY = 0.5  # seconds between two updates of the line
_AS = Option("--as", "adapter (PEFT), merged (transformers), gguf or ollama; else the adapter, or all weights", "FORM")
_QUANTIZE = Option("--quantize", "of gguf and ollama: f16, q8_0, or with llama-quantize Q4_K_M and others", "TYPE")
_SAMPLES = Option("--with-samples", "put three rows of the data into the model card; else none leaves the run")

EXPORT = Grammar(
    "%ft export [RUN[@STEP]] [--as FORM] [--to FOLDER] [--force]",
    "Write the weights of a step (or @best) for use without this package; they are loaded again and compared.",
    options=(
        _AS,
        Option("--to", "where; else exports/ in the run folder", "FOLDER"),
        _QUANTIZE,
        _SAMPLES,
        Option("--force", "replace an older export"),
    ),
    example="%ft export support@best --as merged --to support-model",
)
PUSH = Grammar(
    "%ft push RUN[@STEP] USER/NAME [--as FORM] [--public]",
    "Export into the run folder and then, where it answers as the run does, up to the hub, with a model card.",
    options=(
        _AS,
        Option("--public", "for everybody to see; else it is private"),
        _QUANTIZE,
        _SAMPLES,
        Option("--force", "push it also where it answers otherwise"),
    ),
    words=(1, 2),
    example="%ft push support@best ann/support-desk",
)


def run_export(shell: Any, line: Line) -> None:
    """Export, and say what came of it."""
    with _progress(Place.of(shell)) as report:
        done = export(
            _address(shell, line.words[0] if line.words else None),
            line.options.get("--to"),
            line.options.get("--as"),
            force="--force" in line.switches,
            quantize=line.options.get("--quantize"),
            with_samples="--with-samples" in line.switches,
            report=report,
        )
    say("\n".join(done.said))


def run_push(shell: Any, line: Line) -> None:
    """Push, and say where it is."""
    *named, repo = line.words
    if "/" not in repo:
        raise ExportError(f"'{repo[:60]}' is no place on the hub: write USER/NAME last, as in {PUSH.example}")
    with _progress(Place.of(shell)) as report:
        done = push(
            _address(shell, named[0] if named else None),
            repo,
            line.options.get("--as"),
            public="--public" in line.switches,
            force="--force" in line.switches,
            quantize=line.options.get("--quantize"),
            with_samples="--with-samples" in line.switches,
            report=report,
        )
    say("\n".join(done.said))


def _address(shell: Any, word: str | None) -> str:
    """The address with the run that its name stands for; without one, the only session that is open."""
    if word is None:
        return session_of(shell, None).name
    name, at, step = word.partition("@")
    if word.isdecimal() or name in ("live", "best", "last", "base", ""):
        return word
    return f"{session_of(shell, name).name}{at}{step}" if name in sessions else word


@contextmanager
def _progress(place: Place) -> Iterator[Any]:
    """One line that says how far it is, where that takes long; Ctrl-C is a red line."""
    line = _Line(place)
    try:
        yield line
    except KeyboardInterrupt:
        raise ExportError(f"interrupted while {line.what}; nothing was left") from None
    finally:
        line.clear()


class _Line:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._due, self._shown = time.monotonic() + EVERY, False
        self.what = "preparing"
        self._handle: DisplayHandle | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        self.what, now = what, time.monotonic()
        if self._place.headless or now < self._due:
            return
        self._due, self._shown = now + EVERY, True
        self._show(f"{what} … {done:,} of {total:,}" if total else f"{what} …")

    def clear(self) -> None:
        """Leave an empty line."""
        if self._shown:
            self._show("", end="\r")

    def _show(self, text: str, end: str = "") -> None:
        if not self._place.rich:
            print(f"\r{text:<60}", end=end, flush=True)  # noqa: T201 - a terminal is shown text
        elif self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)
