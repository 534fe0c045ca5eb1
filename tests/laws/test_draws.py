"""What is drawn from the global generators beside a run is drawn in a turn of its own, or the run's draws would differ.

`torch.random.fork_rng` alone puts the state back under whatever has drawn meanwhile on another thread.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.recipe import parse_recipe


def _waits_for_its_turn(work: Callable[[], Any]) -> bool:
    """Whether `work()`, on a thread of its own, waits while a run is in the middle of a step."""
    from jupyter_ft.control.lease import LEASE

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    with LEASE:
        thread.start()
        while thread.is_alive() and not LEASE.wanted:
            thread.join(0.01)
        waits = LEASE.wanted
    thread.join()
    assert found  # it did its work in the end
    return waits


def _drawn_by(work: Callable[[], Any]) -> list[str]:
    """The operations that draw random numbers in `work()`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    drawn: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.Tag.nondeterministic_seeded in func.tags and not args[0].is_meta:  # there, nothing is drawn
                drawn.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        work()
    return drawn


@pytest.fixture
def old_files(tiny_bert: Path, tmp_path: Path) -> Path:
    """An encoder in a file that transformers has to read: what it lacks of a classifier is drawn."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "old"
    shutil.copytree(tiny_bert, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def _base(folder: Path, **recipe: Any) -> Any:
    from jupyter_ft.launch.voices import base_of

    return base_of(parse_recipe({"model": str(folder), "dtype": "float32", **recipe}), lambda *_: None)


def test_a_base_whose_files_lack_weights_is_built_in_a_turn_of_its_own(old_files: Path) -> None:
    import torch

    before = torch.get_rng_state()
    assert _drawn_by(lambda: _base(old_files))
    assert torch.equal(torch.get_rng_state(), before)
    assert _waits_for_its_turn(lambda: _base(old_files))


def test_a_base_that_waits_for_its_turn_keeps_nobody_from_the_pool(old_files: Path, tmp_path: Path) -> None:
    """Who has the turn may ask it: a callback that starts another run does."""
    from jupyter_ft.control.lease import LEASE
    from jupyter_ft.models import POOL

    builds = threading.Thread(target=lambda: _base(old_files))
    asks = threading.Thread(target=lambda: POOL.files_of(tmp_path), daemon=True)
    with LEASE:
        builds.start()
        while not LEASE.wanted:
            builds.join(0.01)
        asks.start()
        asks.join(20)
        assert not asks.is_alive()
    builds.join()


@pytest.mark.parametrize("method", ["cpt", "classification"])
def test_voices_between_two_steps_draw_in_a_turn_of_their_own_and_never_again(
    method: str, tiny_bert: Path, tmp_path: Path
) -> None:
    from jupyter_ft.launch.voices import judging_of, voices_of_all_weights
    from jupyter_ft.runs import RunFolder

    recipe = parse_recipe(
        {"model": str(tiny_bert), "dtype": "float32", "method": method, "adapter": "full", "max_length": 32}
    )
    base = _base(tiny_bert)
    judging = judging_of(base, recipe, ("even", "odd") if method == "classification" else ())
    made: list[Any] = []

    def make() -> bool:
        folder = RunFolder(tmp_path)
        made.append(voices_of_all_weights(base, recipe, "labelled", folder, lambda: None, judging=judging, room=1))
        return True

    assert _waits_for_its_turn(make)
    assert made[0].waits
    assert not _drawn_by(made[0].new_past)
