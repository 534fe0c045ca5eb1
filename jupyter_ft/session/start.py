"""Starting a run and opening a past one. Everything that can be wrong is found here, before a model is loaded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .. import data as data_package
from .._version import __version__
from ..data import Examples, Report
from ..errors import CheckpointError, DataError, RecipeError, RunFolderError
from ..event_log import EventLog
from ..hyperparameters import METHOD_WORDS, PolicyHyperparameters
from ..launch.meanwhile import JOINED
from ..launch.same_base import check_on_disk, run_of, take_along
from ..memory.waiting import queue
from ..messages import OVER, Logged, StateChanged
from ..recipe import ALIASES, MOST_PROBES, Recipe, parse_recipe
from ..runs import RunFolder, check_name, copy_weights, runs_root
from ..sampling.metrics import check_answered
from ..trainer_fields import check_trainer_fields
from .ahead import NOTHING_AHEAD, Ahead, check_fingerprints, ordered_ahead
from .encoders import check_probes, check_speaks
from .functions import named_functions
from .handle import Session
from .model import check_bitsandbytes, check_model
from .registry import sessions
from .rewards import Functions, check_columns, find_judges, keep, split, written
from .stages import Parent, find_parent, known_parent, look_at


class Plan(NamedTuple):
    """A run that is not started: what it is asked to be, its rows, and the run whose weights it starts from.

    `functions` are its reward functions by name, `judges` the reward runs among its rewards.
    """

    recipe: Recipe
    examples: Examples
    parent: Parent | None
    functions: Functions
    judges: Mapping[str, Parent]


def plan(
    model: str | None,
    data: object,
    recipe: Mapping[str, Any],
    progress: Report | None = None,
    *,
    to_start: bool = True,
    resume: str | None = None,
    examples: Examples | None = None,
) -> Plan:
    """What `finetune` would start, or (not `to_start`) what there is to look at.

    `progress` is told how far the rows are. `examples` are the rows where they are read already; `resume` is the name
    of a run to go on with, which has its parent's weights. Raises as `finetune` does. Loads nothing, and leaves nothing
    behind where it is interrupted, but a checkpoint of a live parent.
    """
    recipe, metrics = named_functions(recipe)
    recipe, functions = split(recipe)
    recipe = _with_judged_apart(data, recipe) if resume is None else _as_it_was_apart(data, recipe, resume)
    parent, recipe = _beneath(model, recipe, to_start, resume)
    paths = data if isinstance(data, list | tuple) else [data]
    in_files = bool(paths) and all(isinstance(item, str | Path) for item in paths)
    named = ", ".join(map(str, paths)) if in_files else f"{type(data).__name__} in the notebook"
    checked = parse_recipe({**recipe, "data": named if data is not None else ""}).with_functions(metrics)
    if checked.method == "attached":
        raise RecipeError("method: attached is for jupyter_ft.attach(trainer, name=…)")
    if data is None and examples is None:
        raise RecipeError("no data: give --data FILE, a variable, or demo:support")
    if isinstance(checked.probes, str):
        prompts = data_package.prompts_in(checked.probes, MOST_PROBES)
        checked = checked.model_copy(update={"probes": prompts})  # the file may change: the run keeps what it asked
    check_trainer_fields(checked.method, checked.trainer)
    check_bitsandbytes(checked)
    check_model(checked.model)
    check_speaks(checked)
    check_probes(checked)
    judges = {} if resume else find_judges(checked, functions, save=to_start)
    if examples is None:
        examples = data_package.load(data, checked.columns, checked.held_out, progress, checked.method)
    train, apart = data_package.hold_out(examples, checked.held_out, checked.columns, checked.seed, checked.method)
    if isinstance(live := checked.hyperparameters, PolicyHyperparameters) and (
        wrong := live.geometry.too_few(len(train.rows))
    ):
        raise RecipeError(wrong)
    if checked.rewards and functions:
        check_columns(functions, train.rows[0].get("columns", ()))
    if examples.format == "labelled":
        data_package.labels_of(train, apart)  # errors, now
    if checked.metrics and apart is not None:
        check_answered(apart)
    return Plan(checked, examples, parent, functions, judges)


def _with_judged_apart(data: object, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, evaluating on the judgements that are held out where it does not say otherwise."""
    method = str(recipe.get("method", "sft"))
    apart = data_package.held_out_of(data, METHOD_WORDS.get(method, method), recipe)
    return recipe if apart is None else {**recipe, "held_out": apart}


