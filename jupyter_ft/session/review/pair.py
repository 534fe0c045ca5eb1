"""Two answers to one prompt, side by side; which weights gave which is not shown while the review is blind."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from ...errors import Refused
from ...feedback import Answer, Choice, Judgement
from ...messages import Message


@dataclass(frozen=True)
class Pair:
    """A pair to be judged. `number` counts from 1; `answers` are left and right, `shown` their places as asked for."""

    id: str
    number: int
    prompt: list[Message]
    answers: tuple[Answer, Answer] = field(repr=False)
    shown: tuple[int, int] = field(default=(0, 1), repr=False)

    @classmethod
    def shuffled(
        cls, identity: str, number: int, prompt: list[Message], asked: tuple[Answer, Answer], seed: str
    ) -> Pair:
        """The answers to `prompt` in the order that `seed` draws, by a generator of its own."""
        shown = (0, 1) if random.Random(seed).random() < 0.5 else (1, 0)
        return cls(identity, number, prompt, (asked[shown[0]], asked[shown[1]]), shown)

    @classmethod
    def again(cls, judgement: Judgement, number: int) -> Pair:
        """The pair that was judged, as it stood."""
        left, right = judgement.answers
        shown = (0, 1) if judgement.shown != [1, 0] else (1, 0)
        return cls(judgement.id, number, judgement.prompt, (left, right), shown)

    def __repr__(self) -> str:
        """What is on the table, and nothing of who said it."""
        left, right = (answer.text for answer in self.answers)
        return f"pair {self.number}: {self.question}\n  left:  {left}\n  right: {right}"

    @property
    def question(self) -> str:
        """The last turn of the prompt."""
        return self.prompt[-1]["content"]

    @property
    def left(self) -> str:
        """The left answer."""
        return self.answers[0].text

    @property
    def right(self) -> str:
        """The right answer."""
        return self.answers[1].text

    @property
    def left_at(self) -> str:
        """The weights that gave the left answer; not to be shown while the review is blind. Likewise the next three."""
        return self.answers[0].at

    @property
    def right_at(self) -> str:  # noqa: D102
        return self.answers[1].at

    @property
    def left_step(self) -> int | None:  # noqa: D102
        return self.answers[0].step

    @property
    def right_step(self) -> int | None:  # noqa: D102
        return self.answers[1].step

    def judged(
        self, choice: Choice, *, tags: list[str], comment: str, edited: str, reviewer: str, blind: bool
    ) -> Judgement:
        """The judgement of this pair. `Refused` for an edit that changes nothing or belongs to nothing."""
        if edited and choice == "skip":
            raise Refused("a pair that is skipped has no better answer; choose a side, tie or both bad to edit")
        if edited in (self.left, self.right):
            raise Refused("the edited answer is the same as before; change it, or choose without an edit")
        return Judgement(
            kind="edit" if edited else "choice",
            prompt=self.prompt,
            answers=list(self.answers),
            choice=choice,
            edited=edited,
            tags=tags,
            comment=comment,
            reviewer=reviewer,
            blind=blind,
            shown=list(self.shown),
        )
