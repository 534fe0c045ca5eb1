"""The run folder: names, locks, and checkpoints that are complete or not there."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.errors import CheckpointError, RunFolderError
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import KEEP, RunFolder, check_name, runs_root, steps_between, verify


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a;rm", "", ".hidden", "-dash", "x" * 300, "nul", "end.", "new\nline", "ü", "$(ls)", "a b"]
)
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(RunFolderError, match="cannot name a run") as caught:
        check_name(name)
    assert "\n" not in str(caught.value).replace("new\nline", "")


def test_a_file_in_the_place_of_the_runs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunFolderError, match=r"runs is to hold the runs and is no folder: JUPYTER_FT_RUNS names it"):
        RunFolder.create("support")
    monkeypatch.delenv("JUPYTER_FT_RUNS")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match="set JUPYTER_FT_RUNS to a folder"):
        runs_root()


def fill(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(os.urandom(1000))
    (folder / "state.json").write_text("{}")


def test_a_checkpoint_is_published_whole() -> None:
    run = RunFolder.create("support")
    path, size = run.publish(7, fill)
    assert size == 1002
    verify(path)
    assert run.checkpoints() == [7]
    assert run.newest_good()[:2] == (7, path)


def test_a_save_that_fails_publishes_nothing() -> None:
    run = RunFolder.create("support")
    run.publish(7, fill)

    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run.publish(8, full)
    assert run.checkpoints() == [7]
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-000007"]


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_no_checkpoint() -> None:
    run = RunFolder.create("support")
    run.publish(1, fill)
    code = f"""
import os
from pathlib import Path
from jupyter_ft.runs import RunFolder
def die(folder):
    (folder / "weights.bin").write_bytes(b"half")
    os.kill(os.getpid(), 9)
RunFolder(Path({str(run.path)!r})).publish(2, die)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert run.checkpoints() == [1]
    assert run.newest_good()[0] == 1


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip", "manifest", "garbage"])
def test_any_damage_is_found_and_the_one_before_is_used(damage: str) -> None:
    run = RunFolder.create("support")
    run.publish(1, fill)
    path, _ = run.publish(2, fill)
    weights, manifest = path / "weights.bin", path / "manifest.json"
    match damage:
        case "delete":
            weights.unlink()
        case "truncate":
            weights.write_bytes(weights.read_bytes()[:500])
        case "flip":
            data = bytearray(weights.read_bytes())
            data[3] ^= 1
            weights.write_bytes(bytes(data))
        case "manifest":
            manifest.unlink()
        case "garbage":
            manifest.write_text(json.dumps([1, 2]))
    with pytest.raises(CheckpointError, match=r"step-000002: (weights\.bin|manifest\.json)"):
        verify(path)
    step, _, wrong = run.newest_good()
    assert step == 1
    assert len(wrong) == 1


def test_only_the_newest_checkpoints_are_kept() -> None:
    run = RunFolder.create("support")
    for step in range(1, KEEP + 4):
        run.publish(step, fill)
    assert run.checkpoints() == [4, 5, 6][-KEEP:]


def test_one_that_was_asked_for_stays_also_where_it_is_written_again() -> None:
    run = RunFolder.create("support")
    run.publish(2, fill, asked=True)
    run.publish(2, fill)
    for step in range(3, 3 + KEEP + 2):
        run.publish(step, fill)
    assert run.checkpoints() == [2, 5, 6, 7]
    assert run.saved() == [2]
    verify(run.checkpoint(2))
    run.drop_after(1)
    assert run.saved() == []


def test_a_run_folder_has_one_writer() -> None:
    run = RunFolder.create("support")
    run.lock()
    with pytest.raises(RunFolderError, match="in use by this kernel"):
        RunFolder(run.path).lock()
    run.unlock()
    RunFolder(run.path).lock()


@pytest.mark.slow
def test_the_lock_of_a_dead_process_is_taken_over() -> None:
    run = RunFolder.create("support")
    code = f"from pathlib import Path; from jupyter_ft.runs import RunFolder; RunFolder(Path({str(run.path)!r})).lock()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (run.path / "lock").exists()
    assert run.holder() is None
    run.lock()
    assert run.holder() == os.getpid()


ROUNDS, RACERS = 150, 3


def race(root: Path, start: Any, won: Any) -> None:
    """In a process of its own: try for each of the folders in the same instant as the others."""
    for number in range(ROUNDS):
        start.wait(60)
        try:
            RunFolder(root / str(number)).lock()
        except RunFolderError:
            continue
        won.put(number)
    start.wait(60)  # who has won stays alive until all have tried


@pytest.mark.slow
def test_of_those_that_take_over_a_lock_in_the_same_instant_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a test with an IPython before this one leaves a main module that new processes cannot be told of
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    gone = {"pid": 2**22 + 1, "started": 0.0, "boot": "another"}
    for number in range(ROUNDS):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "lock").write_text(json.dumps(gone))
    spawn = multiprocessing.get_context("spawn")
    start, won = spawn.Barrier(RACERS), spawn.Queue()
    racers = [spawn.Process(target=race, args=(tmp_path, start, won)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    winners = [won.get(timeout=60) for _ in range(ROUNDS)]
    for racer in racers:
        racer.join(60)
    assert won.empty()
    assert sorted(winners) == list(range(ROUNDS))


def test_a_file_system_without_locks_is_locked_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    real, waiting = fcntl.flock, threading.Event()

    def only_files(handle: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(95, "Operation not supported")
        waiting.set()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", only_files)
    monkeypatch.setenv("JUPYTER_FT_CACHE", str(tmp_path / "cache"))
    run = RunFolder.create("support")
    run.lock()
    waiting.clear()
    said: list[str] = []
    (stand_in,) = (tmp_path / "cache" / "locks").iterdir()
    with stand_in.open("w") as theirs:
        real(theirs, fcntl.LOCK_EX)
        refused = threading.Thread(target=lambda: said.append(refusal(run.path)))
        refused.start()
        assert waiting.wait(60)
        assert not said
    refused.join(60)
    assert "in use by this kernel" in said[0]


def refusal(path: Path) -> str:
    with pytest.raises(RunFolderError) as caught:
        RunFolder(path).lock()
    return str(caught.value)


def test_a_taken_name_a_missing_run_and_a_foreign_folder_are_told_apart(runs: Path) -> None:
    RunFolder.create("support").write_recipe(parse_recipe({}), {"data": {}})
    with pytest.raises(RunFolderError, match="taken by another run"):
        RunFolder.create("support")
    with pytest.raises(RunFolderError, match="holds no run; did you mean 'support'"):
        RunFolder.find("suport")
    (runs / "support" / "recipe.yaml").write_text("[")
    with pytest.raises(RunFolderError, match="cannot be read"):
        RunFolder.find("support").read_recipe()


def test_the_recipe_round_trips() -> None:
    recipe = parse_recipe({"learning_rate": 3e-5, "adapter": {"r": 8}, "system": "You: the desk", "max_steps": 7})
    run = RunFolder.create("support")
    run.write_recipe(recipe, {"data": {"fingerprint": "f"}})
    asked, about = run.read_recipe()
    assert parse_recipe(asked) == recipe
    assert about == {"data": {"fingerprint": "f"}}


@pytest.mark.parametrize(
    ("total", "every"), [(0, 1), (70, 1), (71, 2), (132, 2), (250, 5), (1000, 20), (10**6, 20_000)]
)
def test_about_fifty_round_steps_of_a_run_are_kept(total: int, every: int) -> None:
    assert steps_between(total) == every