def _as_it_was_apart(data: object, recipe: dict[str, Any], resume: str) -> dict[str, Any]:
    """The recipe of a run on judgements that goes on, with what it held out: there may be more judgements now."""
    if not data_package.is_feedback(data) or "held_out" in recipe:
        return recipe
    for name in _runs_of(resume):
        return {**recipe, "held_out": RunFolder.find(name).read_recipe()[0].get("held_out")}
    return recipe


def _beneath(
    model: str | None, recipe: Mapping[str, Any], to_start: bool, resume: str | None
) -> tuple[Parent | None, dict[str, Any]]:
    """The run to start from, where one is named, and the whole recipe, with what it has of that."""
    asked = {ALIASES.get(key, key) if key in ("from", "model_name_or_path") else key: v for key, v in recipe.items()}
    asked = asked if model is None else {"model": model, **asked}
    address = asked.get("start_from")
    if address is None:
        return None, {"model": "demo", **asked}
    known = next((known_parent(name, str(address)) for name in _runs_of(resume)), None) if resume else None
    if known is None and to_start:  # what is wrong is said before the parent writes a checkpoint for it
        look_at(str(address)).beneath(asked)
    parent = known or find_parent(str(address), save=to_start)
    if to_start:
        check_on_disk(run_of(parent.folder), parent.recipe)
    return parent, parent.beneath(asked)


def finetune(
    model: str | None = None,
    data: object = None,
    name: str | None = None,
    *,
    replace: bool = False,
    resume: bool = False,
    edits: Sequence[Mapping[str, Any]] = (),
    until: int | None = None,
    fingerprints: Mapping[str, str] = MappingProxyType({}),
    **recipe: Any,
) -> Session:
    """Start a run in the background and return its `Session` as soon as the rows are read.

    `model`: `demo` (what it is where nothing is given), a folder or a hub id. `start_from`: weights of another run to
    begin with (`support`, `support@best`, `support@40`); what is not given is then as it was there.

    `data`: a path (CSV, JSON Lines, Parquet, text) or several, a folder of text, a hub id, a `datasets.Dataset` or
    `DatasetDict`, a list of dicts, a DataFrame, or `demo:support`. `recipe`: the fields of `Recipe` and the live
    `Hyperparameters`, aliases included; `rewards` takes functions and reward runs, or a mapping of these to weights.
    `resume` goes on with the newest unfinished run of that name, which knows the rest where none of it is given;
    `replace` stops a live one first. `edits` are known before the first step, as
    `[{"step": 20, "learning_rate": 1e-4}]`; `until` stops the run after so many steps, with the schedule of the whole;
    `fingerprints` are the SHA-256 of the rows that `data` and another `held_out` should hold, by these words. Raises
    `RecipeError`, `DataError`, `ModelError` or `RunFolderError`, before anything is loaded.
    """
    if replace and resume:
        raise RecipeError("resume goes on with a run and replace starts anew; give one of them")
    if resume and (edits or until is not None):
        raise RecipeError("edits and until are for a new run, and resume goes on with one; use session.set(step=…)")
    wanted = check_name("run" if name is None else name)
    if resume and model is None and data is None and not recipe and not fingerprints:
        return go_on(wanted)
    planned = plan(model, data, recipe, resume=wanted if resume else None)
    check_fingerprints(planned.examples, fingerprints)
    ahead = ordered_ahead(edits, until, planned.recipe.hyperparameters)
    return begin(wanted, planned, replace=replace, resume=resume, ahead=ahead)


def begin(wanted: str, planned: Plan, *, replace: bool, resume: bool, ahead: Ahead = NOTHING_AHEAD) -> Session:
    """Start what was planned, under the name `wanted`, or go on with it. Raises `RecipeError` or `RunFolderError`."""
    queue.limit  # noqa: B018 - raises for one that is no size
    for session in refuse_live(wanted, replace=replace):
        session.stop()
        session.wait_until_over()
    if resume:
        return _continue(wanted, planned.recipe, planned.functions)
    session = _create(wanted, planned, ahead)
    session.launch()
    return session


