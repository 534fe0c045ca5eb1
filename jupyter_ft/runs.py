"""The run folder: its layout, its lock, and checkpoints that are either complete or not there.

    runs/<name>/recipe.yaml  data/rows.jsonl  events.jsonl  steps/0001.f64  lock
                checkpoints/step-000120/{manifest.json, adapter…, optimizer.safetensors, training.json}
                snapshots/step-000044/   the adapter alone, to be visited again
                feedback.sqlite   what people judged of it
                start/        the weights that it began with, where those are of another run
                adapter/      the result, in PEFT's own format; with full weights model/, in transformers'

A checkpoint is written beside its place, flushed to disk, described by a manifest of sizes and SHA-256, and published
by one rename; a killed process leaves at most a staging folder, which is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from .alone import alone_in
from .errors import CheckpointError, RunFolderError, did_you_mean
from .recipe import Recipe

KEEP = 3  # resumable checkpoints kept in a run
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_STEP = re.compile(r"step-(\d{6,})")
OPTIMIZER, STREAMS, STATE = "optimizer.safetensors", "random.safetensors", "training.json"
SNAPSHOTS = 50  # of a run, spread over it
SAVED = "saved"  # a file that marks a checkpoint as asked for by a person
FOR_RESUMPTION = (OPTIMIZER, STREAMS, STATE, "manifest.json", SAVED)
"""The files of a checkpoint that are not the weights."""
_RESERVED = {"con", "prn", "aux", "nul"}  # no folder of Windows
_ADDRESSES = {"base", "live", "best", "last"}


def runs_root() -> Path:
    """The folder that holds the runs: `$JUPYTER_FT_RUNS`, else `runs` in the current folder.

    `RunFolderError` where something that is no folder has that name.
    """
    asked = os.environ.get("JUPYTER_FT_RUNS")
    root = Path(asked or "runs").expanduser().resolve()
    if root.exists() and not root.is_dir():
        named = "JUPYTER_FT_RUNS names it; set that to a folder" if asked else "set JUPYTER_FT_RUNS to a folder"
        raise RunFolderError(f"{root} is to hold the runs and is no folder: {named}")
    return root


def check_name(name: str) -> str:
    """`name` where it can name a run and a folder; else `RunFolderError`."""
    if isinstance(name, str) and name in _ADDRESSES:
        raise RunFolderError(f"'{name}' names weights of a run and cannot name a run; choose another name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith(".") or name.lower() in _RESERVED:
        raise RunFolderError(
            f"'{str(name)[:80]}' cannot name a run: use a letter, then letters, digits, '_', '-' or '.', 64 at most"
        )
    return name


class RunFolder:
    """One run on disk. Creating or opening takes no lock; `lock()` does, for whoever writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = path / "events.jsonl"
        self.rows = path / "data" / "rows.jsonl"
        self.start = path / "start"
        self.adapter = path / "adapter"
        self.model = path / "model"
        self._locked = False

    @property
    def name(self) -> str:
        """The run's name is the folder's."""
        return self.path.name

    @classmethod
    def create(cls, name: str, root: Path | None = None) -> RunFolder:
        """A new, empty run folder; `RunFolderError` where the place is taken or cannot be written."""
        path = (root or runs_root()) / check_name(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            raise RunFolderError(f"{path} is taken by another run; choose another name") from None
        except OSError as error:
            raise RunFolderError(f"{path} cannot be made: {error.strerror}; set JUPYTER_FT_RUNS to a folder") from None
        return cls(path)

    @classmethod
    def find(cls, name_or_dir: str | Path) -> RunFolder:
        """The run of that name under the runs folder, or at that path; `RunFolderError` where there is none."""
        given = Path(name_or_dir).expanduser()
        path = given.resolve() if given.is_absolute() or len(given.parts) > 1 else runs_root() / given
        if not (path / "recipe.yaml").is_file():
            known = sorted(p.parent.name for p in runs_root().glob("*/recipe.yaml"))
            more = f" and {len(known) - 12} more" if len(known) > 12 else ""
            listed = did_you_mean(given.name, known) or f"; the runs here are: {', '.join(known[:12]) or 'none'}{more}"
            raise RunFolderError(f"{path} holds no run{listed}")
        return cls(path)

    # --- recipe and lineage ---

    def write_recipe(self, recipe: Recipe, about: dict[str, Any]) -> None:
        """Record what was asked, and `about`: versions, data fingerprint, where it came from."""
        asked = recipe.model_dump(mode="json", exclude={"hyperparameters"}) | recipe.hyperparameters.model_dump(
            mode="json"
        )
        text = yaml.safe_dump({"recipe": asked, "about": about}, sort_keys=False, allow_unicode=True)
        _write_durably(self.path / "recipe.yaml", text.encode())

    def read_recipe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The flat recipe and the `about` mapping; `RunFolderError` where the file is not ours."""
        try:
            found = yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8"))
            return dict(found["recipe"]), dict(found["about"])
        except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{self.path / 'recipe.yaml'} cannot be read: {type(error).__name__}") from None

    def judge(self, name: str) -> tuple[Path, dict[str, Any]] | None:
        """Where the weights of the reward run `name` are kept, and what is recorded of it; None for a function."""
        found = (self.read_recipe()[1].get("rewards") or {}).get(name, {})
        return (self.path / found["folder"], dict(found)) if "folder" in found else None

    # --- the lock ---

    def lock(self) -> None:
        """Become the one writer; a lock whose process is gone is taken over. `RunFolderError` where it is alive."""
        me = {"pid": os.getpid(), "started": psutil.Process().create_time(), "boot": _boot_id()}
        with alone_in(self.path):  # between looking who holds it and taking it, nobody else does either
            holder = self.holder()
            if holder is not None:
                where = "this kernel" if holder == os.getpid() else f"process {holder}"
                raise RunFolderError(f"run '{self.name}' is in use by {where}; stop it there first")
            _write_durably(self.path / "lock", json.dumps(me).encode())
        self._locked = True
        self._sweep()

    def _sweep(self) -> None:
        """Remove what processes that were killed while saving left behind."""
        for left in self.path.glob("*s/.*-????????"):  # of checkpoints and snapshots
            shutil.rmtree(left, ignore_errors=True)

    def holder(self) -> int | None:
        """The process id of a living writer, else None."""
        try:
            held = json.loads((self.path / "lock").read_text())
            alive = held["boot"] == _boot_id() and psutil.Process(held["pid"]).create_time() == held["started"]
            return int(held["pid"]) if alive else None
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None

    def unlock(self) -> None:
        """Give the lock back."""
        if self._locked:
            self._locked = False
            (self.path / "lock").unlink(missing_ok=True)

    # --- checkpoints ---

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoints(self) -> list[int]:
        """The steps with a published checkpoint, in order (not verified)."""
        return _steps_in(self.path / "checkpoints")

    def saved(self) -> list[int]:
        """Those of them that a person asked for: newer ones do not push them out."""
        return [step for step in self.checkpoints() if (self.checkpoint(step) / SAVED).exists()]

    def mark_saved(self, step: int) -> None:
        """The checkpoint of `step` is asked for by a person from now on. `OSError` where the disk refuses."""
        (self.checkpoint(step) / SAVED).touch()

    def snapshot(self, step: int) -> Path:
        """Where the snapshot of `step` is, or would be: no optimizer, no random streams."""
        return self.path / "snapshots" / f"step-{step:06d}"

    def snapshots(self) -> list[int]:
        """The steps with a snapshot, in order (not verified)."""
        return _steps_in(self.path / "snapshots")

    def snapshot_bytes(self) -> int:
        """What they take on the disk."""
        sizes = 0
        for file in (self.path / "snapshots").glob("step-*/*"):
            with suppress(OSError):  # let go of in this moment
                sizes += file.stat().st_size
        return sizes

    def visitable(self) -> list[int]:
        """The steps whose weights are kept, in order (not verified)."""
        return sorted({*self.checkpoints(), *self.snapshots()})

    def visit(self, step: int) -> Path:
        """The folder with the weights of `step`, verified; `CheckpointError` where there are none, with the nearest."""
        if step in self.checkpoints():
            try:
                return self.resumable(step)
            except CheckpointError:
                if self.checkpoint(step).exists() or step not in self.snapshots():
                    raise
                # let go of in this moment, and its weights are kept
        if step not in self.snapshots():
            return self.resumable(step)
        verify(self.snapshot(step))
        return self.snapshot(step)

    def resumable(self, step: int) -> Path:
        """The folder of the checkpoint at `step`, verified; `CheckpointError` where there is none."""
        if step not in self.checkpoints():
            raise CheckpointError(
                f"run '{self.name}' has no weights of step {step}; there are: {listed(self.visitable(), step)}"
            )
        verify(self.checkpoint(step))
        return self.checkpoint(step)

    def publish(
        self, step: int, write: Callable[[Path], None], pinned: Collection[int] = (), *, asked: bool = False
    ) -> tuple[Path, int]:
        """Have `write` fill a staging folder and publish it as the checkpoint of `step`: its path and size in bytes.

        Older checkpoints beyond `KEEP` are removed afterwards, but the `pinned` ones and those that were `asked` for.
        Raises `OSError` where the disk refuses; nothing is published then, and what was there stays.
        """
        saved = {*self.saved(), *([step] if asked else [])}
        final, size = self._publish(self.checkpoint(step), step, write)
        if step in saved:
            self.mark_saved(step)
        others = [old for old in self.checkpoints() if old not in saved]
        for old in others[:-KEEP]:
            if old != step and old not in pinned:
                shutil.rmtree(self.checkpoint(old), ignore_errors=True)
        return final, size

    def keep(self, step: int, write: Callable[[Path], None]) -> int:
        """As `publish`, a snapshot: its size in bytes. None is removed."""
        return self._publish(self.snapshot(step), step, write)[1]

    def _publish(self, final: Path, step: int, write: Callable[[Path], None]) -> tuple[Path, int]:
        staging = final.with_name(f".staging-{uuid.uuid4().hex[:8]}")
        staging.mkdir(parents=True)
        try:
            write(staging)
            size = _seal(staging, step)
            aside = final.with_name(f".old-{uuid.uuid4().hex[:8]}")
            if final.exists():  # a resumed run comes by the same step again
                final.rename(aside)
            staging.rename(final)
            _sync_folder(final.parent)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return final, size

    def newest_good(self) -> tuple[int, Path, list[str]]:
        """The newest checkpoint that verifies, and what was wrong with newer ones.

        Raises `CheckpointError` where none does.
        """
        wrong: list[str] = []
        for step in reversed(self.checkpoints()):
            try:
                verify(self.checkpoint(step))
                return step, self.checkpoint(step), wrong
            except CheckpointError as error:
                wrong.append(str(error))
        why = f": {wrong[0]}" if wrong else ""
        raise CheckpointError(f"run '{self.name}' has no checkpoint to go on from{why}")

    def drop_after(self, step: int) -> None:
        """Remove checkpoints and snapshots after `step`: they belong to steps that are taken back."""
        for folder in [*map(self.checkpoint, self.checkpoints()), *map(self.snapshot, self.snapshots())]:
            if _step_of(folder) > step:
                shutil.rmtree(folder, ignore_errors=True)


def steps_between(total: int) -> int:
    """Steps between two snapshots of a run of `total`: 1, 2 or 5 times a power of ten, for about `SNAPSHOTS` of them.

    Round, because people name round steps: of 132, every second is kept and not every third.
    """
    wanted = max(1.0, total / SNAPSHOTS)
    rounds: list[int] = [lead * int(10**power) for power in range(10) for lead in (1, 2, 5)]
    return min(rounds, key=lambda every: abs(math.log(every / wanted)))


def _step_of(folder: Path) -> int:
    match = _STEP.fullmatch(folder.name)
    return int(match[1]) if match else -1


def _steps_in(folder: Path) -> list[int]:
    return sorted(step for step in map(_step_of, folder.glob("step-*")) if step >= 0)


def listed(steps: list[int], near: int) -> str:
    """The steps for an error's line: of many, those nearest to `near`."""
    if not steps:
        return "none"
    nearest = sorted(sorted(steps, key=lambda step: abs(step - near))[:12])
    return ", ".join(map(str, nearest)) + (f" (and {len(steps) - 12} more)" if len(steps) > 12 else "")


def copy_weights(checkpoint: Path, folder: Path) -> None:
    """What of a checkpoint is the result (the weights, not what resumption needs), copied. Raises `OSError`."""
    folder.mkdir(exist_ok=True)
    for file in checkpoint.iterdir():
        if file.name not in FOR_RESUMPTION:
            shutil.copy(file, folder / file.name)


def verify(checkpoint: Path) -> None:
    """Check every file against the manifest; `CheckpointError` names the first that is missing or altered."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        files = {str(name): (wanted["size"], wanted["sha256"]) for name, wanted in manifest["files"].items()}
        known = set(manifest) in ({"step", "files"}, {"step", "files", "sha256"})  # the first: written by 0.1
        sealed = "sha256" not in manifest or manifest["sha256"] == _digest(manifest["step"], manifest["files"])
        whole = bool(files) and known and sealed and checkpoint.name == f"step-{manifest['step']:06d}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{checkpoint.name}: manifest.json is missing or altered")
    for name, (size, digest) in files.items():
        file = checkpoint / name
        try:
            good = file.stat().st_size == size and _sha256(file) == digest
        except (OSError, ValueError):  # ValueError: a name that no file can have
            raise CheckpointError(f"{checkpoint.name}: {name[:80]} is missing or cannot be read") from None
        if not good:
            raise CheckpointError(f"{checkpoint.name}: {name[:80]} is truncated or altered")


def _seal(staging: Path, step: int) -> int:
    files = [p for p in sorted(staging.rglob("*")) if p.is_file()]
    for file in files:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    listed = {str(f.relative_to(staging)): {"size": f.stat().st_size, "sha256": _sha256(f)} for f in files}
    manifest = {"step": step, "files": listed, "sha256": _digest(step, listed)}
    _write_durably(staging / "manifest.json", json.dumps(manifest, indent=1).encode())
    _sync_folder(staging)
    return sum(file.stat().st_size for file in files)


def _digest(step: int, files: dict[str, Any]) -> str:
    """What seals the manifest itself."""
    return hashlib.sha256(json.dumps([step, files], sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_durably(file: Path, data: bytes) -> None:
    staging = file.with_name(f".{file.name}-{uuid.uuid4().hex[:8]}")
    with staging.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    staging.replace(file)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))
