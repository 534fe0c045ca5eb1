"""Closing frees: no tensor, base, thread or open file of a run is left, however it ended and whatever a cell holds."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import jupyter_ft
from jupyter_ft.control.port import Port
from jupyter_ft.errors import TrainingFailed
from jupyter_ft.models import POOL


def _tensors() -> dict[int, int]:
    """The storages that Python objects hold, and their bytes."""
    gc.collect()
    found = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor) and not one.is_meta:
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def _files() -> Counter[str]:
    """What is open in this process, by the paths that the system tells; pipes and the like by their kind."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            found[os.readlink(f"/proc/self/fd/{number}").split(":[")[0]] += 1
        except OSError:  # that of the listing itself
            continue
    return found


def _threads() -> set[str]:
    """Ours that are alive. A thread is gone a moment after the last event of its run."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("jupyter-ft")]
    for thread in ours:
        if "chat" not in thread.name or not thread.is_alive():
            thread.join(5.0)
    return {thread.name for thread in ours if thread.is_alive()}


class Footprint:
    """What there was before, to be there after."""

    def __init__(self) -> None:
        self._tensors, self._files = _tensors(), _files()

    def more(self) -> list[str]:
        """What has come since."""
        files = [f"open: {path}" for path in _files() - self._files]
        return [*self.memory(), *files, *_threads()]

    def memory(self) -> list[str]:
        """What of that is memory."""
        bases = [f"the base {key}" for key in POOL.loaded()]  # first: it is to be gone without a collection of ours
        left = {at: size for at, size in _tensors().items() if at not in self._tensors}
        return [*bases, *([f"{len(left)} tensors of {sum(left.values())} bytes"] if left else [])]


@pytest.fixture
def shell() -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    yield shell
    shell.reset(new_session=False)
    sys.last_type = sys.last_value = sys.last_traceback = None


@pytest.fixture
def before(tune: Any, shell: Any) -> Footprint:
    """After a first run: what torch and the others keep for good is there."""
    shell.run_cell("1")
    first = tune("first", held_out=4, max_steps=1)
    first.wait(timeout=60)
    first.chat("Where is order 3?", max_new_tokens=2)
    first.close()
    return Footprint()


@pytest.mark.slow
def test_a_closed_run_and_a_closed_fork_leave_nothing(tune: Any, before: Footprint, shell: Any) -> None:
    session = tune("whole", held_out=4, max_steps=4)
    shell.user_ns["whole"] = session
    shell.run_cell("whole")
    shell.run_cell("whole.wait(timeout=60)")
    shell.run_cell("whole.chat('Where is order 3?', at='base', max_new_tokens=2)")
    fork = session.fork("child", max_steps=6)
    fork.wait(timeout=60)
    session.close()
    assert "the base" in before.memory()[0]  # the fork speaks over it
    fork.close()
    assert before.more() == []


def _targets(tune: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    return tune("failing", adapter={"kind": "lora", "targets": ["nothing"]})


def _crash(tune: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def explode(port: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"explode at step {port.step}")

    monkeypatch.setattr(Port, "on_step_end", explode)
    return tune("failing")


def _metric(tune: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def wrong(prompts: list[str], predictions: list[str], references: list[str]) -> float:
        raise LookupError("no such word")

    return tune("failing", held_out=4, max_steps=2, metrics=[wrong])


@pytest.mark.slow
@pytest.mark.parametrize("how", [_targets, _crash, _metric])
def test_a_run_that_fails_under_a_cell_leaves_nothing(
    tune: Any, before: Footprint, shell: Any, monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]
) -> None:
    shell.user_ns["start"] = lambda: how(tune, monkeypatch)
    shell.run_cell("failing = start()")
    told = shell.run_cell("failing.wait(timeout=60)").error_in_exec
    failed = shell.user_ns["failing"]
    assert isinstance(told, TrainingFailed) == (how is not _metric), told
    if how is _targets:
        assert before.memory() == []  # it is open, and nobody has spoken for it
    shell.run_cell("failing")
    failed.close()
    assert before.more() == []
    assert how is _metric or sys.last_value is told


class _Interrupting(list[dict[str, str]]):
    """Rows that a person loses patience with while they are read."""

    def __iter__(self) -> Iterator[dict[str, str]]:
        for at in range(len(self)):
            if at == 20:
                raise KeyboardInterrupt
            yield self[at]


def test_a_start_that_is_interrupted_leaves_nothing(
    tune: Any, before: Footprint, shell: Any, rows: list[dict[str, str]], runs: Any
) -> None:
    shell.user_ns |= {"start": tune, "rows": _Interrupting(rows)}
    told = shell.run_cell("start('broken', data=rows)").error_in_exec
    assert isinstance(told, KeyboardInterrupt)
    assert not jupyter_ft.sessions
    assert not (runs / "broken").exists()
    assert before.more() == []


@pytest.mark.slow
def test_a_closed_race_and_what_waits_for_it_leave_nothing(
    tiny_model: Any, rows: Any, tune: Any, before: Footprint
) -> None:
    jupyter_ft.queue.at_once = 3
    try:
        race = jupyter_ft.race(
            {"adapter.r": [2, 4, 8]}, str(tiny_model), rows, "grid", dtype="float32", epochs=50, batch_size=4
        )
        race.wait(step=2, timeout=60)
        waits = tune("late")
        assert waits.log.wait_for(lambda: "late" in jupyter_ft.queue, 60)
        waits.close()
        assert (waits.state, waits.said) == ("stopped", "stopped while it was queued")
        race[0].stop()
        race.close()
    finally:
        jupyter_ft.queue.at_once = None
    assert len(jupyter_ft.queue) == 0
    assert before.more() == []


def test_memory_given_back_is_the_adapters_beside_others_and_the_bases_alone(tune: Any, before: Footprint) -> None:
    one, other = tune("one", epochs=50), tune("other", epochs=50)
    for session in (one, other):
        session.wait(step=2, timeout=60)
        session.pause().wait(60)
    both = _tensors()
    one.pause(free_memory=True).wait(60)
    held = _tensors()
    base = sum(POOL.loaded().values())
    assert base
    assert base < sum(held.values()) < sum(both.values())
    other.pause(free_memory=True).wait(60)
    assert before.memory() == []
    assert one.resume().wait(60) == one.step
    one.close()
    other.close()
    assert before.more() == []


@pytest.mark.slow
def test_a_closed_session_lets_go_of_a_trainer_that_was_attached(build: Any, before: Footprint) -> None:
    trainer = build(num_train_epochs=0.2)
    gone = weakref.ref(trainer), weakref.ref(trainer.model)
    session = jupyter_ft.attach(trainer, name="mine")
    trainer.train()
    session.close()
    del trainer
    gc.collect()
    assert [type(one()).__name__ for one in gone if one() is not None] == []
    assert before.more() == []
