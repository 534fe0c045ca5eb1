"""Successive halving (arXiv 1502.07943): of the runs of a race the worse are stopped at fixed steps, by themselves."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
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
    same whoever was faster. Runs that join later race beside it. `said` is what was decided, in order.
    """

    def __init__(self, name: str, runs: Sequence[Session], how: Halving) -> None:
        self.said: list[str] = []
        self._racing, self._how, self._ended = list(runs), how, False
        threading.Thread(target=self._watch, name=f"jupyter-ft {name} halving", daemon=True).start()

    def end(self) -> None:
        """Stop nobody any more: a person has decided."""
        self._ended = True

    def _watch(self) -> None:
        rung = self._how.every
        while len(self._racing) > 1:
            for session in self._racing:
                session.log.wait_for(lambda s=session, step=rung: _there(s, step))  # type: ignore[misc]
            if self._ended or all(session.state in OVER for session in self._racing):
                return
            self._decide(rung)
            rung += self._how.every

    def _decide(self, rung: int) -> None:
        """Stop the worse of those that have come to `rung`; those that ended before, by themselves or not, are out."""
        came = [s for s in self._racing if s.state not in OVER or (s.state == "finished" and s.step >= rung)]
        scores = {session.name: score_at(session, rung, self._how.by) for session in came}
        ranked = sorted((s for s in came if math.isfinite(scores[s.name][1])), key=lambda s: scores[s.name][1])
        going = ranked[: math.ceil(len(ranked) * self._how.keep)]
        for place, session in enumerate(ranked[len(going) :], len(going) + 1):
            if session.state not in OVER and session.total_steps > rung:  # else it is at its end
                metric, own = scores[session.name][0], abs(scores[session.name][1])
                best = ", ".join(f"{s.name} {abs(scores[s.name][1]):.4g}" for s in going)
                said = f"{metric} {own:.4g} is number {place} of {len(ranked)}; {best} {_go(len(going))} on"
                self._stop(session, f"stopped by the race's halving at step {rung}: {said}")
        self._racing = [s for s in came if s not in ranked or s in going]
        if not ranked:
            self.said.append(f"nothing to decide by at step {rung}: no {self._how.by or 'score'} is measured yet")

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
