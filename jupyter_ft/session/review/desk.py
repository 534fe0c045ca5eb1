"""The desk at which a person judges: the pair on the table, the verdict that is kept, the last one taken back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from ...errors import Refused, did_you_mean
from ...feedback import Choice, Feedback, Judgement
from ...messages import Logged
from ...runs import runs_root
from .pair import Pair
from .progress import Progress, progress_of
from .supply import Supply

if TYPE_CHECKING:
    from ..handle import Session

CHOICES: tuple[str, ...] = get_args(Choice)

FIRST_SECONDS = 60.0  # that a verdict waits for a pair to be there


class Desk:
    """One reviewer's review of two weights of a run (`session.review_desk`). Safe to use from any thread.

    `blind`: which weights gave an answer is for whoever shows it not to show; it is recorded with the judgement.
    """

    def __init__(
        self, session: Session, kept: Feedback, supply: Supply, *, at: tuple[str, str], reviewer: str, blind: bool
    ) -> None:
        self.session, self.feedback = session, kept
        self.at, self.reviewer, self.blind = at, reviewer, blind
        self._supply = supply
        self._callbacks: list[Callable[[], None]] = []
        self._telling = threading.Lock()
        self._busy = self._again = False
        self._numbers: dict[str, int] = {}  # of the pairs judged here, by judgement

    def begin(self) -> None:
        """Have pairs prepared."""
        self._supply.begin(self._tell)

    # --- the table ---

    def pair(self) -> Pair | None:
        """The pair on the table; None while the first is prepared, and when there is none left (`done`)."""
        with self._supply.changed:
            return self._supply.ready[0] if self._supply.ready else None

    def wait(self, timeout: float | None = None) -> Pair | None:
        """The pair on the table; waits for it while one is prepared, `timeout` seconds at most."""
        with self._supply.changed:
            self._supply.changed.wait_for(lambda: bool(self._supply.ready) or self.done or bool(self.error), timeout)
            return self.pair()

    @property
    def done(self) -> bool:
        """Whether there is no pair left, or the desk is closed."""
        return self._supply.closed or self._supply.left == 0

    @property
    def closed(self) -> bool:
        """Whether nothing can be judged here any more."""
        return self._supply.closed

    @property
    def error(self) -> str:
        """Why no pair comes; empty where one will."""
        return "" if self.pair() is not None else self._supply.error

    @property
    def progress(self) -> Progress:
        """How far it is."""
        supply = self._supply
        return progress_of(self.feedback.judgements, self.reviewer, self.at, supply.left, supply.alike)

    # --- the verdict ---

    def judge(
        self,
        choice: Choice,
        *,
        tags: Sequence[str] = (),
        comment: str = "",
        edited: str | None = None,
        pair: Pair | str | None = None,
    ) -> Judgement:
        """Judge the pair on the table: `left right tie both_bad skip`. When this returns, it survives `kill -9`.

        `edited` is a better answer than both, in the reviewer's words. `pair` (or its id) is the one that was seen:
        `Refused` where it is no longer on the table, so that a second click judges nothing unseen. Without one, it
        waits while the next is prepared.
        """
        if choice not in CHOICES:
            raise Refused(
                f"'{choice}' is no choice{did_you_mean(str(choice), CHOICES)}; there are: {' '.join(CHOICES)}"
            )
        if pair is None:
            self.wait(FIRST_SECONDS)
        with self._supply.changed:
            on_table = self._on_table(pair)
            judgement = self._judgement(on_table, choice, tags, comment, edited or "")
            self.feedback.add(judgement)
            self._numbers[judgement.id] = on_table.number
            self._supply.ready.popleft()
            self._supply.changed.notify_all()
        self._log(f"pair {on_table.number} judged, saved as {judgement.id}")
        self._tell()
        return judgement

    def _on_table(self, pair: Pair | str | None) -> Pair:
        on_table = self.pair()
        if self._supply.closed:
            raise Refused("this review is closed; open it again")
        seen = pair if isinstance(pair, str | None) else pair.id
        if seen is not None and (on_table is None or on_table.id != seen):
            raise Refused("that pair is no longer on the table; it is judged already")
        if on_table is None:
            none = "there is no pair left to judge" if self.done else "the next pair is being prepared"
            raise Refused(self.error or none)
        return on_table

    def _judgement(self, pair: Pair, choice: Choice, tags: Sequence[str], comment: str, edited: str) -> Judgement:
        if edited and not edited.strip():
            raise Refused("the edited answer is empty; write it, or choose without an edit")
        try:
            return pair.judged(
                choice,
                tags=[str(tag) for tag in tags],
                comment=comment,
                edited=edited,
                reviewer=self.reviewer,
                blind=self.blind,
            )
        except ValidationError as error:
            raise Refused(str(error.errors()[0]["msg"])) from None

    def undo(self) -> Pair:
        """Take this reviewer's last judgement back: its pair is on the table again. `Refused` where there is none."""
        with self._supply.changed:
            if self._supply.closed:
                raise Refused("this review is closed; open it again")
            own = [one for one in self.feedback if one.reviewer == self.reviewer and one.choice is not None]
            if not own or not self.feedback.undo(own[-1]):
                raise Refused("there is no judgement of yours to undo")
            last = own[-1]
            pair = Pair.again(last, self._numbers.get(last.id, len(own)))
            self._supply.ready.appendleft(pair)
            self._supply.changed.notify_all()
        self._log(f"pair {pair.number}: judgement {last.id} taken back")
        self._tell()
        return pair

    def _log(self, text: str) -> None:
        """A line for the log, which may be passed on: who judged what is in the store alone."""
        self.session.log.append(Logged(level="info", text=text))

    # --- what comes of it ---

    def train(self, name: str | None = None, method: str = "dpo", **recipe: Any) -> Session:
        """Start a run from these weights on what was judged, the held-out fifth apart: `name`, or `NAME-tuned`.

        Raises as `finetune` does, before anything is loaded.
        """
        from ..start import finetune

        run, folder = self.session.name, self.session.folder
        data = f"feedback:{run if folder == runs_root() / run else folder}"
        given = {"start_from": run, **recipe}
        return finetune(data=data, name=name or f"{run}-tuned", method=method, **given)

    # --- who looks ---

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback()` called, from any thread, when there is something new; gives what ends that.

        Changes that come while it runs are told once.
        """
        self._callbacks.append(callback)

        def end() -> None:
            with suppress(ValueError):
                self._callbacks.remove(callback)

        return end

    def _tell(self) -> None:
        with self._telling:
            self._again = True
            if self._busy:
                return
            self._busy = True
        while True:
            with self._telling:
                if not self._again:
                    self._busy = False
                    return
                self._again = False
            for callback in list(self._callbacks):
                try:
                    callback()
                except Exception as error:  # noqa: BLE001 - who looks must not stop who prepares
                    text = f"a review is not shown: {type(error).__name__}: {error}"
                    self.session.log.append(Logged(level="warning", text=text[:500]))

    def close(self) -> None:
        """Prepare nothing more; what was judged stays."""
        self._supply.close()
        self._tell()

    # --- as it is shown ---

    def show(self) -> None:
        """The review in this cell."""
        if self.session.views is not None:
            self.session.views.review(self)

    _ipython_display_ = show

    def __repr__(self) -> str:
        return f"<review of {self.session.name}: {self.error or self.progress.said}>"
