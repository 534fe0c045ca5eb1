"""The Review tab: what is said at it goes to the desk, and what the desk says is shown.

A choice is shown as saved only when the desk has it on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from jupyter_ft.errors import FineTuneError
from jupyter_ft.messages import OVER
from jupyter_ft.session.review import unseen
from jupyter_ft.ui.review_page import SETTINGS, STYLE, button, edit_html, opening_html, table_html, train_html
from jupyter_ft.ui.served import Page, Said
from jupyter_ft.ui.watched import Watched

if TYPE_CHECKING:
    from jupyter_ft.session import Session
    from jupyter_ft.session.review import Desk

VERDICTS = {
    "left": "left is better",
    "right": "right is better",
    "tie": "a tie",
    "both_bad": "both bad",
    "skip": "skipped",
}


class ReviewTab:
    """The desk of a session that was opened last, or how to open one."""

    def __init__(self, session: Watched) -> None:
        self._session = session
        self._changes = 0
        self._noted: object = None
        self._desk: Desk | None = None
        self._end: Callable[[], None] = lambda: None
        self._trained: Session | None = None
        self._done = ""  # what was done last
        self._wrong = ""  # what was refused last

    @property
    def version(self) -> int:
        """Grows when the desk is another or has something new, or the run that it started is in another state."""
        desk = self._session.desk
        now = (desk, self._trained.state if self._trained is not None else "")
        if now != self._noted:
            self._noted = now
            self._changes += 1
        if desk is not self._desk:
            self._end()
            self._desk, self._end = desk, desk.on_change(self._changed) if desk is not None else lambda: None
        return self._changes

    def _changed(self) -> None:
        self._changes += 1

    def page(self, said: Said) -> Page:
        """Do what was said, and show what is on the table then."""
        refused = ""
        try:
            self._act(said)
        except FineTuneError as error:
            refused = str(error)
        if said("do") not in ("", "edit"):
            self._wrong = refused
        version, desk = self.version, self._session.desk
        if desk is None:
            return self._page(opening_html(self._session), version)
        pair = desk.pair()
        edits = said("do") == "edit" or (refused and "edited" in said)  # what was written stays
        if pair is not None and edits and said("pair") == pair.id:
            side = said("side") or said("choice")
            again = f"do=edit&side={quote(side)}&pair={quote(pair.id)}"
            return self._page(edit_html(desk, pair, side), version, again=again)
        waits = pair is None and not desk.done and not desk.error
        question = f"Pair {pair.number}: {pair.question[:300]}" if pair is not None else ""
        return self._page(table_html(desk), version, told=question, more=waits)

    def _page(self, body: str, version: int, *, again: str = "", told: str = "", more: bool = False) -> Page:
        desk = self._session.desk
        top = "" if desk is None else _top(desk)
        html = f"<div class='jft-review'>{top}{self._said()}{body}{self._after(desk)}</div>"
        training = self._trained is not None and self._trained.state not in OVER
        spoken = " ".join(filter(None, (self._wrong or self._done, told)))
        return Page(html, STYLE, again=again, told=spoken, more=more or training, version=version)

    # --- what is done -------------------------------------------------------------------------------------------------

    def _act(self, said: Said) -> None:
        desk = self._session.desk
        match said("do"):
            case "begin":
                self._begin(said)
            case "judge" if desk is not None:
                choice, pair = said("choice"), desk.pair()
                edited = said("edited") if "edited" in said else None
                tags = [tag.strip() for tag in [*said.all("tags"), *said("tag").split(",")] if tag.strip()]
                given: Any = choice
                desk.judge(given, tags=tags, comment=said("comment").strip(), edited=edited, pair=said("pair"))
                number = pair.number if pair is not None else 0
                self._done = f"Saved: pair {number}, {'edited, ' if edited else ''}{VERDICTS[choice]}."
            case "undo" if desk is not None:
                self._done = f"Taken back: pair {desk.undo().number} is on the table again."
            case "train" if desk is not None and (self._trained is None or self._trained.state in OVER):
                self._trained = desk.train(**{name: said(name) for name in SETTINGS if said(name)})
                self._done = f"{self._trained.name} trains on what you chose."
            case "compare" if self._trained is not None:
                self._compare(self._trained.name)
            case "close" if desk is not None:
                desk.close()

    def _compare(self, name: str) -> None:
        """The weights from before and those that were trained, on prompts from which nothing was learned."""
        desk, own = self._session.desk, self._session
        own.review_desk(
            unseen(cast("Session", own)), (name, own.name), reviewer=desk.reviewer if desk is not None else None
        )
        self._done = ""

    def _begin(self, said: Said) -> None:
        prompts = [line.strip() for line in said("prompts").splitlines() if line.strip()]
        at = [part.strip() for part in said("at").split(",")]
        self._session.review_desk(prompts or None, at, reviewer=said("reviewer").strip() or None)
        self._done = ""

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _said(self) -> str:
        wrong = f"<p class='jft-bad' data-testid='review-wrong'>{escape(self._wrong)}</p>" if self._wrong else ""
        mark = f"<p class='saved' data-testid='review-saved'>{escape(self._done)}</p>" if self._done else ""
        return wrong or mark

    def _after(self, desk: Desk | None) -> str:
        """What comes of it: the button to train, the run that does, and the comparison that follows."""
        if self._trained is not None:
            name, state = escape(self._trained.name), self._trained.state
            step = f", step {self._trained.step} of {self._trained.total_steps}" if self._trained.step else ""
            told = f"<b>{name}</b> is {state}{step}; a cell with <code>%ft show {name}</code> shows its panel."
            compare = button("compare", "compare", "Compare it with before, blind") if state == "finished" else ""
            again = train_html("Train again, on all") if state in OVER and desk is not None else ""
            return f"<div class='after' data-testid='review-trained'><p>{told}</p>{compare}{again}</div>"
        if desk is None or not desk.progress.enough:
            return ""
        return f"<div class='after'>{train_html('Train on these', kind='jft-primary')}</div>"


def _top(desk: Desk) -> str:
    progress = f"<span data-testid='review-progress'>{escape(desk.progress.said)}</span>"
    return f"<div class='top'>{progress}{button('close', 'close', 'End this review', kind='jft-small')}</div>"