def refuse_live(wanted: str, *, replace: bool) -> list[Session]:
    """The live runs of that name, to be stopped; `RunFolderError` where there are any and they are not to be."""
    live = [s for s in sessions.live if _is_of(s.name, wanted)]
    if live and not replace:
        raise RunFolderError(
            f"'{live[0].name}' is still {live[0].state} (step {live[0].step}): --replace (in Python: replace=True) "
            f"stops it and starts anew; %ft stop {live[0].name} ends it"
        )
    return live


def _create(wanted: str, planned: Plan, ahead: Ahead) -> Session:
    recipe, examples, parent, functions, judges = planned
    folder = RunFolder.create(free_name(wanted))
    try:
        folder.lock()
        held_out = {name: beside.fingerprint for name, beside in examples.beside.items()}
        about = about_run({k: getattr(examples, k) for k in _OF_DATA} | {"held_out": held_out})
        if parent is not None:
            about["parent"] = parent.about()
            _copy_start(parent, folder)
        if recipe.rewards:
            about["rewards"] = keep(folder, recipe, functions, judges)
        if recipe.functions:
            about["metrics"] = {name: written(one) for name, one in recipe.functions.items()}
        folder.write_recipe(recipe, about | ahead.about())
        if examples.path is None:
            folder.rows.parent.mkdir(exist_ok=True)
            data_package.save_rows(examples, folder.rows)
            if data_package.is_saved(recipe.data) and (joined := Path(recipe.data).with_name(JOINED)).is_file():
                shutil.copy(joined, folder.rows.with_name(JOINED))  # what joined them along the way
        session = Session(recipe, folder, EventLog(folder.events), examples)
        session.rewards.update(functions)
        sessions.add(session)
    except BaseException as error:
        folder.unlock()
        shutil.rmtree(folder.path, ignore_errors=True)  # made above, and nothing but ours in it
        if isinstance(error, OSError) and not isinstance(error, RunFolderError):
            raise RunFolderError(f"{folder.path} cannot be written: {error.strerror or error}") from None
        raise
    began = [f"starts from {parent.name} at step {parent.step} ({parent.recipe.method})"] if parent else []
    for note in (*began, examples.said, *examples.notes):
        session.log.append(Logged(level="info", text=note))
    if few := data_package.few_said(recipe.data, len(examples.rows)):
        session.log.append(Logged(level="warning", text=few, heed=True))
    return session


def _copy_start(parent: Parent, folder: RunFolder) -> None:
    """Keep the weights to start from: the parent may go, or go on (and have let go of them while rows were read)."""
    try:
        copy_weights(parent.folder, folder.start)
        take_along(parent.folder, folder.path)
    except FileNotFoundError:
        raise CheckpointError(f"'{parent.name}' no longer keeps step {parent.step}; run the cell again") from None


_OF_DATA = ("format", "said", "fingerprint", "path")


