"""Which of two weights people prefer: counts, and whether they could be chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from .judgement import Answer, Judgement

SURE = 0.05


@dataclass(frozen=True)
class Wins:
    """`won` and `lost` of the choices between two weights, from the first one's side, and those without a winner.

    `chance`: how often two equally good weights would stand at least so far apart (a two-sided sign test).
    """

    first: str
    second: str
    won: int
    lost: int
    ties: int
    blind: bool

    @property
    def decided(self) -> int:
        """Choices with a winner."""
        return self.won + self.lost

    @property
    def chance(self) -> float:
        """Of the two-sided sign test; 1 where nothing is decided."""
        return sign_test(self.won, self.decided)

    def __str__(self) -> str:
        ties = f", {self.ties} without a winner" if self.ties else ""
        if not self.decided:
            return f"nothing decided between {self.first} and {self.second} yet{ties}"
        blind = ", blind" if self.blind else ", not blind"
        sure = "" if self.chance < SURE else f"; chance gives as much in {self.chance:.0%} of cases"
        return f"{self.first} preferred to {self.second} {self.won} of {self.decided}{blind}{ties}{sure}"

    __repr__ = __str__


def wins(judgements: Iterable[Judgement], first: str, second: str) -> Wins:
    """The choices between the weights `first` and `second` (an address, as it was asked for, or `RUN@STEP`)."""
    won: Counter[str] = Counter()
    blind = True
    for one in judgements:
        if one.choice in (None, "skip") or len(one.answers) != 2:
            continue
        left, right = one.answers
        if not any(is_of(x, first) and is_of(y, second) for x, y in ((left, right), (right, left))):
            continue
        blind &= one.blind
        best = one.preferred
        won["tie" if best is None else "first" if is_of(best, first) else "second"] += 1
    return Wins(first, second, won["first"], won["second"], won["tie"], blind)


def is_of(answer: Answer, address: str) -> bool:
    """Whether the weights at `address` gave the answer: as asked for, by step, or with the name of the run."""
    names = {answer.at, str(answer.step)} - {"None"}
    return address in names | {f"{answer.run}@{name}" for name in names} | (
        {answer.run} if answer.at == "live" else set()
    )


def sign_test(won: int, decided: int) -> float:
    """How likely a fair coin is to fall at least as unevenly, both sides counted."""
    if not decided:
        return 1.0
    tail: float = sum(comb(decided, k) for k in range(max(won, decided - won), decided + 1)) / 2**decided
    return min(1.0, 2 * tail)


def more_to_be_sure(won: int, decided: int, most: int = 200) -> int | None:
    """How many more choices would settle it at this rate; 0 where it is settled, None where `most` would not do."""
    if decided and sign_test(won, decided) < SURE:
        return 0
    share = max(won, decided - won) / decided if decided else 0.75
    for more in range(1, most + 1):
        total = decided + more
        if sign_test(int(share * total), total) < SURE:
            return more
    return None
