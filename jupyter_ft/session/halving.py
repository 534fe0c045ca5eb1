"""Successive halving (arXiv 1502.07943): of the runs of a race the worse are stopped at fixed steps, by themselves."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FineTuneError, RecipeError
from ..event_log import that_count
from ..hyperparameters import REWARDED
from ..messages import OVER, EvalDone, Logged
from ..names import deciding

if TYPE_CHECKING:
    from .handle import Session

LAST = 10  # steps that a loss is averaged over
LOOK_AGAIN = 1.0  # seconds, where all that race wait for runs of others


@dataclass(frozen=True)
class Halving:
    """Every `every` steps the share `keep` of the runs goes on, the best `by` a metric: `eval_loss`, `loss`, …

    `by` may say `max` or `min` before the name. Empty: what tells a run's best step, else its loss or reward.
    """

    every: int
    keep: float = 0.5
    by: str = ""


def halving_of(asked: Any) -> Halving:
    """What `race.halve` says. Raises `RecipeError`."""
    if not isinstance(asked, Mapping):
        raise RecipeError(
            f"race.halve = {asked!r:.60}: write {{every: 20}}, with keep: 0.5 and by: eval_loss if wanted"
        )
    known = [field.name for field in fields(Halving)]
    for key in asked:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            raise RecipeError(f"race.halve.{key}: {f'did you mean {near[0]}?' if near else f'it takes {known}'}")
    every, keep, by = asked.get("every"), asked.get("keep", 0.5), asked.get("by", "")
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise RecipeError(f"race.halve.every = {every!r}: should be a number of steps, 1 or more")
    if not isinstance(keep, int | float) or not 0 < keep < 1:
        raise RecipeError(f"race.halve.keep = {keep!r}: should be a share between 0 and 1, like 0.5")
    if not isinstance(by, str) or (by and by.split()[:-1] not in ([], ["min"], ["max"])):
        raise RecipeError(f"race.halve.by = {by!r:.60}: should be the name of a metric, like eval_loss or max eval_f1")
    return Halving(every, float(keep), by)


class Halver:
    """Watches the runs of a race in the background and stops the worse of them at each rung.

    A rung is decided when every run that still races has done its steps, by what was measured up to it: so it is the
    same whoever was faster. One that waits in the queue for memory then holds nobody back: it is judged by itself when
    it comes to a rung, beside all that came there before (as in arXiv 1810.05934; who goes on already is not stopped
    for it). Runs that join later race beside it. `said` is what was decided, in order.
    """

    def __init__(self, name: str, runs: Sequence[Session], how: Halving) -> None:
        self.said: list[str] = []
        self._racing, self._how, self._ended = list(runs), how, False
        self._name, self._late = name, 0
        self._scores: dict[int, dict[str, float]] = {}  # by rung and run, the lowest is the best
        self._deciding = threading.Lock()
        self._begin(self._watch)

    def end(self) -> None:
        """Stop nobody any more: a person has decided."""
        self._ended = True

    def _begin(self, work: Callable[..., None], *given: Session) -> None:
        threading.Thread(target=work, args=given, name=f"jupyter-ft {self._name} halving", daemon=True).start()

    def _watch(self) -> None:
        rung = self._how.every
        while len(self._racing) > 1 or (self._racing and self._late):  # who is late is judged beside one, too
            waiting = self._gather(rung)
            if self._ended or (not waiting and not self._late and all(s.state in OVER for s in self._racing)):
                return
            self._racing = self._decide(rung, [s for s in self._racing if s not in waiting])
            self._late += len(waiting)
            for session in waiting:
                self._begin(self._follow, session)
            rung += self._how.every

    def _gather(self, rung: int) -> list[Session]:
        """Wait until all that race have come to `rung`, but for those that wait for memory, and give these."""
        while True:
            for session in self._racing:
                session.log.wait_for(lambda s=session: _there(s, rung) or _waits(s))  # type: ignore[misc]
            left = [session for session in self._racing if not _there(session, rung)]
            if not left or (all(map(_waits, left)) and len(left) < len(self._racing)):
                return left
            left[0].log.wait_for(lambda s=left[0]: not _waits(s), LOOK_AGAIN)  # type: ignore[misc]

    def _follow(self, session: Session) -> None:
        """Judge a run that came late at each rung that it comes to."""
        rung = self._how.every
        while session.name in self._scores.get(rung, {}):  # it gave its memory back meanwhile, and waited again
            rung += self._how.every
        while True:
            session.log.wait_for(lambda step=rung: _there(session, step))  # type: ignore[misc]
            if self._ended or not self._decide(rung, [session]):
                return
            rung += self._how.every

    def _decide(self, rung: int, runs: Sequence[Session]) -> list[Session]:
        """Stop the worse of `runs`, which have come to `rung`; those that go on (who ended before by itself is out)."""
        came = [s for s in runs if s.state not in OVER or (s.state == "finished" and s.step >= rung)]
        scores = {session.name: score_at(session, rung, self._how.by) for session in came}
        with self._deciding:
            known = self._scores.setdefault(rung, {})
            known |= {name: value for name, (_, value) in scores.items() if math.isfinite(value)}
            ranked = sorted(known, key=known.__getitem__)
        going = ranked[: math.ceil(len(ranked) * self._how.keep)]
        for session in sorted(came, key=lambda s: scores[s.name][1]):
            name = session.name
            if name not in ranked or name in going or session.state in OVER or session.total_steps <= rung:
                continue  # at its end, it is not stopped
            metric, own = scores[name][0], abs(scores[name][1])
            best = ", ".join(f"{one} {abs(known[one]):.4g}" for one in going)
            after = f"{best} {_go(len(going))} on" if len(runs) > 1 else f"before it {best}"
            said = f"{metric} {own:.4g} is number {ranked.index(name) + 1} of {len(ranked)}; {after}"
            self._stop(session, f"stopped by the race's halving at step {rung}: {said}")
        if came and not ranked:
            self.said.append(f"nothing to decide by at step {rung}: no {self._how.by or 'score'} is measured yet")
        return [session for session in came if session.name not in ranked or session.name in going]

    def _stop(self, session: Session, why: str) -> None:
        if self._ended:
            return
        try:
            session.log.append(Logged(level="info", text=why))
            session.stop()
        except (FineTuneError, OSError, ValueError):  # closed in this moment
            return
        self.said.append(f"{session.name}: {why}")


def _go(count: int) -> str:
    return "goes" if count == 1 else "go"


def _waits(session: Session) -> bool:
    """Whether a run waits in the queue for memory, and not for a moment."""
    return session.state == "queued" and session.said.startswith("waits")


def _there(session: Session, rung: int) -> bool:
    """Whether a run has done the steps of a rung, and what is measured after them."""
    if session.state in OVER or session.step > rung:
        return True
    evaluated = that_count(session.log.history(), EvalDone) if session.step == rung else []
    return bool(evaluated) and evaluated[-1].step >= rung


def score_at(session: Session, step: int, by: str = "") -> tuple[str, float]:
    """The metric that ranks a run, and its value as of `step`, the lowest first (negated where more is better).

    Of evaluations the last; of a step's metric the mean of the last ten. Infinite where there is none.
    """
    counted = [one for one in that_count(session.log.history(), EvalDone) if one.step <= step]
    if not by and counted:
        asked, metric = session.recipe.best_metric, counted[-1].best_metric
        by = asked if asked.split()[-1] == metric else metric
    by = by or ("max reward" if session.recipe.method in REWARDED else "loss")
    metric, sign = deciding(by)
    told = [one.metrics[metric] for one in counted if metric in one.metrics]
    if told:
        return metric, sign * told[-1]
    steps = session.log.read()[0].steps
    values = steps.get(metric, np.empty(0))[steps["step"] <= step] if metric in steps else np.empty(0)
    mean = sign * float(values[-LAST:].mean()) if len(values) else math.inf
    return metric, mean if math.isfinite(mean) else math.inf
