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
