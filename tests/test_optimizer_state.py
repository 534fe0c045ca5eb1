"""Where what an optimizer keeps lies: a place of its own, on disk while others have their turns."""

from __future__ import annotations

import copy
import ctypes
import errno
import gc
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Adafactor

import jupyter_ft
from jupyter_ft import aside
from jupyter_ft.control.optimizer_state import OptimizerState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it stays in memory")
SIZE = 2**20  # numbers of a weight, so that pages can be told from their neighbours


class Run:
    """An optimizer at work, whose state is moved or left."""

    def __init__(self) -> None:
        self.weights = [torch.nn.Parameter(torch.linspace(-1, 1, SIZE)), torch.nn.Parameter(torch.ones(3, 2))]
        self.optimizer = torch.optim.AdamW(self.weights, lr=0.1)

    def step(self, scale: float) -> None:
        for weight in self.weights:
            weight.grad = weight.detach() * scale + 1
        self.optimizer.step()

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [tensor for slots in self.optimizer.state.values() for tensor in slots.values()]

    @property
    def places(self) -> set[int]:
        return {tensor.untyped_storage().data_ptr() for tensor in self.tensors}


def same(run: Run, other: Run) -> bool:
    pairs = [*zip(run.weights, other.weights, strict=True), *zip(run.tensors, other.tensors, strict=True)]
    return all(torch.equal(one, another) for one, another in pairs)


def in_memory(run: Run) -> int:
    """kB of the mapping in which the state lies that are in memory."""
    (place,) = run.places
    for part in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        first, _, last = part.split()[0].partition("-")
        if int(first, 16) <= place < int(last, 16):
            return int(re.search(r"^Rss:\s+(\d+) kB", part, re.M)[1])  # type: ignore[index]
    raise AssertionError("no such mapping")


def files() -> int:
    return len(re.findall(rf" {aside._disk()}/.*\(deleted\)", Path("/proc/self/maps").read_text()))


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(aside, "_SPARE", 0)


def test_it_is_moved_and_goes_on_as_it_was() -> None:
    moved, left, state = Run(), Run(), OptimizerState()
    state.wait(moved.optimizer, False)  # nothing is made yet
    state.have(moved.optimizer)
    for scale, among_others in ((1.0, False), (-2.0, True), (0.5, True), (2.0, False), (-1.0, True)):
        moved.step(scale)
        left.step(scale)
        before = moved.places
        state.wait(moved.optimizer, among_others)
        assert len(moved.places) == 1
        assert (moved.places == before) == (scale == 0.5)
        assert same(moved, left)
    again = Run()
    again.optimizer.load_state_dict(moved.optimizer.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(again.tensors, moved.tensors, strict=True))


def test_while_others_have_their_turns_it_takes_no_memory() -> None:
    run, state, before = Run(), OptimizerState(), files()
    run.step(1.0)
    state.wait(run.optimizer, False)
    assert in_memory(run) > 8000
    assert files() == before
    for _ in range(2):
        state.wait(run.optimizer, True)
        assert in_memory(run) == 0
        assert files() == before + 1
        state.have(run.optimizer)
        assert in_memory(run) > 8000
        run.step(-1.0)
    state.wait(run.optimizer, False)
    assert in_memory(run) > 8000
    assert files() == before


def test_what_is_put_back_from_a_checkpoint_is_moved_again() -> None:
    run, state = Run(), OptimizerState()
    run.step(1.0)
    state.wait(run.optimizer, True)
    kept = copy.deepcopy(run.optimizer.state_dict())
    run.step(2.0)
    run.optimizer.load_state_dict(kept)
    state.wait(run.optimizer, True)
    assert in_memory(run) == 0
    assert torch.equal(run.tensors[1], kept["state"][0]["exp_avg"])


def test_a_disk_that_fills_up_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    run, left, state, before = Run(), Run(), OptimizerState(), files()
    run.step(1.0)
    left.step(1.0)
    state.wait(run.optimizer, True)
    assert files() == before + 1
    monkeypatch.setattr(aside, "_SPARE", 2**62)
    with monkeypatch.context() as short:
        short.setattr(aside.mmap, "mmap", no_room)  # and there is no memory for it at the moment
        state.wait(run.optimizer, True)
        assert files() == before + 1
    state.wait(run.optimizer, True)
    assert files() == before
    assert same(run, left)


def test_a_page_that_cannot_be_written_is_found_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    run, left, state, before = Run(), Run(), OptimizerState(), files()
    run.step(1.0)
    left.step(1.0)
    state.wait(run.optimizer, True)
    monkeypatch.setattr(aside, "_libc", FullDisk)
    state.have(run.optimizer)
    assert files() == before
    run.step(2.0)
    left.step(2.0)
    assert same(run, left)
    state.wait(run.optimizer, True)
    assert files() == before


class FullDisk:
    @staticmethod
    def madvise(*_: Any) -> int:
        ctypes.set_errno(errno.EFAULT)
        return -1


def test_where_no_file_can_be_made_it_lies_together_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    run, state, tried = Run(), OptimizerState(), []
    run.step(1.0)
    monkeypatch.setattr(aside.tempfile, "TemporaryFile", lambda **_: tried.append(1) or no_room())
    for _ in range(3):
        state.wait(run.optimizer, True)
    assert len(run.places) == 1
    assert len(tried) == 1


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_an_optimizer_that_makes_some_of_it_anew_is_not_copied_each_time() -> None:
    weight = torch.nn.Parameter(torch.ones(300, 200))
    optimizer, state, places = Adafactor([weight], lr=0.1, relative_step=False), OptimizerState(), []
    for _ in range(3):
        weight.grad = weight.detach() + 1
        optimizer.step()
        state.wait(optimizer, True)
        places.append([optimizer.state[weight][name].data_ptr() for name in ("exp_avg_sq_row", "exp_avg_sq_col")])
    assert places[0] == places[1] == places[2]


def test_its_file_goes_with_the_optimizer() -> None:
    before, run, state = files(), Run(), OptimizerState()
    run.step(1.0)
    state.wait(run.optimizer, True)
    del run, state
    gc.collect()
    assert files() == before


@pytest.mark.slow
def test_a_run_beside_others_has_it_on_disk_and_one_alone_in_memory(tune: Any, tiny_model: Path, rows: Any) -> None:
    before = files()
    race = jupyter_ft.race({"learning_rate": [1e-3, 2e-3]}, str(tiny_model), rows, "pair", max_steps=5000)
    for session in race:
        session.log.wait_for(lambda session=session: session.step >= 5, 60)
    assert files() == before + 2
    first, alone = race
    first.stop()
    first.wait(timeout=60)
    step = alone.step
    alone.log.wait_for(lambda: alone.step >= step + 3, 60)
    assert files() == before
    race.stop()
    race.wait(timeout=60)
