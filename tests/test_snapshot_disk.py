"""The disk that snapshots may take: what goes when there is no room, and what never does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.event_log import EventLog
from jupyter_ft.launch import snapshots as room
from jupyter_ft.launch.snapshots import Snapshots
from jupyter_ft.runs import RunFolder
from jupyter_ft.weights import trained_tensors


@pytest.fixture
def model() -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    made = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    )
    return get_peft_model(made, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))


def kept(path: Path, model: Any, budget: int, pinned: int | None = None) -> tuple[RunFolder, list[str]]:
    """The folder after one snapshot at each of 20 steps, and what was said."""
    path.mkdir()
    folder, log = RunFolder(path), EventLog()
    snapshots = Snapshots(folder, log, budget)
    for step in range(1, 21):
        pins = {pinned} if pinned is not None and pinned <= step else set()
        snapshots.if_due(step, 1, model, trained_tensors(model), pinned=pins, place=lambda: "{}")
        snapshots.finish()
    assert folder.snapshot_bytes() <= budget
    return folder, [event.text for event in log.history() if event.kind == "log"]


def test_what_is_on_the_disk_counts_not_the_tensors_alone(tmp_path: Path, model: Any) -> None:
    one = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    folder, said = kept(tmp_path / "run", model, 6 * one)  # of the tensors six, of the files fewer
    assert 1 < len(folder.snapshots()) < 6
    assert folder.snapshots()[-1] == 20
    assert said == []


def test_where_one_fits_it_is_the_newest(tmp_path: Path, model: Any) -> None:
    probe, _ = kept(tmp_path / "probe", model, 10**9)
    one = probe.snapshot_bytes() / len(probe.snapshots())
    folder, said = kept(tmp_path / "run", model, int(1.5 * one))
    assert folder.snapshots() == [20]
    assert said == []


def test_the_pinned_one_stays_though_nothing_else_fits(tmp_path: Path, model: Any) -> None:
    probe, _ = kept(tmp_path / "probe", model, 10**9)
    budget = int(1.5 * probe.snapshot_bytes() / len(probe.snapshots()))
    folder, said = kept(tmp_path / "run", model, budget, pinned=3)
    assert folder.snapshots() == [3]
    most = f"{budget / 1e6:.3g} MB"
    assert said == [
        f"no snapshot of step 4: step 3 is kept and leaves no room in disk_budget, {most}; give more in the recipe"
    ]


@pytest.mark.parametrize("fit", [2, 3])
def test_beside_a_pinned_one_the_newest_is_kept_where_two_or_three_fit(fit: int, tmp_path: Path, model: Any) -> None:
    probe, _ = kept(tmp_path / "probe", model, 10**9)
    budget = int((fit + 0.5) * probe.snapshot_bytes() / len(probe.snapshots()))
    for pinned in (3, 4):
        folder, said = kept(tmp_path / f"run-{pinned}", model, budget, pinned=pinned)
        assert {pinned, 20} <= set(folder.snapshots())
        assert said == []


def test_of_many_the_pinned_one_is_thinned_around(tmp_path: Path, model: Any) -> None:
    one = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    for pinned in (3, 4):
        folder, _ = kept(tmp_path / f"run-{pinned}", model, 6 * one, pinned=pinned)
        assert pinned in folder.snapshots()
        assert folder.snapshots()[-1] == 20


class SlowDisk(RunFolder):
    """Nothing is written before `quick` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.quick = threading.Event()

    def keep(self, *args: Any) -> int:
        self.quick.wait(30)
        return super().keep(*args)


@pytest.mark.parametrize(("room_for", "written"), [(3.5, [1, 2, 3, 20]), (0.5, [1, 20])])
def test_copies_wait_for_a_slow_disk_while_they_are_few(
    room_for: float, written: list[int], tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    monkeypatch.setattr(room, "WAITING", int(room_for * one))
    folder = SlowDisk(tmp_path)
    snapshots = Snapshots(folder, EventLog(), 10**9)
    for step in range(1, 20):
        snapshots.if_due(step, 1, model, trained_tensors(model), pinned=(), place=lambda: "{}")
    folder.quick.set()
    snapshots.finish()
    snapshots.if_due(20, 1, model, trained_tensors(model), pinned=(), place=lambda: "{}")
    snapshots.finish()
    assert folder.snapshots() == written
