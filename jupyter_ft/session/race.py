"""Races: several runs at once on one base, whose recipes differ in what `race:` lists. Each equals its solo run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..data import Report
from ..errors import AddressError, RecipeError, TrainingFailed
from ..event_log import that_count
from ..hyperparameters import REWARDED
from ..messages import OVER, EvalDone
from ..names import deciding
from ..recipe import ALIASES, lift
from ..runs import check_name, runs_root
from .handle import Session, collect
from .registry import sessions
from .start import Plan, begin, plan, refuse_live

if TYPE_CHECKING:
    import pandas as pd

MOST = 64  # runs in a race: each has its panel, its thread and its adapter
LAST = 10  # steps that a loss is averaged over, to compare runs that hold nothing out
ROWS = {"data", "columns", "held_out", "method", "seed", "start_from", "model", "revision"}
"""What decides which rows a run has; where none of it varies, the rows are read once."""
Variants = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def variants_of(race: Any) -> list[dict[str, Any]]:
    """The settings of each run: of a grid (names to lists) every combination, of a list its members.

    Raises `RecipeError` for what is neither, for a setting without values, and for more than `MOST` runs.
    """
    if isinstance(race, Mapping) and race:
        lists = {str(key): value for key, value in race.items()}
        for key, value in lists.items():
            if not isinstance(value, Sequence) or isinstance(value, str) or not value:
                raise RecipeError(f"race.{key} = {value!r:.60}: should be a list of values, like [1e-4, 3e-4]")
        count = math.prod(len(value) for value in lists.values())
        made = itertools.product(*lists.values()) if count <= MOST else iter(())
        found = [dict(zip(lists, values, strict=True)) for values in made]
    elif (
        isinstance(race, Sequence) and not isinstance(race, str) and race and all(isinstance(v, Mapping) for v in race)
    ):
        found, count = [dict(variant) for variant in race[: MOST + 1]], len(race)
    else:
        raise RecipeError("race: a grid like {learning_rate: [1e-4, 3e-4]}, or a list of settings: [{…}, {…}]")
    if count > MOST:
        raise RecipeError(f"race: that makes {count} runs, and {MOST} are the most; leave some values out")
    return found


class Race(Sequence[Session]):
    """The runs of a race, in the order of their numbers: `race[0]` is `NAME-1`. `settings` are what each differs in."""

    def __init__(self, name: str, runs: Sequence[Session], settings: Sequence[Mapping[str, Any]]) -> None:
        self.name = name
        self.settings = [dict(one) for one in settings]
        self._runs = list(runs)

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> list[Session]: ...
    def __getitem__(self, index: int | slice) -> Session | list[Session]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._runs)

    def __repr__(self) -> str:
        return f"<Race {self.name}: {len(self)} runs, {len(self.live)} live>"

    @property
    def live(self) -> list[Session]:
        """Those that are not over."""
        return [session for session in self if session.state not in OVER]

    @property
    def ranked(self) -> list[Session]:
        """Those that have a score, the best first; see `score`."""
        scored = [(score(session), place, session) for place, session in enumerate(self)]
        return [session for value, _, session in sorted(scored, key=lambda one: one[:2]) if math.isfinite(value)]

    @property
    def best(self) -> Session | None:
        """The one with the lowest score so far; None before any has one."""
        return next(iter(self.ranked), None)

    def table(self) -> pd.DataFrame:
        """A row a run, indexed by name: what it differs in, its state, step, losses, the score. The best come first."""
        import pandas as pd

        order = [*self.ranked, *(session for session in self if not math.isfinite(score(session)))]
        rows = []
        for session in order:
            last, counted = session.log.last_row, that_count(session.log.history(), EvalDone)
            about = {"state": session.state, "step": session.step, "loss": last.get("loss", math.nan)}
            if session.recipe.method in REWARDED:
                about["reward"] = last.get("reward", math.nan)
            if counted:
                about |= {
                    name: counted[-1].metrics.get(name, math.nan) for name in ("eval_loss", counted[-1].best_metric)
                }
            rows.append(self.settings[self._runs.index(session)] | about)
        return pd.DataFrame(rows, index=[session.name for session in order])

    def wait(self, step: int | None = None, timeout: float | None = None) -> Race:
        """Block until every run is over, or has done `step` steps; one that failed is passed over.

        Ctrl-C stops waiting, not the runs. Raises `TimeoutError` after `timeout` seconds for one of them.
        """
        for session in self:
            try:
                session.wait(step, timeout)
            except TrainingFailed:
                continue
        return self

    def stop(self) -> None:
        """End every run that is live at its next step, with a checkpoint."""
        for session in self.live:
            session.stop()

    def halve(self) -> list[Session]:
        """Stop the worse half of the runs that are live (successive halving, arXiv 1502.07943); those that are stopped.

        A run without a score yet goes on.
        """
        racing = [session for session in self.ranked if session.state not in OVER]
        worse = racing[math.ceil(len(racing) / 2) :]
        for session in worse:
            session.stop()
        return worse

    def close(self) -> None:
        """Stop what is live and free the memory; what is on disk stays."""
        self.stop()
        for session in self:
            session.let_go()
        collect()
        if races.get(self.name) is self:
            del races[self.name]


races: dict[str, Race] = {}
"""The open races by name."""


def score(session: Session) -> float:
    """What a run is ranked by, the lowest first: its best evaluation, by what tells its best step (negated where more
    is better); with nothing held out, the mean loss of its last ten steps, or of a policy the mean reward, negated.
    """
    counted = that_count(session.log.history(), EvalDone)
    if counted:
        metric = counted[-1].best_metric
        asked = session.recipe.best_metric
        sign = deciding(asked if asked.split()[-1] == metric else metric)[1]
        return min((sign * one.metrics.get(metric, math.inf * sign) for one in counted), default=math.inf)
    steps = session.log.read()[0].steps
    name, sign = ("reward", -1) if session.recipe.method in REWARDED else ("loss", 1)
    last = steps.get(name, np.empty(0))[-LAST:]
    mean = sign * float(last.mean()) if len(last) else math.inf
    return mean if math.isfinite(mean) else math.inf


def race(
    race: Variants,
    model: str | None = None,
    data: object = None,
    name: str = "race",
    *,
    replace: bool = False,
    **recipe: Any,
) -> Race:
    """Start several runs at once on one base, `NAME-1` on, and return their `Race`.

    `race` is a grid (`{"learning_rate": [1e-4, 3e-4]}`: every combination) or a list of settings; the rest as for
    `finetune`, for all of them. Raises as `finetune` does, before anything is started.
    """
    return start_race(model, data, name, race, recipe, replace=replace)


def start_race(
    model: str | None,
    data: object,
    name: str,
    race: Any,
    recipe: Mapping[str, Any],
    *,
    replace: bool = False,
    progress: Report | None = None,
) -> Race:
    """Start every run of a race at once, `NAME-1` on. Raises as `finetune` does, before anything is started."""
    wanted, settings = check_name(name), variants_of(race)
    plans = plans_of(model, data, recipe, settings, progress)
    for session in refuse_live(wanted, replace=replace):
        session.stop()
        session.wait_until_over()
    wanted = _free(wanted)
    runs: list[Session] = []
    try:
        for number, planned in enumerate(plans, 1):
            runs.append(begin(f"{wanted}-{number}", planned, replace=False, resume=False))
    except BaseException:
        for session in runs:
            session.close()
        raise
    races[wanted] = Race(wanted, runs, settings)
    return races[wanted]


def plans_of(
    model: str | None,
    data: object,
    recipe: Mapping[str, Any],
    settings: Sequence[Mapping[str, Any]],
    progress: Report | None = None,
) -> list[Plan]:
    """What each run of a race is asked to be; the rows are read once where they are the same for all.

    Raises `RecipeError` that names the run.
    """
    plans: list[Plan] = []
    for number, own in enumerate(settings, 1):
        plain = {ALIASES.get(key, key) for key in lift(own)}
        whole = {key: value for key, value in recipe.items() if ALIASES.get(key, key) not in plain} | dict(own)
        same = bool(plans) and not ROWS & {key.partition(".")[0] for one in settings for key in one}
        try:
            plans.append(plan(model, data, whole, progress, examples=plans[0].examples if same else None))
        except RecipeError as error:
            raise RecipeError(f"race, run {number}: {error}") from None
    return plans


def _free(wanted: str) -> str:
    """`wanted`, or `wanted.2`, … where the runs of an earlier race have the name."""
    root, name, number = runs_root(), wanted, 1
    while (root / f"{name}-1").exists():
        number += 1
        name = f"{wanted}.{number}"
    return name


def race_of(name: str) -> Race:
    """The open race of that name; `AddressError` lists those that there are."""
    if name not in races:
        raise AddressError(f"no race '{name}' is open; open ones: {', '.join(races) or 'none'}")
    return races[name]


def is_race(name: str | None) -> bool:
    """Whether an open race, and no session, has that name."""
    return name in races and name not in sessions
