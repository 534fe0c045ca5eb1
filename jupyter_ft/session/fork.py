"""Forks: a new run that goes on from a step of another, as if it had been that run, with other settings.

With changes of live settings alone the fork goes on from the whole checkpoint: weights, optimizer, schedule, rows and
random streams, so that its first step starts from exactly what the parent had; from a snapshot, and where that is asked
for, with a fresh optimizer that warms up, and with random streams that begin at the seed. Where a fixed setting is
another, it is a new run that starts from the weights, as a stage does.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..control.schedule import WARMUP
from ..data import Examples
from ..errors import CheckpointError, RecipeError
from ..event_log import EventLog
from ..hyperparameters import Hyperparameters
from ..launch.meanwhile import JOINED
from ..launch.same_base import FILE, check_on_disk
from ..messages import Applied, EvalDone, Logged, Resume, Resumed, Set, StepDone
from ..recipe import ALIASES, FIXED_NAMES, SHAPE, Recipe, as_plain, change, lift
from ..runs import OPTIMIZER, STATE, RunFolder, check_name, copy_weights
from ..steps import BASE_COLUMNS
from .ahead import Ahead, ordered_ahead
from .functions import named_functions
from .handle import Session
from .model import check_model
from .registry import sessions
from .rewards import missing, split
from .stages import SHAPED, START, Parent, find_parent, look_at
from .start import about_run, begin, free_name, plan, rows_of
from .travel import unmade

OF_A_METHOD = frozenset({"method", "rewards", "metrics", "best_metric", "packing"})
"""Fixed settings that another method may not take."""
_OF_THE_OPTIMIZER = ("optimizer", "scaler", "python", "own")
"""What a checkpoint tells and a snapshot does not: the optimizer's, and where the random streams are."""


class Branch(NamedTuple):
    """Where a fork leaves its parent: the weights, the live settings of that moment, and how far the run was to go."""

    parent: Parent
    folder: RunFolder
    state: dict[str, Any]

    @property
    def now(self) -> Hyperparameters:
        """The live settings of that moment."""
        live = type(self.parent.recipe.hyperparameters)
        return live.model_validate(self.state["edits"]["hyperparameters"])

    @property
    def session(self) -> Session | None:
        """The parent, where it is open."""
        found: Session | None = sessions.get(self.parent.name)
        return found

    @property
    def whole(self) -> bool:
        """Whether the optimizer and the random streams come along."""
        return "optimizer" in self.state

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.parent.step

    def without_optimizer(self) -> Branch:
        """The same, with what a snapshot of that step tells."""
        told = {key: value for key, value in self.state.items() if key not in _OF_THE_OPTIMIZER}
        return self._replace(state=told | {"cursor": told["cursor"] | {"order": None}})


def fork(
    address: str,
    name: str,
    changes: Mapping[str, Any],
    *,
    fresh_optimizer: bool = False,
    edits: Sequence[Mapping[str, Any]] = (),
    until: int | None = None,
) -> Session:
    """A new run `name` that goes on from the weights at `address` (`RUN`, `RUN@best`, `RUN@STEP`) with `changes`.

    `fresh_optimizer` leaves the optimizer behind where it is kept; `edits` and `until` as in `finetune`. Raises
    `AddressError` or `CheckpointError`, with what there is, where it cannot be started from; `RecipeError` for a change
    that cannot be made; `RunFolderError` where the name is taken.
    """
    wanted = free_name(check_name(name))
    changes = {ALIASES.get(key, key): as_plain(value) for key, value in lift(changes).items()}
    _check_ahead(look_at(address), changes)
    branch = _branch(find_parent(address))
    if fresh_optimizer and branch.step:
        branch = branch.without_optimizer()
    now = branch.now
    if any(_is_fixed(key, value, now) for key, value in changes.items()):
        return _with_other_recipe(wanted, branch, changes, edits, until)
    new = change(now, changes)
    ahead = ordered_ahead(edits, until, new, branch.step)
    check_model(branch.parent.recipe.model)
    check_on_disk(branch.folder.path, branch.parent.recipe)
    _check_goes_on(branch, changes, new.max_steps, ahead)
    recipe = branch.parent.recipe.model_copy(update={"hyperparameters": now})
    session = _create(wanted, branch, recipe, changes, ahead)
    session.launch(Resume().id, first=unmade(session))
    return session


