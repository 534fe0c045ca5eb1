"""The Data tab of a panel: pages of rows, made beside the run on a thread that does nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from jupyter_ft.data.look import Look
from jupyter_ft.errors import FineTuneError
from jupyter_ft.launch.thread import aside
from jupyter_ft.session.preview import TRAIN, look_at_run, sides_of, tokenizer_of
from jupyter_ft.ui.rows import STYLE, page_html
from jupyter_ft.ui.watched import Watched

PAGE = 5
PATIENCE = 2.0  # seconds that a view is kept waiting which hears only what is said in answer (Colab)


class DataTab:
    """Answers what a view asks for: `first` (from 0) or the row that the user calls `number`, of a `side`."""

    def __init__(self, session: Watched) -> None:
        self._session = session
        self._lock = threading.Lock()  # a tokenizer is not safe to share
        self._tokenizer: Any = None
        self._looks: dict[str, tuple[int, Look]] = {}  # by side, with the time at which its rows were written

    def ask(self, asked: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> threading.Event:
        """Call `answer` with the page, soon and on another thread; the event is set when that is done."""
        done = threading.Event()

        def work() -> None:
            try:
                with self._lock:
                    found = self._page(asked)
            except FineTuneError as error:
                found = {"error": str(error)}
            except Exception as error:  # noqa: BLE001 - a folder that went away must not leave a tab that waits for ever
                found = {"error": f"the rows cannot be shown ({type(error).__name__}: {error})"[:300]}
            answer({"asked": str(asked.get("asked", ""))[:64], **found})
            done.set()

        aside(work, f"data of {self._session.name}")
        return done

    def _page(self, asked: dict[str, Any]) -> dict[str, Any]:
        sides = sides_of(self._session.folder)
        side = asked.get("side") if asked.get("side") in sides else sides[0]
        look = self._look(str(side))
        number, first = (_whole(asked.get(name)) for name in ("number", "first"))
        if number is not None:
            first = look.rows.index_of(number)
        last = (len(look.rows) - 1) // PAGE * PAGE if number is None else len(look.rows) - 1
        first = max(0, min(first or 0, last))
        note = "" if number is None else _absent(look, number, first)
        shown = {
            "html": page_html(look, first, PAGE, told=first == 0, note=note),
            "style": STYLE,
            "side": side,
            "sides": sides,
        }
        return {**shown, "first": first, "page": PAGE, "of": len(look.rows)}

    def _look(self, side: str) -> Look:
        file = self._session.folder / "data" / TRAIN
        written = file.stat().st_mtime_ns if file.exists() else 0
        known = self._looks.get(side)
        if known is not None and known[0] == written:
            return known[1]
        recipe = self._session.recipe
        if written and self._tokenizer is None:
            self._tokenizer = tokenizer_of(recipe)
        look = look_at_run(self._session.name, self._session.folder, recipe, self._tokenizer, side)
        self._looks[side] = written, look
        return look


def _absent(look: Look, number: int, first: int) -> str:
    """Why the row that was asked for is not the first on its page; empty where it is."""
    if look.rows.shown(first).number == number:
        return ""
    why = dict(look.overview.dropped).get(number)
    return f"row {number:,} is dropped: {why}" if why else f"row {number:,} is not among these rows"


def _whole(value: object) -> int | None:
    return min(max(value, 0), 2**53) if isinstance(value, int) and not isinstance(value, bool) else None
