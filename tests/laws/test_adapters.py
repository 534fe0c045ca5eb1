"""rsLoRA and DoRA: the laws of an adapter hold at their scale, and with their lengths."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft import runs

from ._runs import finish, spoken

QUESTION = "Where is order 3?"
KINDS = ["rslora", "dora"]


def adapter(kind: str) -> dict[str, Any]:
    return {"adapter": {"kind": kind, "r": 4, "alpha": 8}, "learning_rate": 3e-3 if kind == "rslora" else 1e-2}


def by_peft(folder: Path, model: Path, **more: Any) -> Any:
    """The adapter in `folder` over its base, loaded by PEFT and transformers alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, **more)
    return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_is_what_peft_says_with_the_adapter_of_its_step(
    tune: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(runs, "KEEP", 10**6)
    session = tune(epochs=3, checkpoint_steps=9, **adapter(kind))
    session.set(step=12, alpha=16).wait(60)
    session.wait(timeout=120)
    live = session.chat(QUESTION, max_new_tokens=30)
    assert live == spoken(by_peft(session.run_folder.adapter, tiny_model), QUESTION, 30)
    base = session.chat(QUESTION, at="base", max_new_tokens=30)
    folders = {step: session.run_folder.checkpoint(step) for step in (9, 18)}
    told = {step: session.chat(QUESTION, at=step, max_new_tokens=30) for step in folders}
    assert told == {step: spoken(by_peft(folder, tiny_model), QUESTION, 30) for step, folder in folders.items()}
    assert len({live, base, *told.values()}) >= 3  # else this proves little


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_equals_never_stopped_with_alpha_and_dropout_changed(tune: Any, kind: str) -> None:
    def changed(name: str) -> Any:
        session = tune(name, epochs=2, **adapter(kind))
        session.set(step=5, alpha=24, dropout=0.1).wait(60)
        return session

    whole = finish(changed("whole"))
    session = changed("parted")
    session.ask([{"role": "user", "content": QUESTION}], max_new_tokens=20)
    session.wait(step=9, timeout=60)
    session.stop().wait(60)
    session.wait_until_over(60)
    session.resume().wait(60)
    assert finish(session) == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_on_the_embedding_is_visited_resumed_and_gone_on_with(
    tune: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked = {"adapter": {"kind": kind, "r": 4, "targets": ["embed_tokens", "q_proj"]}, "learning_rate": 5e-3}
    monkeypatch.setattr(runs, "KEEP", 10**6)
    session = tune("whole", checkpoint_steps=2, **asked)
    whole = finish(session)
    folder = session.run_folder.checkpoint(2)
    told = {at: session.chat(QUESTION, at=at, max_new_tokens=20) for at in ("base", 2, "live")}
    assert told[2] == spoken(by_peft(folder, tiny_model), QUESTION, 20)
    assert len(set(told.values())) == 3  # else this proves little
    parted = tune("parted", checkpoint_steps=2, **asked)
    parted.wait(step=2, timeout=60)
    parted.stop().wait(60)
    parted.wait_until_over(60)
    parted.resume().wait(60)
    assert finish(parted) == whole
    still = {"learning_rate": 1e-12, "max_steps": 1}
    more = tune("more", **still, start_from="whole@2", adapter={**asked["adapter"], "r": 6})
    finish(more)
    assert more.chat(QUESTION, max_new_tokens=20) == told[2]


@pytest.mark.parametrize(("kind", "scale"), [("lora", 24 / 4), ("rslora", 24 / math.sqrt(4)), ("dora", 24 / 4)])
def test_alpha_is_live_at_the_scale_of_its_kind(tiny_model: Path, kind: str, scale: float) -> None:
    from jupyter_ft.models import POOL, with_adapter
    from jupyter_ft.recipe import parse_recipe
    from jupyter_ft.weights import lora_layers, set_alpha

    base = POOL.get(str(tiny_model), revision=None, dtype="float32", report=lambda *_: None)
    fresh, edited = (
        with_adapter(base.shell(), parse_recipe({"adapter": {"kind": kind, "r": 4, "alpha": a}})) for a in (24, 8)
    )
    set_alpha(edited, 24)
    for model in (fresh, edited):
        assert {layer.scaling["default"] for layer in lora_layers(model)} == {scale}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_begins_where_its_parent_ended(tune: Any, kind: str) -> None:
    import jupyter_ft

    from .test_methods import PAIRS

    parent = tune("parent", epochs=2, **adapter(kind))
    finish(parent)
    child = jupyter_ft.finetune(data=PAIRS, name="child", start_from="parent", method="dpo", batch_size=4)
    losses, _ = finish(child)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # the policy is its own reference at the first step
    assert losses[-1] < losses[0]
    assert (child.recipe.adapter.kind, child.recipe.hyperparameters.alpha) == (kind, 8)
    assert child.chat(QUESTION, max_new_tokens=5).step == child.total_steps


@pytest.mark.slow
def test_the_length_of_each_row_is_learnt_and_published(tune: Any) -> None:
    """Without the vectors a reply would be that of LoRA: the twin has them from the run, and they have moved."""
    import torch

    from jupyter_ft.weights import read_weights

    session = tune(epochs=1, checkpoint_steps=9, **adapter("dora"))
    finish(session)
    first, last = (read_weights(session.run_folder.checkpoint(step)) for step in (9, session.step))
    lengths = [name for name in last if "lora_magnitude_vector" in name]
    assert len(lengths) == 2 * 7  # layers, linear ones in each
    assert all(not torch.equal(first[name], last[name]) for name in lengths)
