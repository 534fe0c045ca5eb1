"""A session's losses equal the bare trainer's bit for bit, and the port touches nothing that is not listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.recipe import parse_recipe

from ._runs import bare_trainer, finish, hash_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulation", "adapter", "head"),
    [
        (1, {"r": 4}, "trl"),
        (3, {"r": 4}, "trl"),
        (2, {"r": 4, "dropout": 0.1}, "trl"),
        (2, "full", "trl"),
        (2, {"r": 4}, "auto"),
    ],
    ids=["plain", "accumulating", "dropout", "full", "head"],
)
def test_a_session_equals_the_bare_trainer(
    tune: Any,
    tiny_model: Path,
    rows: list[dict[str, str]],
    tmp_path: Path,
    accumulation: int,
    adapter: Any,
    head: str,
) -> None:
    """With TRL's loss head; with ours, the bare trainer has it too (`test_loss_head` compares the heads)."""
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    asked = {
        "epochs": 2,
        "accumulation": accumulation,
        "adapter": adapter,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "schedule": "cosine",
        "batch_size": 4,
        "dtype": "float32",
        "loss_head": head,
    }
    ours, our_hash = finish(tune(**asked))

    recipe = parse_recipe({"model": str(tiny_model), **asked})
    trainer = bare_trainer(tiny_model, rows, recipe, tmp_path / "bare")
    assert ("loss_head" in vars(trainer)) is (head == "auto")
    Streams.seeded(recipe.seed).put()
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert ours == logged
    assert our_hash == hash_of(trained_tensors(trainer.model))


def test_the_port_touches_only_what_is_listed(tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    from jupyter_ft.control.hooks import Hooks
    from jupyter_ft.control.inbox import Inbox
    from jupyter_ft.control.lease import Lease, Streams, Turn
    from jupyter_ft.control.port import PATCHED, Port
    from jupyter_ft.event_log import EventLog

    recipe = parse_recipe({"model": str(tiny_model), "dtype": "float32"})
    trainer = bare_trainer(tiny_model, rows, recipe, tmp_path / "t")

    def own() -> dict[str, Any]:
        mine = dict(vars(trainer)) | {f"accelerator.{k}": v for k, v in vars(trainer.accelerator).items()}
        return mine | {f"model.{k}": v for k, v in vars(trainer.model.get_base_model()).items()}

    def attach() -> Port:
        turn = Turn(Lease(), Streams.now(), draws=False)
        hooks = Hooks(publish=lambda step: None, save=lambda step: None)
        return Port(trainer, recipe.hyperparameters, log=EventLog(), inbox=Inbox(), turn=turn, hooks=hooks)

    before = own()
    port = attach()
    changed = {name for name, value in own().items() if name not in before or before[name] is not value}
    assert changed == set(PATCHED)
    with pytest.raises(RuntimeError, match="already has a session"):
        attach()
    port.detach()
    assert {name for name, value in own().items() if name not in before or before[name] is not value} == set()
