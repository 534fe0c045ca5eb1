"""Full weights: the same laws as an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import RecipeError

from ._runs import finish, replies

FULL = {"adapter": "full", "learning_rate": 2e-3, "epochs": 3}


@pytest.mark.slow
def test_stopped_and_resumed_equals_never_stopped_and_chat_touches_nothing(tune: Any) -> None:
    whole = finish(tune("whole", **FULL))
    session = tune("parted", **FULL)
    for number in range(4):
        session.ask([{"role": "user", "content": f"Hello {number}"}], max_new_tokens=30, temperature=1.0)
    session.wait(step=12, timeout=60)
    session.pause().wait(60)
    while_paused = session.chat("Where is order 3?", max_new_tokens=10)
    assert while_paused.step == session.step
    session.stop().wait(60)
    session.wait_until_over()
    session.resume().wait(60)
    assert finish(session) == whole
    assert len(replies(session)) == 5
    assert session.chat("Where is order 3?", max_new_tokens=10).step == session.total_steps


@pytest.mark.slow
def test_the_result_is_loaded_by_transformers_and_says_the_same(tune: Any, tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    session = tune(**FULL)
    session.wait(timeout=120)
    ours = session.chat("Where is order 3?", max_new_tokens=30)
    model = AutoModelForCausalLM.from_pretrained(session.run_folder.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(session.run_folder.model)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is order 3?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    out = model.generate(**prompt, max_new_tokens=30, do_sample=False)
    assert ours == tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert ours != session.chat("Where is order 3?", at="base", max_new_tokens=30)
    with pytest.raises(RecipeError, match="belong to a LoRA adapter"):
        jupyter_ft.finetune(str(tiny_model), [{"prompt": "a", "completion": "b"}], adapter="full", dropout=0.1)


@pytest.mark.slow
def test_an_adapters_settings_are_refused(tune: Any) -> None:
    session = tune(**FULL)
    refused = session.submit(jupyter_ft.messages.Set(changes={"alpha": 2}))
    assert session.log.wait_for(lambda: refused.answer is not None, 60)
    assert "this run trains every weight" in refused.answer.reason
