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
from ..messages import OVER, EvalDone, Logged
from ..names import deciding
from ..recipe import ALIASES, lift
from ..runs import check_name, runs_root
from .fork import again
from .halving import Halver, Halving, halving_of
from .handle import Session, collect
from .stages import START
from .start import Plan, begin, plan, refuse_live

if TYPE_CHECKING:
    import pandas as pd

MOST = 64  # runs in a race: each has its panel, its thread and its adapter
LAST = 10  # steps that a loss is averaged over, to compare runs that hold nothing out
ROWS = {"data", "columns", "held_out", "method", "seed", "start_from", "model", "revision"}
"""What decides which rows a run has; where none of it varies, the rows are read once."""
Variants = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def split_halving(race: Any) -> tuple[Any, Halving | None]:
    """A race without its `halve`, and what that says: beside the lists of a grid, or beside a list called `runs`."""
    if not isinstance(race, Mapping) or not any(str(key).partition(".")[0] == "halve" for key in race):
        return race, None
    asked = race.get("halve", {})
    dotted = {str(key).removeprefix("halve."): value for key, value in race.items() if str(key).startswith("halve.")}
    rest = {key: value for key, value in race.items() if str(key).partition(".")[0] != "halve"}
    how = halving_of({**asked, **dotted} if isinstance(asked, Mapping) else asked)
    return (rest["runs"] if rest.keys() == {"runs"} else rest), how


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
    """The runs of a race, in the order of their numbers: `race[0]` is `NAME-1`. `settings` are what each differs in.

    With `halve` the worse of them are stopped along the way; `said` tells which, and why.
    """

    def __init__(
        self, name: str, runs: Sequence[Session], settings: Sequence[Mapping[str, Any]], halve: Halving | None = None
    ) -> None:
        self.name = name
        self.settings = [dict(one) for one in settings]
        self._runs = list(runs)
        self.promoted: Session | None = None
        self._halver = Halver(name, runs, halve) if halve is not None else None

    @property
    def said(self) -> list[str]:
        """What halving has decided, in order."""
        return list(self._halver.said) if self._halver is not None else []

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
        first = dict.fromkeys(name for one in self.settings for name in one)
        columns = [*first, *dict.fromkeys(name for row in rows for name in row if name not in first)]
        return pd.DataFrame(rows, index=[session.name for session in order], columns=columns)

    def show(self) -> None:
        """The picture and the table of the race, in this cell."""
        if Session.views is not None:
            Session.views.show_race(self)

    _ipython_display_ = show

    def figure(self) -> Any:
        """The losses of its runs over one another, with a mark for each edit, as a `plotly.graph_objects.Figure`."""
        return Session.views.race_figure(self) if Session.views is not None else None

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

    def clone(self, run: str, step: int | None = None, **changes: Any) -> Session:
        """One more run, like `run` with `changes`, from the beginning, or from the weights at its `step`; it joins.

        Raises as `finetune` does, or as `fork`. It is not stopped by the race's halving.
        """
        if step is not None:
            return self.fork(run, at=step, **changes)
        like = self._named(run)
        return self._join(again(like, self._free_name(), changes), like, changes)

    def fork(
        self,
        run: str,
        name: str | None = None,
        at: str | int = "live",
        *,
        fresh_optimizer: bool = False,
        **changes: Any,
    ) -> Session:
        """A new run from the weights of `run` at `at`, as `Session.fork`; it joins the race, the others go on."""
        parent = self._named(run)
        child = parent.fork(name or self._free_name(), at, fresh_optimizer=fresh_optimizer, **changes)
        return self._join(child, parent, changes)

    def _free_name(self) -> str:
        taken = {session.name for session in self}
        return next(name for n in itertools.count(len(self) + 1) if (name := f"{self.name}-{n}") not in taken)

    def _join(self, child: Session, like: Session, changes: dict[str, Any]) -> Session:
        own = self.settings[self._runs.index(like)]
        self._runs.append(child)
        self.settings.append(own | changes)
        return child

    def promote(self, run: str) -> Session:
        """Let `run` win: the others that are live are stopped, with a checkpoint; it goes on. Raises `AddressError`."""
        self.promoted = winner = self._named(run)
        if self._halver is not None:
            self._halver.end()
        for session in self.live:
            if session is not winner:
                session.stop()
        winner.log.append(Logged(level="info", text=f"promoted in the race {self.name}: the other runs are stopped"))
        return winner

    def _named(self, run: str) -> Session:
        for session in self:
            if session.name == run:
                return session
        raise AddressError(f"'{run}' is no run of {self.name}; those are: {', '.join(one.name for one in self)}")

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
    `finetune`, for all of them. `halve` in a grid (`{"every": 20, "keep": 0.5, "by": "eval_loss"}`; for a list:
    `{"runs": […], "halve": {…}}`) stops the worse half every so many steps. Raises as `finetune` does, before anything
    is started.
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
    race, halve = split_halving(race)
    wanted, settings = check_name(name), variants_of(race)
    plans = plans_of(model, data, recipe, settings, progress)
    if halve is not None and "eval_" in halve.by and any(one.recipe.held_out is None for one in plans):
        raise RecipeError(f"race.halve.by = {halve.by}: needs rows to evaluate on; add held_out: 10%")
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
    races[wanted] = Race(wanted, runs, settings, halve)
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
    steps: dict[str, str] = {}  # that the addresses of parents meant first: one that is live goes on
    for number, own in enumerate(settings, 1):
        plain = {ALIASES.get(key, key) for key in lift(own)}
        whole = {key: value for key, value in recipe.items() if ALIASES.get(key, key) not in plain} | dict(own)
        word = "from" if "from" in whole else "start_from"
        if (start := whole.get(word)) is not None:
            whole[word] = steps.get(str(start), start)
        same = bool(plans) and not ROWS & {key.partition(".")[0] for one in settings for key in one}
        try:
            plans.append(plan(model, data, whole, progress, examples=plans[0].examples if same else None))
        except RecipeError as error:
            raise RecipeError(f"race, run {number}: {error}") from None
        if (parent := plans[-1].parent) is not None and not str(start).endswith(START):
            steps.setdefault(str(start), f"{parent.name}@{parent.step}")
    return plans


def _free(wanted: str) -> str:
    """`wanted`, or `wanted.2`, … where the runs of an earlier race have the name."""
    root, name, number = runs_root(), wanted, 1
    while (root / f"{name}-1").exists():
        number += 1
        name = f"{wanted}.{number}"
    return name


def race_with(run: str) -> Race:
    """The open race in which `run` is; `AddressError` lists those that there are."""
    for race in races.values():
        if any(session.name == run for session in race):
            return race
    raise AddressError(f"'{run}' is in no open race; open ones: {', '.join(races) or 'none'}")