def about_run(data: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of a run beside its recipe."""
    return {
        "jupyter_ft": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data": data,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets")}


def changed_versions(folder: RunFolder) -> list[str]:
    """What the run began with and this kernel has in another version, as `NAME OLD → NEW`."""
    before = folder.read_recipe()[1].get("versions", {})
    return [f"{name} {before[name]} → {now}" for name, now in _versions().items() if before.get(name, now) != now]


def _is_of(name: str, wanted: str) -> bool:
    return name == wanted or (name.startswith(f"{wanted}-") and name.removeprefix(f"{wanted}-").isdigit())


def free_name(wanted: str) -> str:
    """`wanted`, or `wanted-2`, `wanted-3`, … where the folders before are taken by runs."""
    root, name, number = runs_root(), wanted, 1
    while (root / name).exists():
        if not (root / name / "recipe.yaml").is_file():
            raise RunFolderError(f"{root / name} holds something that is no run; move it away or choose another name")
        number += 1
        name = f"{wanted}-{number}"
    return name


def _runs_of(wanted: str) -> list[str]:
    """The runs of that name, the newest first."""
    names = [p.parent.name for p in runs_root().glob(f"{wanted}*/recipe.yaml") if _is_of(p.parent.name, wanted)]
    return sorted(names, key=lambda n: int(n.rpartition("-")[2]) if n != wanted else 1, reverse=True)


def _continue(wanted: str, recipe: Recipe, functions: Functions) -> Session:
    before = set(sessions)
    session = _newest_unfinished(wanted)
    if differs := _difference(recipe, session.recipe):
        if session.name not in before:
            session.close()
        raise RecipeError(f"--resume: '{session.name}' was started with another {differs}, or start a new run")
    session.recipe = session.recipe.with_functions(recipe.functions)
    return _resumed(session, functions)


def go_on(wanted: str, rewards: Callable[[Recipe], object] = lambda recipe: None) -> Session:
    """Go on with the newest unfinished run of that name as its folder describes it, with `rewards` of the notebook.

    Raises `RunFolderError` where there is none, or it is a race; `Refused` where it cannot be resumed.
    """
    refuse_live(wanted, replace=False)
    runs = _runs_of(wanted)
    if wanted not in runs and f"{wanted}-1" in runs:
        raise RunFolderError(
            f"--resume goes on with one run, and '{wanted}' is a race: %ft resume {wanted}-1, and so on"
        )
    session = _newest_unfinished(wanted)
    return _resumed(session, rewards(session.recipe))


def _newest_unfinished(wanted: str) -> Session:
    before = set(sessions)
    for name in _runs_of(wanted):
        session = open_run(name)
        if session.state != "finished":
            return session
        if name not in before:
            session.close()
    raise RunFolderError(f"--resume: no unfinished run '{wanted}' in {runs_root()}")


def _resumed(session: Session, rewards: object) -> Session:
    receipt = session.resume(rewards)
    if receipt.answer is not None:  # refused at once: no checkpoint to go on from, say
        receipt.wait()
    return session


def _difference(asked: Recipe, before: Recipe) -> str:
    """The first field in which the two differ, live fields included, and what to give."""
    for new, old in ((asked, before), (asked.hyperparameters, before.hyperparameters)):
        for key in type(new).model_fields:
            if key != "hyperparameters" and getattr(new, key, None) != getattr(old, key, None):
                return f"{key}: give the old value, {getattr(old, key, None)!r:.80}"
    return ""


def open_run(name_or_dir: str | Path) -> Session:
    """The run of that name, or in that folder: live, or a past one with its curves, chats and checkpoints.

    `resume()` goes on with it. Raises `RunFolderError` where there is none or another process is writing to it.
    """
    folder = RunFolder.find(name_or_dir)
    if folder.name in sessions and sessions[folder.name].folder == folder.path:
        return sessions[folder.name]
    holder = folder.holder()
    if holder is not None:
        raise RunFolderError(f"run '{folder.name}' is being trained by process {holder}; open it there")
    asked, _ = folder.read_recipe()
    try:
        session = Session(parse_recipe(asked), folder, EventLog(folder.events), None)
    except OSError as error:
        raise RunFolderError(f"{folder.events} cannot be opened: {error.strerror or error}") from None
    except RecipeError as error:
        raise RunFolderError(f"{folder.path / 'recipe.yaml'}: {error} (written by another version?)") from None
    if session.state not in OVER:
        session.log.append(StateChanged(state="stopped", step=session.step, note="its kernel ended while it was live"))
    sessions.add(session)
    return session


def rows_of(folder: RunFolder, recipe: Recipe) -> Examples:
    """The rows of a past run, and those it holds out. `DataError` where a source has changed or is gone."""
    if folder.rows.exists():
        return data_package.load_rows(folder.rows)
    _, about = folder.read_recipe()
    known = about["data"]
    try:
        examples = data_package.load(known["path"], recipe.columns, recipe.held_out, method=recipe.method)
    except DataError as error:
        raise DataError(f"the rows of '{folder.name}' cannot be read again: {error}") from None
    fingerprints = {known["path"]: (examples.fingerprint, known["fingerprint"])}
    for name, before in known.get("held_out", {}).items():
        fingerprints[f"held_out: {name}"] = examples.beside[name].fingerprint, before
    for name, (now, before) in fingerprints.items():
        if now != before:
            raise DataError(f"{name} has changed since '{folder.name}' began; put the old file back or start a new run")
    return examples
