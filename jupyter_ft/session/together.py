"""One question to several weights, of one run or several on one base, whose answers are spoken in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import AddressError
from ..messages import Ask
from ..sampling.round import MOST, Round
from .answers import Receipt

if TYPE_CHECKING:
    from .handle import Session


class Asked:
    """The questions of one turn, put. Held until they are answered: it is where the runs' chat threads meet."""

    def __init__(self, questions: Sequence[tuple[Session, Ask]]) -> None:
        put: dict[str, Receipt] = {}
        turns = {ask.turn for _, ask in questions}
        self._rounds = [Round(turn, sum(ask.turn == turn for _, ask in questions)) for turn in turns]
        for session in {id(session): session for session, _ in questions}.values():
            with session.at_once():
                put |= {ask.id: session.submit(ask) for one, ask in questions if one is session}
        self.receipts = [put[ask.id] for _, ask in questions]


def check_columns(count: int) -> None:
    """`AddressError` for more columns than speak at once."""
    if count > MOST:
        raise AddressError(f"{count} columns: {MOST} are the most that answer at once; ask for fewer steps")
