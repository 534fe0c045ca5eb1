"""A loss that is not finite is shown as it is, and is kept from the weights and from the optimizer."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ._runs import finish

POISON = "§"


@pytest.fixture
def poisoned(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, in which one character has no finite embedding: a row that holds it has no finite loss."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_model, tmp_path / "poisoned"))
    weights = load_file(folder / "model.safetensors")
    token = AutoTokenizer.from_pretrained(folder).encode(POISON)[-1]
    weights["model.embed_tokens.weight"][token] = torch.inf
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def _run(model: Path, rows: list[dict[str, str]], name: str, **more: Any) -> Any:
    import jupyter_ft

    asked = {"learning_rate": 5e-3, "batch_size": 4, "dtype": "float32", "schedule": "constant", "weight_decay": 0.1}
    return jupyter_ft.finetune(str(model), rows, name, adapter={"kind": "lora", "r": 4}, **(asked | more))


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing(poisoned: Path, rows: list[Any], accumulation: int) -> None:
    rows[3] = {"prompt": f"Where is {POISON}?", "completion": "Lost."}
    session = _run(poisoned, rows, "whole", epochs=2, accumulation=accumulation)
    losses, _ = finish(session)
    refused = [event for event in session.events if event.kind == "step-refused"]
    assert len(refused) == 2  # the row comes once an epoch
    assert [math.isnan(event.loss) for event in refused] == [True, True]
    assert [step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)] == [e.step for e in refused]

    at = refused[0].step
    assert at > 1
    geometry = {"accumulation": accumulation}
    before = finish(_run(poisoned, rows, "before", max_steps=at - 1, **geometry))
    after = finish(_run(poisoned, rows, "after", max_steps=at, **geometry))
    assert before[1] == after[1]
    assert losses[at] == finish(_run(poisoned, rows, "next", max_steps=at + 1, **geometry))[0][at]
    result = load_file(session.folder / "adapter" / "adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


@pytest.mark.slow
def test_three_bad_steps_pause_the_run_with_the_rows_behind_them(poisoned: Path, rows: list[Any]) -> None:
    import jupyter_ft

    bad = [3, 17, 30]
    for row in bad:
        rows[row - 1] = {"prompt": f"Where is {POISON}?", "completion": "Lost."}
    session = _run(poisoned, rows, "whole", batch_size=2, checkpoint_steps=2)
    with pytest.raises(jupyter_ft.errors.TrainingFailed, match=r"paused by itself at step .* were not finite"):
        session.wait(timeout=60)
    assert (session.state, session.health.level) == ("paused", "red")
    health = [event for event in session.events if event.kind == "health"]
    assert [event.level for event in health] == ["amber", "amber", "red"]
    refused = [event for event in session.events if event.kind == "step-refused"]
    assert [event.rows for event in health] == [event.rows for event in refused]
    assert sorted(row for event in refused for row in event.rows if row in bad) == bad
    at = session.step
    assert at == refused[-1].step < session.total_steps
    session.resume()
    session.wait(timeout=60)
    assert (session.state, session.health.level) == ("finished", "green")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{}, {"packing": True}, {"held_out": 0.3}, {"packing": True, "held_out": 0.3}])
def test_the_rows_behind_a_refused_step_are_the_users(poisoned: Path, rows: list[Any], asked: dict[str, Any]) -> None:
    """Also where rows are left out, held out or packed."""
    rows[6] = {"prompt": "x" * 600, "completion": "left out"}
    rows[30] = {"prompt": f"Where is {POISON}?", "completion": "Lost."}
    session = _run(poisoned, rows, "numbers", batch_size=1, epochs=2, max_length=400, **asked)
    session.wait(timeout=120)
    refused = [event for event in session.events if event.kind == "step-refused"]
    amber = [event for event in session.events if event.kind == "health" and event.rows]
    assert len(refused) == 2  # it comes once an epoch
    together = range(2, 20) if "packing" in asked else [1]
    assert all(31 in event.rows and len(event.rows) in together for event in [*refused, *amber])
    assert amber
    ready = next(event for event in session.events if event.kind == "data")
    assert "1 row left out (row 7: its answer begins beyond max_length 400" in ready.said


@pytest.mark.slow
def test_a_learning_rate_that_breaks_the_run_is_stopped_by_the_watch(
    tiny_model: Path, tmp_path: Path, rows: list[Any]
) -> None:
    import jupyter_ft

    folder = Path(shutil.copytree(tiny_model, tmp_path / "loud"))  # a random model is unsure of all: none to unlearn
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 20
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    session = _run(folder, rows, "broken", epochs=3, weight_decay=0.0, checkpoint_steps=2)
    session.set(step=15, learning_rate=1.0)
    with pytest.raises(jupyter_ft.errors.TrainingFailed, match="paused by itself at step 20: the loss diverges"):
        session.wait(timeout=60)
    red = session.health
    assert (red.level, red.step, session.state, session.step) == ("red", 20, "paused", 20)
    assert len(red.rows) == 4
    assert session.steps[-1] == 14  # the weights of step 15 are the first that are spoiled
    assert red.advice[0].command == {"kind": "set", "changes": {"learning_rate": 0.5}}
    session.set(**red.advice[0].command["changes"])
    session.resume()
    session.wait(step=21, timeout=60)
    assert session.metrics["learning_rate"][21] == 0.5
    session.stop()


@pytest.mark.slow
def test_healthy_runs_are_not_alarmed(tune: Any) -> None:
    for seed, more in enumerate(({}, {"batch_size": 1}, {"warmup_steps": 5, "schedule": "cosine", "epochs": 4})):
        session = tune(f"well-{seed}", seed=seed, **more)
        session.wait(timeout=60)
        assert [event for event in session.events if event.kind == "health"] == []
        assert session.health.level == "green"