def _check_ahead(parent: Parent, changes: Mapping[str, Any]) -> None:
    """Raises as `fork` for what cannot be, before a live parent writes a checkpoint for it."""
    for key in changes:
        if key.partition(".")[0] in SHAPE - {"adapter"}:
            raise RecipeError(f"{key}: the weights of '{parent.name}' fit its own alone; start a new run from the base")
    if parent.recipe.method == "attached" and "method" not in changes:
        raise RecipeError(f"'{parent.name}' was attached: build the trainer again and attach it under another name")
    parent.beneath({key: value for key, value in changes.items() if key in SHAPED})
    live = parent.recipe.hyperparameters
    check_model(parent.recipe.model)
    check_on_disk(_folder_of(parent).path, parent.recipe)
    free = {key: value for key, value in changes.items() if not _is_fixed(key, value, live)}
    new = live if {"method", "data"} & changes.keys() else change(live, free)
    if free == changes and "max_steps" in changes and (new.max_steps or parent.step + 1) <= parent.step:
        raise RecipeError(f"max_steps = {new.max_steps}: {parent.step} steps are done at the fork; give more")
    if free != changes:
        named, _ = split(named_functions(changes)[0])
        parent.beneath(_asked(parent.recipe, live, named))


def _is_fixed(key: str, value: Any, now: Hyperparameters) -> bool:
    fixed = key.partition(".")[0] in FIXED_NAMES
    return fixed or (key in type(now).model_fields and bool(now.forbids(key, value)))


