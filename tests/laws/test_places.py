"""A full or read-only disk, a damaged checkpoint, a clock that jumps: said by name, and nothing is lost."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import CheckpointError, RecipeError, Refused
from jupyter_ft.event_log import EventLog
from jupyter_ft.runs import RunFolder, verify

from ._runs import finish


@contextmanager
def _full_disk(at: int) -> Iterator[None]:
    """No file of this process may grow beyond `at` bytes: what the system says then is what a full disk says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _kinds(session: Any, *kinds: str) -> list[Any]:
    return [event for event in session.events if event.kind in kinds]


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else(tune: Any) -> None:
    asked = {"epochs": 3, "adapter": {"r": 64}, "checkpoint_steps": 2}
    session = tune("full", **asked)
    session.wait(step=5, timeout=60)
    session.pause().wait(60)
    good = session.steps
    with _full_disk(at=300_000):  # the adapter is larger
        with pytest.raises(Refused, match="the checkpoint could not be written"):
            session.save().wait(60)
        session.resume().wait(60)
        session.wait(step=12, timeout=60)
        session.pause().wait(60)
        assert session.steps == good
        assert session.health.level == "amber"
        assert f"the last good one is of step {good[-1]}" in session.health.said
    assert [path.name for path in (session.folder / "checkpoints").glob(".*")] == []
    session.resume().wait(60)
    got = finish(session)
    assert session.state == "finished"
    assert session.health.level == "green"
    assert len(_kinds(session, "save-failed")) >= 3
    assert got == finish(tune("roomy", **asked))


@pytest.mark.slow
def test_a_disk_that_turns_read_only_is_said_and_the_run_goes_on(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = tune("locked", epochs=2, checkpoint_steps=3)
    session.wait(step=4, timeout=60)
    session.pause().wait(60)
    good, make = session.steps, os.mkdir

    def read_only(path: Any, *args: Any, **kwargs: Any) -> None:
        if "locked" in str(path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        make(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", read_only)
    session.resume().wait(60)
    session.wait_until_over(60)
    assert session.step == session.total_steps
    assert session.steps == good
    assert session.state == "stopped"  # not finished: there is no result on disk
    assert "Read-only file system" in session.events[-1].note
    monkeypatch.undo()
    monkeypatch.setenv("JUPYTER_FT_RUNS", str(session.folder.parent))
    session.resume().wait(60)
    assert finish(session) == finish(tune("open", epochs=2, checkpoint_steps=3))


def test_what_the_log_could_not_write_is_in_memory_and_what_follows_is_on_disk(tmp_path: Path) -> None:
    from jupyter_ft.messages import Logged

    log = EventLog(tmp_path / "events.jsonl")
    log.append(Logged(level="info", text="before"))
    with _full_disk(at=(tmp_path / "events.jsonl").stat().st_size + 20):
        for number in range(300):
            log.append(Logged(level="info", text=f"during {number} {'x' * 200}"))
    for number in range(3):
        log.append(Logged(level="info", text=f"after {number}"))
    log.close()
    texts = [event.text for event in log.read()[0].events]
    assert [text for text in texts if "no longer written" in text] != []
    assert len(texts) == 1 + 300 + 3 + 1
    again = [event.text for event in EventLog(tmp_path / "events.jsonl").read()[0].events]
    assert again[0] == "before"
    assert again[-3:] == ["after 0", "after 1", "after 2"]


# --- checkpoints ----------------------------------------------------------------------------------------------------

FILES = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "manifest.json",
    "optimizer.safetensors",
    "random.safetensors",
    "training.json",
}


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped, with two checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_FT_RUNS", str(tmp_path_factory.mktemp("saved")))
        rows = [{"prompt": f"Where is {number}?", "completion": "Here."} for number in range(24)]
        asked = {"batch_size": 4, "dtype": "float32", "adapter": {"r": 4}, "checkpoint_steps": 2}
        session = jupyter_ft.finetune(str(tiny_model), rows, "saved", **asked)
        session.wait(step=3, timeout=60)
        session.stop()
        session.wait(timeout=60)
        session.close()
        return Path(session.folder)


def test_the_files_of_a_checkpoint_are_these(saved: Path) -> None:
    newest = RunFolder(saved).newest_good()[1]
    assert {path.name for path in newest.iterdir()} == FILES


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    saved: Path, runs: Path, name: str, damage: str
) -> None:
    folder = Path(shutil.copytree(saved, runs / "saved"))
    *_, before, newest = RunFolder(folder).checkpoints()
    file = RunFolder(folder).checkpoint(newest) / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    session = jupyter_ft.open("saved")
    assert session.resume().wait(60) == before
    session.stop()
    session.wait(timeout=60)
    said = [event.text for event in _kinds(session, "log") if "damaged checkpoint" in event.text]
    assert len(said) == 1
    assert f"step-{newest:06d}: {name} is" in said[0]
    assert f"going on from step {before}" in said[0]


def test_each_byte_of_a_manifest_counts(saved: Path, tmp_path: Path) -> None:
    whole = RunFolder(saved).newest_good()[1]
    copy = Path(shutil.copytree(whole, tmp_path / whole.name))
    verify(copy)
    data = (copy / "manifest.json").read_bytes()
    for at in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[at] ^= 1
        (copy / "manifest.json").write_bytes(flipped)
        with pytest.raises(CheckpointError, match=f"{whole.name}: manifest"):
            verify(copy)
    (copy / "manifest.json").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="manifest"):
        verify(copy)


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clock_that_jumps_back_changes_nothing(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"max_steps": 20}
    straight = finish(tune("straight", **asked))
    backwards = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    session = tune("backwards", **asked)
    assert finish(session) == straight
    monkeypatch.undo()
    events = _kinds(session, "state")
    assert events[-1].time < events[0].time  # the clock did jump
    assert (session.metrics["seconds"] > 0).all()
    assert (session.metrics["tokens_per_second"] > 0).all()
    assert [event.step for event in _kinds(session, "checkpoint")] == list(range(2, 21, 2))
    assert all(event.seconds >= 0 for event in _kinds(session, "checkpoint"))


def test_more_steps_than_anybody_could_mean(tune: Any) -> None:
    with pytest.raises(RecipeError, match="max_steps = 1000000000000"):
        tune(max_steps=10**12)
    session = tune("longest", max_steps=10**9, epochs=1)
    session.wait(step=3, timeout=60)
    assert session.total_steps == 10**9
    with pytest.raises(RecipeError, match="max_steps"):
        session.set(max_steps=10**12)
    with pytest.raises(Refused, match="step 1000000000000 will not come"):
        session.set(step=10**12, learning_rate=1e-4).wait(60)
    session.stop()
    session.wait(timeout=60)
    assert session.steps == [session.step]
