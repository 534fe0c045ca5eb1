"""Runs beside one another, live or past: their curves, what differs in their recipes, their metrics, their probes.

Read from the run folders alone, whoever else writes to them; open sessions are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jupyter_ft.errors import FineTuneError, RecipeError, RunFolderError
from jupyter_ft.event_log import EventLog, Floats
from jupyter_ft.messages import OVER, Applied, EvalDone, StateChanged
from jupyter_ft.recipe import ALIASES, change, parse_recipe
from jupyter_ft.runs import RunFolder, runs_root
from jupyter_ft.session import Session, sessions
from jupyter_ft.session.race import Race, races
from jupyter_ft.ui.report import without_secrets
from jupyter_ft.ui.watched import Past, past_in

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Run = str | Path | Session
MOST_CURVES = 24  # more are a thicket; the table has them all
_NOT_ASKED = {"data"}  # of a recipe, told by the rows' fingerprint


@dataclass(frozen=True)
class Looked:
    """One run: its recipe by dotted names, its log, and (of a fork) the step at which it left its parent."""

    name: str
    folder: Path
    asked: Mapping[str, Any]
    about: Mapping[str, Any]
    log: EventLog
    past: Past
    state: str

    @property
    def fork(self) -> int:
        """The step from which its curve is its own."""
        found = self.about.get("fork")
        return int(found["step"]) if isinstance(found, dict) else 0

    @property
    def parent(self) -> str:
        """`RUN@STEP` of the run that it was forked or started from; empty where there is none."""
        found = self.about.get("fork") or self.about.get("parent")
        return f"{found['run']}@{found['step']}" if isinstance(found, dict) else ""

    @property
    def curve(self) -> tuple[Floats, Floats]:
        """Its own steps and their losses; of a fork from the parent's point on."""
        steps, losses = self.past.steps.get("step", np.empty(0)), self.past.steps.get("loss", np.empty(0))
        own = steps >= self.fork
        return steps[own], losses[own]

    @property
    def edits(self) -> list[Applied]:
        """The changes along its own part, in order."""
        return [one for one in self.past.changes if one.step > self.fork]

    @property
    def edited(self) -> int:
        """How many there are beside those that it was forked with."""
        return sum(one.command != (self.about.get("fork") or {}).get("command") for one in self.edits)

    @property
    def scored(self) -> list[EvalDone]:
        """The evaluations along its own part."""
        return [event for event in self.past.evals if event.step >= self.fork]

    @property
    def left(self) -> list[tuple[Floats, Floats]]:
        """What was taken back along its own part."""
        return [piece for piece in self.past.abandoned if piece[0][-1] > self.fork]


