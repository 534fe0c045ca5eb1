"""The thread that computes the steps of all runs does it as the thread that asks would, and holds nothing of them."""

from __future__ import annotations

import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import PartialState

import jupyter_ft
from jupyter_ft.capture import captured
from jupyter_ft.control import accelerated
from jupyter_ft.control.accelerated import own_state
from jupyter_ft.control.computing import COMPUTING, Computing


def test_what_it_prints_belongs_to_who_asks(capsys: Any) -> None:
    def work() -> None:
        sys.stdout.write("in the step\nwithout an end")
        sys.stderr.write("a warning of the step\n")

    lines: list[tuple[str, str]] = []
    with captured(lambda level, line: lines.append((level, line))):
        COMPUTING.do(work)
        COMPUTING.do(lambda: sys.stdout.write(", ended later\n"))
    assert [line for level, line in lines if level == "out"] == ["in the step", "without an end, ended later"]
    assert ("warning", "a warning of the step") in lines
    COMPUTING.do(lambda: sys.stdout.write("of nobody\n"))
    assert capsys.readouterr().out == "of nobody\n"


def test_accelerates_state_is_that_of_who_asks() -> None:
    users = PartialState._shared_state
    with own_state():
        mine = PartialState._shared_state
        assert COMPUTING.do(lambda: PartialState._shared_state) is mine is not users
        theirs: list[Any] = []
        other = threading.Thread(target=lambda: theirs.append(COMPUTING.do(lambda: PartialState._shared_state)))
        other.start()
        other.join()
        assert theirs[0] is not mine
    assert PartialState._shared_state is users


def test_it_computes_with_as_many_threads_as_who_asks() -> None:
    computing, before = Computing(), torch.get_num_threads()
    assert computing.do(torch.get_num_threads) == before
    try:
        torch.set_num_threads(before + 3)
        assert computing.do(torch.get_num_threads) == before + 3
    finally:
        torch.set_num_threads(before)
    assert computing.do(torch.get_num_threads) == before


def test_nothing_of_a_call_is_held() -> None:
    class Large:
        pass

    def fails(large: Large) -> None:
        raise ValueError("too large")

    large = Large()
    seen = weakref.ref(large)
    assert COMPUTING.do(lambda large=large: large) is large
    with pytest.raises(ValueError, match="too large"):
        COMPUTING.do(lambda large=large: fails(large))
    del large
    assert seen() is None  # at once, not when rubbish is collected


def test_it_ends_with_the_last_run_and_begins_again() -> None:
    computing = Computing()
    with computing.among():
        with computing.among():
            first = computing.do(threading.current_thread)
        assert computing.do(threading.current_thread) is first
    first.join(20)
    assert not first.is_alive()
    with computing.among():
        second = computing.do(threading.current_thread)
    assert second is not first
    second.join(20)
    assert not second.is_alive()


def test_what_fails_around_a_call_is_raised_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise MemoryError("no room for a context")

    computing = Computing()
    with computing.among():
        with monkeypatch.context() as broken:
            broken.setattr(accelerated, "under", no_room)
            broken.setattr(accelerated, "here", list)
            with pytest.raises(MemoryError, match="no room for a context"):
                computing.do(lambda: 1)
        with monkeypatch.context() as broken:
            broken.setattr(threading.Thread, "start", no_room)
            with pytest.raises(MemoryError):
                Computing().do(lambda: 1)
        assert computing.do(lambda: 2) == 2


@pytest.mark.slow
def test_the_steps_of_all_runs_are_computed_in_one_thread(tune: Any, tiny_model: Path, rows: Any) -> None:
    seen: set[str] = set()

    def note(*_: Any) -> None:
        if torch.is_grad_enabled():
            seen.add(threading.current_thread().name)

    watching = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        race = jupyter_ft.race(
            {"learning_rate": [1e-3, 2e-3, 3e-3]}, str(tiny_model), rows, "grid", max_steps=3, batch_size=4
        )
        race.wait(timeout=60)
    finally:
        watching.remove()
    assert seen == {"jupyter-ft steps"}
