"""An edit that is said to apply at step N applies at step N, and rows are used once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.messages import Applied, Set
from jupyter_ft.recipe import parse_recipe

from ._runs import bare_trainer

EDITS: list[tuple[int, dict[str, Any]]] = [
    (3, {"learning_rate": 1e-3}),
    (9, {"batch_size": 2}),
    (20, {"batch_size": 8, "accumulation": 2, "weight_decay": 0.1}),
    (24, {"accumulation": 3, "batch_size": 3, "schedule": "cosine", "max_grad_norm": 0.3}),
    (26, {"learning_rate": 2.5e-3}),
]


def test_the_optimizer_uses_the_rate_at_the_step_that_was_acknowledged(tune: Any) -> None:
    session = tune(epochs=3, warmup_steps=5)
    receipts = {step: session.set(step=step, learning_rate=rate) for step, rate in ((2, 3e-4), (9, 1e-3), (30, 7e-4))}
    now = session.set(learning_rate=1.234e-3)
    session.wait(timeout=120)
    rates = session.metrics["learning_rate"]
    used = {step: receipt.wait() for step, receipt in receipts.items()}
    assert used == {2: 2, 9: 9, 30: 30}
    assert [rates[2], rates[9], rates[30]] == [3e-4, 1e-3, 7e-4]
    assert rates[now.wait()] == 1.234e-3
    assert rates[31] < rates[30]  # the rest of the schedule goes on falling from there


@pytest.mark.slow
def test_every_row_of_an_epoch_is_used_once(tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    from jupyter_ft.control.hooks import Hooks
    from jupyter_ft.control.inbox import Inbox
    from jupyter_ft.control.lease import Lease, Streams, Turn
    from jupyter_ft.control.port import Port
    from jupyter_ft.event_log import EventLog

    recipe = parse_recipe({"model": str(tiny_model), "dtype": "float32", "batch_size": 4, "epochs": 3})
    trainer = bare_trainer(tiny_model, rows, recipe, tmp_path)
    whole = {tuple(row["input_ids"]): index for index, row in enumerate(trainer.train_dataset)}
    seen: list[int] = []
    original = trainer.training_step

    def recorded(model: Any, inputs: dict[str, Any], items: Any = None) -> Any:
        for ids, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
            seen.append(whole[tuple(ids[: sum(mask)])])
        return original(model, inputs, items)

    trainer.training_step = recorded  # before the port takes it over: this is what really reaches the model
    inbox, log = Inbox(), EventLog()
    for step, changes in EDITS:
        inbox.put(Set(step=step, changes=changes))
    turn = Turn(Lease(), Streams.now(), draws=False)
    hooks = Hooks(publish=lambda step: None, save=lambda step: None)
    Port(trainer, recipe.hyperparameters, log=log, inbox=inbox, turn=turn, hooks=hooks)
    turn.take()
    trainer.train()
    turn.give()
    assert sum(isinstance(event, Applied) for event in log.read()[0].events) == len(EDITS)
    assert len(seen) == 3 * len(rows)
    for epoch in range(3):
        uses = Counter(seen[epoch * len(rows) : (epoch + 1) * len(rows)])
        assert set(uses.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"max_steps": 1}, "steps long"),
        ({"warmup_steps": 50}, "warm-up is over"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_with_the_reason(tune: Any, changes: dict[str, Any], why: str) -> None:
    session = tune(epochs=3)
    session.wait(step=4, timeout=60)
    with pytest.raises(jupyter_ft.errors.Refused, match=why):
        session.set(**changes).wait(30)
    with pytest.raises(jupyter_ft.errors.Refused, match="has passed"):
        session.set(step=2, learning_rate=1e-4).wait(30)
    with pytest.raises(jupyter_ft.errors.RecipeError, match="fixed once a run has started"):
        session.set(max_length=64)


@pytest.mark.slow
def test_more_epochs_and_steps_are_run_and_fewer_end_it(tune: Any) -> None:
    longer = tune("longer", epochs=1)
    longer.set(step=2, epochs=2)
    longer.wait(timeout=60)
    assert longer.step == longer.total_steps == 26
    assert longer.metrics["learning_rate"][26] < longer.metrics["learning_rate"][3]
    shorter = tune("shorter", epochs=3)
    shorter.set(step=2, max_steps=7)
    shorter.wait(timeout=60)
    assert shorter.step == shorter.total_steps == 7


@pytest.mark.slow
def test_checkpoints_come_every_tenth_of_a_run_unless_asked_otherwise(tune: Any) -> None:
    session = tune("tenths", max_steps=20)
    session.wait(timeout=60)
    saved = [event.step for event in session.events if event.kind == "checkpoint"]
    assert saved == list(range(2, 21, 2))


@pytest.mark.slow
def test_numbers_of_numpy_are_numbers(tune: Any) -> None:
    import numpy as np

    session = tune("numpy", max_steps=np.int64(6), learning_rate=np.float32(1e-3))
    session.set(learning_rate=np.float64(1e-4), batch_size=np.int64(2)).wait(60)
    with pytest.raises(jupyter_ft.errors.RecipeError, match="step"):
        session.set(learning_rate=1e-4, step="x")
    with pytest.raises(jupyter_ft.errors.RecipeError, match="same setting"):
        session.set(lr=1e-4, learning_rate=1e-3)
    session.wait(timeout=60)
    assert session.hyperparameters.batch_size == 2