class RunComparison:
    """What `compare` gives: `.figure` (plotly), `.table` (pandas, a row a run) and `.probes` (a row a prompt).

    It shows itself in a notebook; without one, or where scripts are not run, as plain HTML or text.
    """

    def __init__(self, runs: Sequence[Looked], notes: Sequence[str] = ()) -> None:
        self.runs = list(runs)
        self.notes = list(notes)
        if len(self.runs) > MOST_CURVES:
            self.notes.append(f"the first {MOST_CURVES} of {len(self.runs)} runs are drawn; the table has all of them")

    @property
    def table(self) -> pd.DataFrame:
        """By the name of the run what `rows` says of it; empty cells are NaN."""
        import pandas as pd

        return pd.DataFrame(self.rows, dtype=object).set_index("run")

    @property
    def probes(self) -> pd.DataFrame:
        """By the prompt what `answers` says of it; empty where none was asked of any."""
        import pandas as pd

        answers = self.answers
        return pd.DataFrame(answers, columns=None if answers else ["prompt"]).set_index("prompt")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of each run its name, state and step, the settings in which the runs differ, and its metrics."""
        differing = differences([run.asked for run in self.runs])
        return [_row(run, differing) for run in self.runs]

    @property
    def answers(self) -> list[dict[str, str]]:
        """Of each prompt that was asked along the runs what the base said, and each run when it was asked last."""
        found: dict[str, dict[str, str]] = {}
        for run in self.runs if len(self.runs) <= MOST_CURVES else self.runs[:MOST_CURVES]:
            for one in run.past.probes if run.asked.get("record_chats", True) else ():
                said = found.setdefault(one.prompt, {"prompt": one.prompt})
                said.setdefault("base", one.text) if one.at == "base" else said.update({run.name: one.text})
        return list(found.values())

    @property
    def figure(self) -> go.Figure:
        """The losses over one another, the edits marked, what was taken back dimmed."""
        from jupyter_ft.ui.compared_view import comparison_figure

        return comparison_figure(self.runs[:MOST_CURVES])

    def __repr__(self) -> str:
        from jupyter_ft.ui.compared_view import comparison_text

        return comparison_text(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from jupyter_ft.ui.compared_view import comparison_html

        return {"text/html": comparison_html(self), "text/plain": repr(self)}

    def _ipython_display_(self) -> None:
        from jupyter_ft.ui.compared_view import show_comparison

        show_comparison(self)


def compare(runs: Run | Race | Iterable[Run | Race] | None = None) -> RunComparison:
    """Runs beside one another: by name, as sessions, as races, as run folders; live, past, failed, forked.

    Without any, all in the runs folder that learn as the newest one does (`method`). Loads no model, and opens nothing.
    Raises `RunFolderError` for a name or folder that is no run, with the nearest name, and where there is none at all.
    """
    if runs is None:
        return RunComparison(*_all_of_a_kind())
    given = [runs] if isinstance(runs, str | Path | Session | Race) else runs
    if not isinstance(given, Iterable):
        raise RecipeError(f"compare: {given!r:.60} is no run; give names, sessions, a race or run folders")
    found = {run.folder: run for one in given for run in _looked(one)}
    if not found:
        raise RunFolderError("compare: no run is given; name some, or none at all for those in the runs folder")
    return RunComparison(_told_apart(list(found.values())))


def _looked(one: object) -> Iterator[Looked]:
    if isinstance(one, str) and one in races and one not in sessions:
        one = races[one]
    if isinstance(one, Race):
        yield from (look(session) for session in one)
    elif isinstance(one, Session):
        yield look(one)
    elif isinstance(one, str | Path):
        yield look(sessions[one] if isinstance(one, str) and one in sessions else RunFolder.find(one))
    else:
        raise RecipeError(f"compare: {one!r:.60} is no run; give names, sessions, a race or run folders")


def look(run: Session | RunFolder) -> Looked:
    """One run as it is now. Raises `RunFolderError` where its folder cannot be read."""
    folder = run.run_folder if isinstance(run, Session) else run
    asked, about = folder.read_recipe()
    try:
        log = run.log if isinstance(run, Session) else EventLog.read_only(folder.events)
    except OSError as error:
        raise RunFolderError(f"{folder.events} cannot be read: {error.strerror or error}") from None
    told = log.newest(StateChanged)
    state = told.state if told is not None else "queued"
    if state not in OVER and not isinstance(run, Session) and folder.holder() is None:
        state = "stopped"  # its kernel ended while it was live
    began = _flat(without_secrets(asked)) | _changed_at_fork(asked, about)
    return Looked(folder.name, folder.path, began, about, log, past_in(log), state)


def _changed_at_fork(asked: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The live settings that a fork changed with its first step: its recipe has those that it found."""
    changes = (about.get("fork") or {}).get("changes")
    if not changes:
        return {}
    try:
        new = change(parse_recipe(asked).hyperparameters, changes)
    except RecipeError:  # written by another version
        return {}
    return {name: getattr(new, name) for name in (ALIASES.get(key, key) for key in changes)}


def _all_of_a_kind() -> tuple[list[Looked], list[str]]:
    found, notes = [], []
    for path in sorted(runs_root().glob("*/recipe.yaml")):
        try:
            folder = RunFolder(path.parent)
            asked, about = folder.read_recipe()
            found.append((str(about.get("started", "")), str(asked.get("method", "sft")), folder))
        except FineTuneError as error:
            notes.append(f"left out: {error}")
    if not found:
        raise RunFolderError(f"there is no run in {runs_root()} to compare; start one with %%finetune NAME")
    found.sort(key=lambda one: one[0])
    kind = found[-1][1]
    alike = [folder for _, method, folder in found if method == kind]
    if len(alike) < len(found):
        others = len(found) - len(alike)
        notes.append(f"runs of method {kind}, as the newest; {others} of other methods are left out: name them")
    return [look(sessions.get(folder.name) or folder) for folder in alike], notes


def _told_apart(runs: list[Looked]) -> list[Looked]:
    """With the folder in the names of runs that are called the same."""
    names = [run.name for run in runs]
    return [
        Looked(**{**vars(run), "name": f"{run.name} ({run.folder.parent})"}) if names.count(run.name) > 1 else run
        for run in runs
    ]


# --- the table --------------------------------------------------------------------------------------------------------


def _flat(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe by dotted names: `adapter.r`, `trainer.optim`."""
    flat: dict[str, Any] = {}
    for key, value in asked.items():
        if isinstance(value, dict) and key in ("adapter", "trainer"):
            flat |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            flat[key] = value
    return flat


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which these recipes differ, in their order."""
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    return [name for name in names if len({repr(recipe.get(name)) for recipe in recipes}) > 1]


def _row(run: Looked, differing: Sequence[str]) -> dict[str, Any]:
    _, losses = run.curve
    row: dict[str, Any] = {"run": run.name, "state": run.state, "step": run.log.last_step}
    row |= {name: run.asked.get(name) for name in differing}
    if run.parent:
        row["from"] = run.parent
    row |= {"edits": run.edited, "loss": float(losses[-1]) if len(losses) else math.nan}
    rewards = run.past.steps.get("reward", np.empty(0))
    if len(rewards):
        row["reward"] = float(rewards[-1])
    scored = run.past.evals
    if scored:
        metric, best = scored[-1].best_metric, scored[-1].best_step
        row["eval_loss"] = scored[-1].metrics.get("eval_loss", math.nan)
        worth = next((event.metrics.get(metric, math.nan) for event in scored if event.step == best), math.nan)
        row |= {f"best {metric}": worth, "best step": best}
    return row
