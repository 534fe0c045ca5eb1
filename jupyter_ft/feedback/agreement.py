"""How far reviewers agree who judged the same two answers to the same prompt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from .judgement import Judgement, prompt_key


@dataclass(frozen=True)
class Agreement:
    """`same` of `judged` comparisons agree (two reviewers, one pair); `kappa` is that beyond chance, None where open.

    With two reviewers it is Cohen's kappa (1960), with more the mean over all pairs of them (Light, 1971), each
    weighted by the pairs that both judged: 1 is always, 0 is what chance would give.
    """

    reviewers: tuple[str, ...]
    pairs: int
    judged: int
    same: int
    kappa: float | None

    def __str__(self) -> str:
        if not self.judged:
            return "no pair was judged by two reviewers"
        whose = "Cohen's kappa" if len(self.reviewers) == 2 else "mean of Cohen's kappas (Light)"
        kappa = f", {whose} {self.kappa:.2f}" if self.kappa is not None else ""
        return (
            f"{', '.join(self.reviewers)} agree on {self.same} of {self.judged} ({self.same / self.judged:.0%}{kappa})"
        )

    __repr__ = __str__


def agreement(judgements: Iterable[Judgement]) -> Agreement:
    """Over all pairs that several people judged; of one person the last judgement counts, and none that was skipped."""
    verdicts: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for one in judgements:
        if one.choice in ("left", "right", "tie", "both_bad") and len(one.answers) == 2:
            sides = sorted((answer.at, answer.text) for answer in one.answers)
            said = str(one.choice)
            if one.preferred is not None:
                said = "first" if (one.preferred.at, one.preferred.text) == sides[0] else "second"
            key = (prompt_key(one.prompt), *(text for side in sides for text in side))
            verdicts[key][one.reviewer] = said
    shared = [said for said in verdicts.values() if len(said) > 1]
    names = sorted({name for said in shared for name in said})
    judged = [[(said[a], said[b]) for said in shared if {a, b} <= said.keys()] for a, b in combinations(names, 2)]
    met = [both for both in judged if both]
    kappas = [(k, len(both)) for both in met if (k := kappa(both)) is not None]
    weight = sum(count for _, count in kappas)
    return Agreement(
        tuple(name or "(no name)" for name in names),
        pairs=len(shared),
        judged=sum(map(len, met)),
        same=sum(one == other for both in met for one, other in both),
        kappa=sum(k * count for k, count in kappas) / weight if weight else None,
    )


def kappa(both: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two people's verdicts: (observed - by chance) / (1 - by chance).

    None where chance alone gives full agreement.
    """
    total = len(both)
    observed = sum(one == other for one, other in both) / total
    mine, theirs = Counter(one for one, _ in both), Counter(other for _, other in both)
    chance = sum(mine[word] * theirs[word] for word in mine) / total**2
    return None if chance == 1 else (observed - chance) / (1 - chance)
