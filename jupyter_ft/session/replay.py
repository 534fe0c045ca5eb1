"""A run as a plain Python script that trains it again, with every change that was made to it by hand.

What is needed beside the script is put into a folder of its name: rows that cannot be read again, and the losses, with
which the script compares its own. The run folder alone is read; the run may be live, over, or of another kernel.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RunFolderError
from ..event_log import EventLog
from ..launch.machine import noted_machine
from ..launch.meanwhile import JOINED
from ..messages import Applied, Resumed, StateChanged
from ..recipe import Recipe, parse_recipe
from ..runs import RunFolder
from .fork import fresh_after
from .script import script

if TYPE_CHECKING:
    from .handle import Session

FILES = "_files"
LOSSES = "losses.json"
FIRST_LINE = '"""Trains the run '


class TakenBack(NamedTuple):
    """Steps after `step`, up to `last` (None: not known), with the edits made in them, taken back by a person."""

    time: float
    step: int
    last: int | None
    edits: list[Applied]


class Story(NamedTuple):
    """A run as its folder tells it: what counts of it, in order, and what was taken back."""

    folder: RunFolder
    recipe: Recipe
    about: Mapping[str, Any]
    edits: list[Applied]
    taken_back: list[TakenBack]
    resumed: list[Resumed]
    pauses: list[StateChanged]
    losses: list[float]
    state: str
    total: int
    machine: Mapping[str, Any]
    fresh: list[int]  # the steps after which it went on with a fresh optimizer

    @property
    def joined(self) -> Path:
        """The rows that joined the run along the way, where there are any."""
        return self.folder.rows.with_name(JOINED)


def replay_script(run: str | Path | Session, to: str | Path | None = None) -> Path:
    """Write the script that trains `run` again (a session, a name or a run folder) and give its path.

    It goes to `to`, else to `replay.py` in the run folder. On the same machine, with the same packages, a run in
    float32 gives the same losses, bit for bit; the script says whether it did. Raises `RunFolderError` where there is
    no such run, where it cannot be replayed, and where the place cannot be written or holds something else.
    """
    folder = RunFolder.find(run) if isinstance(run, str | Path) else run.run_folder
    told = story(folder)
    path = (folder.path / "replay.py" if to is None else Path(to)).expanduser()
    path = (path / f"replay_{folder.name}.py" if path.is_dir() else path).absolute()
    if path.suffix != ".py":
        raise RunFolderError(f"{path} is to be a Python script: give a name that ends in .py")
    files = path.with_name(f"{path.stem}{FILES}")
    text = script(told, files.name)
    try:
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(FIRST_LINE):
            raise RunFolderError(f"{path} is there and is no script of a replay; give another name")
        files.mkdir(parents=True, exist_ok=True)
        (files / LOSSES).write_text(json.dumps(told.losses), encoding="utf-8")
        for file in (folder.rows, told.joined):
            if file.is_file():
                shutil.copy(file, files / file.name)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}; give another path") from None
    return path


def story(folder: RunFolder) -> Story:
    """What the folder of a run tells; `RunFolderError` where that cannot be replayed."""
    asked, about = folder.read_recipe()
    recipe = parse_recipe(asked)
    name, fork = folder.name, about.get("fork") or {}
    if recipe.method == "attached":
        raise RunFolderError(f"'{name}' was attached: its trainer is built by your own code, which is its script")
    log = EventLog.read_only(folder.events)
    fresh = fresh_after(fork, log)
    if fresh is None:
        raise RunFolderError(
            f"'{name}' was forked from a snapshot by an earlier version, which did not note where its optimizer was "
            f"fresh: fork '{fork['run']}@{fork['step']}' again, or replay '{fork['run']}'"
        )
    if fork:
        recipe = parse_recipe({**asked, **fork["began"]})
    steps = log.read()[0].steps
    if not log.last_step:
        raise RunFolderError(f"'{name}' has no step yet, so there is nothing to replay")
    edits, taken_back = _edits(log)
    states = [event for event in log.history() if isinstance(event, StateChanged)]
    resumed = [event for event in log.history() if isinstance(event, Resumed)]
    return Story(
        folder=folder,
        recipe=recipe,
        about=about,
        edits=edits,
        taken_back=taken_back,
        resumed=[one for one in resumed if not one.rewound and one.step != fork.get("step")],  # as a fork it begins so
        pauses=[event for event in states if event.state == "paused" and event.note],
        losses=[float(loss) for loss in steps["loss"]],
        state=states[-1].state if states else "stopped",
        total=next((event.total_steps for event in reversed(states) if event.total_steps), 0),
        machine=noted_machine(folder),
        fresh=[step for step in fresh if step < log.last_step],
    )


def _edits(log: EventLog) -> tuple[list[Applied], list[TakenBack]]:
    """The edits that count, and what a person took back."""
    left = {int(steps[0]): int(steps[-1]) for steps, _ in log.abandoned}
    counted: list[Applied] = []
    taken: list[TakenBack] = []
    for event in log.history():
        if isinstance(event, Applied) and event.verb == "set" and event.changes:
            counted.append(event)
        elif isinstance(event, Resumed):
            stays = [edit for edit in counted if edit.step <= event.step or edit.command in event.ahead]
            if event.rewound:
                gone = [edit for edit in counted if edit not in stays]
                taken.append(TakenBack(event.time, event.step, left.get(event.step), gone))
            counted = stays
    return counted, taken