def _branch(parent: Parent) -> Branch:
    try:
        state = json.loads((parent.folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{parent.folder / STATE} cannot be read") from None
    return Branch(parent, _folder_of(parent), state)


def _folder_of(parent: Parent) -> RunFolder:
    return sessions[parent.name].run_folder if parent.name in sessions else RunFolder.find(parent.name)


def _check_goes_on(branch: Branch, changes: Mapping[str, Any], max_steps: int | None, ahead: Ahead) -> None:
    name, step, total = branch.parent.name, branch.step, int(branch.state["max_steps"])
    if branch.parent.recipe.method == "attached":
        raise RecipeError(f"'{name}' was attached: build the trainer again and attach it under another name")
    if max_steps is not None and max_steps <= step:
        raise RecipeError(f"max_steps = {max_steps}: {step} steps are done at the fork; give more")
    at_once = changes.keys() | {
        ALIASES.get(k, k) for edit in ahead.edits if edit.step == step + 1 for k in edit.changes
    }
    if step >= total and not {"max_steps", "epochs"} & at_once:
        raise RecipeError(f"'{name}' ended at step {total}: say how far the fork goes, like epochs=2 or max_steps=…")


def _create(wanted: str, branch: Branch, recipe: Recipe, changes: Mapping[str, Any], ahead: Ahead) -> Session:
    parent, source = branch.parent, branch.folder
    examples = _rows(branch)
    _, theirs = source.read_recipe()
    functions = dict(branch.session.rewards) if branch.session is not None else {}
    if lacking := missing(source, recipe, functions):
        raise RecipeError(lacking)
    if branch.session is not None:
        recipe = recipe.with_functions(branch.session.recipe.functions)
    folder = RunFolder.create(wanted)
    try:
        folder.lock()
        about = about_run(theirs["data"]) | {
            key: theirs[key] for key in ("parent", "rewards", "metrics") if key in theirs
        }
        folder.write_recipe(recipe, about | {"fork": _said_of(branch, theirs, changes)} | ahead.about())
        _take_along(branch, folder)
        log = EventLog(folder.events)
        _retell(branch, log)
        session = Session(recipe, folder, log, examples)
        session.rewards.update(functions)
        sessions.add(session)
    except BaseException:
        folder.unlock()
        shutil.rmtree(folder.path, ignore_errors=True)  # made above, and nothing but ours in it
        raise
    said = ", ".join(f"{key} = {value}" for key, value in changes.items())
    alone = "the weights alone" if _has_optimizer(branch) else "a snapshot"
    fresh = "" if branch.whole else f"; {alone}: with a fresh optimizer, that warms up over {WARMUP} steps"
    text = f"forked from {parent.name} at step {parent.step}{said and f' with {said}'}{fresh}"
    log.append(Logged(level="info", text=text))
    return session


def _said_of(branch: Branch, theirs: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fork in the record; `began` are the live settings of the first step, which are the first parent's."""
    parent, before = branch.parent, theirs.get("fork") or {}
    began = before.get("began") or parent.recipe.hyperparameters.model_dump(mode="json")
    log = branch.session.log if branch.session is not None else EventLog.read_only(branch.folder.events)
    fresh = fresh_after(before, log)
    if fresh is not None and not branch.whole:
        fresh = [*(step for step in fresh if step < branch.step), branch.step]
    told = {"run": parent.name, "step": parent.step, "changes": dict(changes), "fresh": fresh, "began": began}
    return told | ({"command": Set(changes=changes, step=None).id} if changes else {})


def fresh_after(fork: Mapping[str, Any], log: EventLog) -> list[int] | None:
    """The steps after which a run went on with a fresh optimizer, by its record of a `fork` (empty: it is none).

    None where an earlier version wrote that it did, and not where.
    """
    fresh: list[int] | None = fork.get("fresh", [] if not fork or fork.get("whole") else None)
    back = min((event.step for event in log.history() if isinstance(event, Resumed)), default=None)
    if fresh is None or back is None:
        return fresh
    return [step for step in fresh if step <= back]  # taken back to before, it had the optimizer of then


def _take_along(branch: Branch, folder: RunFolder) -> None:
    """The checkpoint, the best one where it is kept, what the parent began with, and its rows."""
    best = (branch.state.get("evaluation") or {}).get("best_step")
    kept = [step for step in branch.folder.checkpoints() if step == best != branch.step]
    places = [(branch.folder.checkpoint(step), folder.checkpoint(step)) for step in kept]
    if branch.whole or not _has_optimizer(branch):
        places.append((branch.parent.folder, folder.checkpoint(branch.step)))
    else:
        _leave_optimizer(branch, folder)
    for name in ("rewards", f"data/{JOINED}", FILE):
        places.append((branch.folder.path / name, folder.path / name))
    for there, here in [*places, (branch.folder.start, folder.start), (branch.folder.rows, folder.rows)]:
        if there.is_dir():
            here.parent.mkdir(exist_ok=True)
            shutil.copytree(there, here, copy_function=_link)
        elif there.is_file():
            here.parent.mkdir(exist_ok=True)
            _link(there, here)
    if not folder.checkpoint(branch.step).is_dir():  # a live parent has let go of it meanwhile
        raise CheckpointError(f"'{branch.parent.name}' no longer keeps step {branch.step}; fork again")


def _has_optimizer(branch: Branch) -> bool:
    return (branch.parent.folder / OPTIMIZER).is_file()


def _leave_optimizer(branch: Branch, folder: RunFolder) -> None:
    """Of the checkpoint what a snapshot of its step would be."""

    def write(there: Path) -> None:
        copy_weights(branch.parent.folder, there)
        (there / STATE).write_text(json.dumps(branch.state), encoding="utf-8")

    with suppress(FileNotFoundError):  # let go of meanwhile, which is said below
        folder.publish(branch.step, write)


def _link(there: str | Path, here: str | Path) -> None:
    """The same file under two names, where the disk has that: what is published is never written to again."""
    try:
        os.link(there, here)
    except OSError:
        shutil.copy2(there, here)


def _retell(branch: Branch, log: EventLog) -> None:
    """What happened up to the fork, so that its curves begin where the parent's do."""
    step, ahead = branch.step, set(branch.state["ahead"])
    known = branch.session
    theirs = known.log if known is not None else EventLog(branch.folder.events)
    news, _ = theirs.read()
    columns = news.steps
    own = [name for name in columns if name not in BASE_COLUMNS]
    for row in range(int(np.searchsorted(columns["step"], step, side="right"))) if columns else ():
        told = {name: float(columns[name][row]) for name in BASE_COLUMNS if name != "tokens_per_second"}
        metrics = {name: float(columns[name][row]) for name in own if not np.isnan(columns[name][row])}
        log.append(StepDone(**told | {"step": int(told["step"]), "tokens": int(told["tokens"])}, metrics=metrics))
    marks: list[Applied | EvalDone] = []
    for event in theirs.history():
        if isinstance(event, Resumed):
            marks = [mark for mark in marks if mark.step <= event.step or getattr(mark, "command", "") in event.ahead]
        edit = isinstance(event, Applied) and event.changes and (event.step <= step or event.command in ahead)
        if isinstance(event, Applied | EvalDone) and (edit or (isinstance(event, EvalDone) and event.step <= step)):
            marks.append(event)
    for mark in marks:
        log.append(mark)
    if known is None:
        theirs.close()


def _with_other_recipe(
    wanted: str,
    branch: Branch,
    changes: Mapping[str, Any],
    edits: Sequence[Mapping[str, Any]],
    until: int | None,
) -> Session:
    """A run from the weights alone, on the parent's rows or other ones, since something fixed is another."""
    parent, mine = branch.parent, branch.parent.recipe
    asked = _asked(mine, branch.now, changes) | {"start_from": f"{parent.name}@{branch.step}"}
    if "method" not in changes:
        asked |= {key: value for key, value in _functions_of(branch).items() if key not in changes}
    if not {"data", "columns", "method"} & changes.keys():
        planned = plan(None, None, asked, examples=_rows(branch))
        planned = planned._replace(recipe=planned.recipe.model_copy(update={"data": mine.data}))
    else:
        data = changes.get("data", branch.folder.read_recipe()[1]["data"]["path"])
        if data is None:
            raise RecipeError(f"the rows of '{parent.name}' came from the notebook: say which the fork takes: data=…")
        planned = plan(None, data, asked)
    ahead = ordered_ahead(edits, until, planned.recipe.hyperparameters)
    return _said(begin(wanted, planned, replace=False, resume=False, ahead=ahead), branch)


def _asked(mine: Recipe, now: Hyperparameters, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of a fork of a run of the recipe `mine`: its own less what another method or other data lack."""
    asked = {
        name: getattr(mine, name) for name in FIXED_NAMES - SHAPE - {"start_from", "data"} if _is_given(mine, name)
    }
    if "method" in changes:
        asked = {key: value for key, value in asked.items() if key not in OF_A_METHOD}
    else:
        asked |= now.model_dump(exclude_defaults=True)
    if "data" in changes:
        asked = {k: v for k, v in asked.items() if k != "columns" and not (k == "held_out" and isinstance(v, str))}
    return asked | {key: value for key, value in changes.items() if key != "data"}


def again(session: Session, name: str, changes: Mapping[str, Any]) -> Session:
    """A new run `name` with the recipe of `session` as it began, on its rows, and `changes`. Raises as `finetune`."""
    mine = session.recipe
    changes = {ALIASES.get(key, key): as_plain(value) for key, value in lift(changes).items()}
    asked = mine.model_dump(exclude={"hyperparameters", "data", "rewards", "metrics"}, exclude_defaults=True)
    asked |= mine.hyperparameters.model_dump(exclude_defaults=True) | _named_again(session)
    if mine.start_from is not None:  # its parent may have gone on since; what is left out would be the parent's
        asked["start_from"] = f"{session.name}{START}"
        asked |= {"alpha": mine.hyperparameters.alpha} if mine.adapter.kind != "full" else {}
    asked = {key: value for key, value in lift(asked).items() if key not in changes} | dict(changes)
    same_rows = not {"data", "columns", "method"} & changes.keys()
    data = asked.pop("data", None if same_rows else session.run_folder.read_recipe()[1]["data"]["path"])
    planned = plan(None, data, asked, examples=session.examples if same_rows else None)
    if same_rows:
        planned = planned._replace(recipe=planned.recipe.model_copy(update={"data": mine.data}))
    said = ", ".join(f"{key} = {value}" for key, value in changes.items())
    made = begin(free_name(check_name(name)), planned, replace=False, resume=False)
    made.log.append(Logged(level="info", text=f"as {session.name} began{said and f', with {said}'}"))
    return made


def _functions_of(branch: Branch) -> dict[str, Any]:
    """The rewards and metrics of an open parent with the notebook's functions in the place of their names."""
    return _named_again(branch.session) if branch.session is not None else {}


def _named_again(session: Session) -> dict[str, Any]:
    mine = session.recipe
    rewards = {"rewards": [session.rewards.get(name, name) for name in mine.rewards]} if mine.rewards else {}
    functions = session.recipe.functions
    return rewards | ({"metrics": [functions.get(name, name) for name in mine.metrics]} if mine.metrics else {})


def _said(session: Session, branch: Branch) -> Session:
    text = f"forked from {branch.parent.name} at step {branch.step}: from the weights, with a fresh optimizer"
    was, now = branch.parent.recipe.adapter, session.recipe.adapter
    if (was.r, was.targets) != (now.r, now.targets):
        kept = "the same product" if now.r >= was.r else "the nearest product that these ranks hold"
        text += f"; adapter.r {was.r} → {now.r}: {kept}; a layer that had no adapter has a fresh one"
    session.log.append(Logged(level="info", text=text))
    return session


def _is_given(recipe: Recipe, name: str) -> bool:
    return bool(getattr(recipe, name) != type(recipe).model_fields[name].get_default(call_default_factory=True))


def _rows(branch: Branch) -> Examples:
    known = branch.session
    if known is not None and known.examples is not None:
        return known.examples
    return rows_of(branch.folder, branch.parent.recipe)
