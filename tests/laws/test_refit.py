"""A fork of another rank begins with what its parent says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jupyter_ft.errors import RecipeError
from jupyter_ft.refit import refit
from jupyter_ft.weights import read_weights

from ._runs import finish


def _product(tensors: Any, name: str, scale: float) -> torch.Tensor:
    return scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]


def test_more_ranks_hold_the_same_product_and_fewer_the_nearest() -> None:
    draw = torch.Generator().manual_seed(3)
    stored = {
        "q.lora_A.weight": torch.randn(4, 12, generator=draw),
        "q.lora_B.weight": torch.randn(10, 4, generator=draw),
        "gone.lora_A.weight": torch.zeros(4, 12),
        "gone.lora_B.weight": torch.zeros(10, 4),
        "head.weight": torch.ones(2, 3),
    }
    wide = {"q.lora_A.weight": torch.randn(6, 12, generator=draw), "q.lora_B.weight": torch.zeros(10, 6)}
    more = refit(stored, wide, 0.5)
    assert more.keys() == {"q.lora_A.weight", "q.lora_B.weight", "head.weight"}
    assert torch.equal(_product(more, "q", 1.0), _product(stored, "q", 0.5))
    assert torch.equal(more["q.lora_A.weight"][4:], wide["q.lora_A.weight"][4:])  # they can learn
    narrow = {"q.lora_A.weight": torch.zeros(2, 12), "q.lora_B.weight": torch.zeros(10, 2)}
    fewer = _product(refit(stored, narrow, 1.0), "q", 1.0)
    values = torch.linalg.svdvals(_product(stored, "q", 1.0))
    left = torch.linalg.norm(_product(stored, "q", 1.0) - fewer)
    assert float(left) == pytest.approx(float(values[2:].square().sum().sqrt()), rel=1e-4)


def test_more_ranks_of_an_embedding_can_learn_too() -> None:
    draw = torch.Generator().manual_seed(3)
    down, up = "e.lora_embedding_A", "e.lora_embedding_B"
    stored = {down: torch.randn(2, 12, generator=draw), up: torch.randn(10, 2, generator=draw)}
    wide = {down: torch.zeros(3, 12), up: torch.randn(10, 3, generator=draw)}  # as PEFT begins it
    more = refit(stored, wide, 2.0)
    assert torch.allclose(more[up] @ more[down], 2.0 * stored[up] @ stored[down])
    assert torch.equal(more[up][:, 2], wide[up][:, 2])


@pytest.mark.slow
def test_a_fork_of_another_rank_or_with_other_layers_begins_with_what_its_parent_says(tune: Any) -> None:
    parent = tune("parent", max_steps=8, learning_rate=2e-2)
    finish(parent)
    question = "Where is order 3?"
    said = parent.chat(question, max_new_tokens=12)
    assert said != parent.chat(question, at="base", max_new_tokens=12)
    still = {"learning_rate": 1e-12, "max_steps": 2}
    wide = parent.fork("wide", **{"adapter.r": 8, **still})
    finish(wide)
    assert wide.chat(question, max_new_tokens=12) == said
    assert [
        text for text in (getattr(e, "text", "") for e in wide.events) if "adapter.r 4 → 8: the same product" in text
    ]
    began, held = (read_weights(run.run_folder.checkpoint(run.step)) for run in (parent, wide))
    for name in (name.removesuffix(".lora_A.weight") for name in began if name.endswith(".lora_A.weight")):
        alpha = parent.hyperparameters.alpha
        assert torch.allclose(_product(held, name, alpha / 8), _product(began, name, alpha / 4), atol=1e-6)
    assert {t.shape[0] for name, t in held.items() if "lora_A" in name} == {8}
    other = wide.fork("other", **{"adapter.kind": "rslora", **still})
    finish(other)
    assert other.chat(question, max_new_tokens=12) == said
    finish(parent.fork("narrow", **{"adapter.r": 1, "adapter.targets": ["q_proj", "v_proj"], **still}))
    with pytest.raises(RecipeError, match=r"adapter.kind = lora, so its weights do not fit"):
        parent.fork("whole", adapter="full")
    with pytest.raises(RecipeError, match=r"'adapter.r' is fixed once a run has started; %ft fork has it: adapter.r="):
        parent.set(**{"adapter.r": 8})
