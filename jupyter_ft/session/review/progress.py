"""How far a review is, and how many more judgements would be useful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...feedback import Judgement, Wins
from ...feedback.lessons import TO_TRAIN, pairs
from ...feedback.wins import more_to_be_sure, wins


@dataclass(frozen=True)
class Progress:
    """Where a review stands; all but `mine` and `left` count every reviewer of the run.

    `mine` are the pairs that this reviewer has judged, `left` the prompts to come (the one on the table too), `usable`
    the pairs that can be trained on, `held_out` those kept to see whether it helped. `more` is how many would still be
    useful: to train (20 usable ones), or where two weights are compared, to tell them apart (None: no 200 would).
    """

    mine: int
    left: int
    judged: int
    usable: int
    held_out: int
    more: int | None
    wins: Wins | None = None
    alike: int = 0

    @property
    def enough(self) -> bool:
        """Whether there is enough to train on."""
        return self.usable >= TO_TRAIN

    @property
    def said(self) -> str:
        """All of it in one line; who wins only at the end, since a count after each choice would tell the sides."""
        parts = [f"{self.mine} judged", f"{self.left} to go", f"{self.usable} to train on, {self.held_out} held out"]
        if self.wins is not None and self.wins.decided and not self.left:
            parts.append(str(self.wins))
        if self.more is None:
            parts.append("they are too close for 200 more to tell them apart")
        elif self.more:
            parts.append(f"{self.more} more would {'tell them apart' if self.wins else 'be enough to train on'}")
        if self.alike:
            parts.append(f"{self.alike} passed over, both answers the same")
        return "; ".join(parts)

    def __str__(self) -> str:
        return self.said


def progress_of(judgements: Sequence[Judgement], reviewer: str, at: tuple[str, str], left: int, alike: int) -> Progress:
    """What the judgements of a run say of a review of the weights `at`."""
    of_pairs = [one for one in judgements if one.choice is not None]
    usable = len(pairs(one for one in of_pairs if not one.held_out))
    compared = wins(of_pairs, *at) if at[0] != at[1] else None
    more = more_to_be_sure(compared.won, compared.decided) if compared is not None else max(0, TO_TRAIN - usable)
    return Progress(
        mine=sum(one.reviewer == reviewer for one in of_pairs),
        left=left,
        judged=len(of_pairs),
        usable=usable,
        held_out=len(pairs(one for one in of_pairs if one.held_out)),
        more=more,
        wins=compared,
        alike=alike,
    )
