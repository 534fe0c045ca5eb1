"""Which base a run began on, kept in its folder: weights that were trained over one say nothing over another."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..base_files import changed, fingerprint
from ..errors import ModelError
from ..memory.shape import find_folder
from ..recipe import Recipe
from ..runs import RunFolder

FILE = "base.json"


def note_base(folder: RunFolder, path: Path, files: dict[str, str]) -> None:
    """Keep what the base of a run is, where that is not kept yet."""
    file = folder.path / FILE
    if not file.exists() and files:
        with suppress(OSError):  # the run goes on without
            told = {"path": str(path), "commit": _commit(path), "files": files}
            file.write_text(json.dumps(told, indent=1), encoding="utf-8")


def revision_of(folder: RunFolder | None, recipe: Recipe) -> str | None:
    """The revision to load: the commit that the run began on, wherever a branch points by now."""
    commit = None if folder is None else noted_in(folder.path).get("commit")
    return commit if isinstance(commit, str) else recipe.revision


def take_along(weights: Path, place: Path) -> None:
    """Keep in the folder `place` what the run whose `weights` are in a folder of their own began on."""
    with suppress(OSError):
        shutil.copy(run_of(weights) / FILE, place / FILE)


def run_of(weights: Path) -> Path:
    """The run folder that a folder of weights is kept in (a checkpoint, a snapshot, or what it started from)."""
    return next((above for above in weights.parents[:2] if (above / FILE).is_file()), weights.parent)


def noted_in(folder: Path) -> dict[str, Any]:
    """What `note_base` kept in a run folder; empty where it kept nothing (runs of before)."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return found if isinstance(found.get("files"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def check_base(folder: Path, model: str, files: dict[str, str], run: str = "") -> None:
    """Raises `ModelError` where the base with these `files` is not the one that the `run` in `folder` began on."""
    name = changed(noted_in(folder).get("files", {}), files)
    if files and name:
        raise ModelError(
            f"the model in {model} has changed since '{run or folder.name}' began ({name} is another): put the old "
            "files back, or start a new run"
        )


def check_on_disk(folder: Path, recipe: Recipe) -> None:
    """`check_base` before a base is loaded or anything of a new run is made; one that is in memory is what counts."""
    noted = noted_in(folder)
    place = find_folder(recipe.model, noted.get("commit") or recipe.revision) if noted else None
    if place is None:
        return
    models = sys.modules.get("jupyter_ft.models")
    held = models.POOL.files_of(place) if models is not None else None
    try:
        files = fingerprint(place)
    except OSError:  # told where it is loaded
        files = {}
    began = noted["files"]
    if held and changed(began, held) and files and not changed(began, files):
        raise ModelError(
            f"the model in {recipe.model} is the one that '{folder.name}' began on, but another was loaded from there "
            "and is still in use: close the runs that began on that one"
        )
    check_base(folder, recipe.model, held or files)


def _commit(path: Path) -> str | None:
    """The commit of a snapshot in the hub's cache; None for a folder of one's own."""
    return path.name if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--") else None
