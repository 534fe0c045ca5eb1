"""The Data tab of a panel: the rows that the trainer has, page by page."""

from __future__ import annotations

from html import escape
from typing import Any

from jupyter_ft.data.look import Look
from jupyter_ft.session.preview import TRAIN, look_at_run, sides_of, tokenizer_of
from jupyter_ft.ui.rows import STYLE, page_html
from jupyter_ft.ui.served import Page, Said
from jupyter_ft.ui.watched import Watched

PAGE = 5
_STYLE = f"""{STYLE}
.jft-pager{{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;align-items:center;gap:4px 14px;padding:0 0 8px;
background:var(--jft-back);font-size:12px}}
.jft .jft-pager :is(select,input){{padding:1px 6px;font-size:12px}}.jft .jft-pager input{{width:8em}}
"""


class DataTab:
    """Answers what a view asks for: `first` (from 0) or the row that the user calls `number`, of a `side`."""

    version = 0

    def __init__(self, session: Watched) -> None:
        self._session = session
        self._tokenizer: Any = None
        self._looks: dict[str, tuple[int, Look]] = {}  # by side, with the time at which its rows were written

    def page(self, said: Said) -> Page:
        """The rows from `first` on."""
        sides = sides_of(self._session.folder)
        side = said("side") if said("side") in sides else sides[0]
        look = self._look(side)
        number, first = said.whole("number") or None, said.whole("first")
        if number is not None:
            first = look.rows.index_of(number)
        last = (len(look.rows) - 1) // PAGE * PAGE if number is None else len(look.rows) - 1
        first = max(0, min(first or 0, last))
        note = "" if number is None else _absent(look, number, first)
        rows = page_html(look, first, PAGE, told=first == 0, note=note)
        bar = _bar(side, sides, first, len(look.rows))
        return Page(f"{bar}{rows}", _STYLE, again=f"side={side}&first={first}")

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


def _bar(side: str, sides: list[str], first: int, total: int) -> str:
    if not total:
        return ""

    def turn(text: str, name: str, to: int, able: bool) -> str:
        off = "" if able else " disabled"
        return f"<button class='jft-small' data-testid='{name}' data-say='side={side}&first={to}'{off}>{text}</button>"

    options = "".join(f"<option{' selected' if one == side else ''}>{escape(one)}</option>" for one in sides)
    others = f"<select name='side' aria-label='Rows to show' data-testid='rows-side' data-say>{options}</select>"
    return (
        f"<div class='jft-pager'>{turn('‹ Previous', 'rows-previous', max(first - PAGE, 0), first > 0)}"
        f"<span class='jft-dim' data-testid='rows-place'>{first + 1}–{min(first + PAGE, total)} of {total}</span>"
        f"{turn('Next ›', 'rows-next', first + PAGE, first + PAGE < total)}"
        f"<input type='number' min='1' name='number' placeholder='Go to row' aria-label='Go to row' "
        f"data-testid='rows-jump' data-say='side={side}'>{others if len(sides) > 1 else ''}</div>"
    )
