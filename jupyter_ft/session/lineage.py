"""Who comes from whom: the forks and stages of a run, as the run folders tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RunFolderError
from ..runs import RunFolder

MOST = 500  # runs of the folder that are looked at, the newest
CHANGES = 4  # of a fork that are named


@dataclass
class Run:
    """A run of a family: the run and step that it left (empty and 0: the base), how, and those that left it."""

    name: str
    parent: str = ""
    step: int = 0
    how: str = ""
    children: list[Run] = field(default_factory=list)


def family_of(folder: RunFolder) -> Run:
    """The oldest ancestor that is known of the run in `folder`, with everyone that comes from it.

    An ancestor whose folder has gone is still named. A folder that cannot be read is passed over.
    """
    runs = {run.name: run for run in _known(folder.path.parent)}
    for run in list(runs.values()):
        if run.parent:
            runs.setdefault(run.parent, Run(run.parent, how="its folder has gone")).children.append(run)
    for run in runs.values():
        run.children.sort(key=lambda child: (child.step, child.name))
    oldest, seen = runs.get(folder.name, Run(folder.name)), {folder.name}
    while oldest.parent and oldest.parent not in seen:  # a name that was used again could lead in a circle
        oldest = runs[oldest.parent]
        seen.add(oldest.name)
    return oldest


def _known(root: Path) -> list[Run]:
    found = sorted(root.glob("*/recipe.yaml"), key=lambda file: file.stat().st_mtime)[-MOST:]
    return [run for file in found if (run := _read(RunFolder(file.parent))) is not None]


def _read(folder: RunFolder) -> Run | None:
    try:
        _, about = folder.read_recipe()
    except RunFolderError:
        return None
    fork, stage = about.get("fork"), about.get("parent")
    if isinstance(fork, Mapping):
        return Run(folder.name, str(fork.get("run", "")), int(fork.get("step", 0)), _fork_text(fork.get("changes")))
    if isinstance(stage, Mapping):
        return Run(folder.name, str(stage.get("run", "")), int(stage.get("step", 0)), "from its weights")
    return Run(folder.name)


def _fork_text(changes: Any) -> str:
    pairs = list(changes.items()) if isinstance(changes, Mapping) else []
    more = [f"and {len(pairs) - CHANGES} more"] if len(pairs) > CHANGES else []
    return ", ".join(["fork", *(f"{key} = {value}" for key, value in pairs[:CHANGES]), *more])
