"""What is taken home loads without this package, and answers as the run does; what does not is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import ExportError

from ._runs import finish, spoken
from .test_scoring import CLASSIFY, REWARD

QUESTION = "Where is order 3?"


def by_peft(folder: Path) -> Any:
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder).eval()


def by_transformers(folder: Path, auto: str = "AutoModelForCausalLM") -> Any:
    import transformers

    return getattr(transformers, auto).from_pretrained(folder).eval()


def test_an_adapter_and_a_merged_model_answer_as_the_run_at_their_step(tune: Any, tmp_path: Path) -> None:
    session = tune(epochs=3, checkpoint_steps=9, snapshot_steps=9, learning_rate=1e-2, system="Be brief.")
    finish(session)
    said = {at: session.chat(QUESTION, at=at, max_new_tokens=30) for at in (9, "live", "base")}
    assert len(set(said.values())) == 3  # else this proves little
    adapter, merged = session.export(), session.export(tmp_path / "whole", at=9, format="merged")
    for done, step in ((adapter, session.step), (merged, 9)):
        assert (done.step, done.check.whole, done.check.of) == (step, True, 3)
        assert done.check.largest < 1e-4
        assert "3 of 3 answers the same" in done.said[1]
    whole = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert adapter.folder.is_relative_to(session.folder / "exports")
    assert answered(by_peft(adapter.folder), adapter.folder, whole) == said["live"]
    assert answered(by_transformers(merged.folder), merged.folder, whole) == said[9]
    assert not (merged.folder / "adapter_config.json").exists()
    hidden = [file for folder in (adapter, merged) for file in Path(folder).parent.glob(".*")]
    assert not hidden


def answered(model: Any, folder: Path, messages: list[dict[str, str]], tokens: int = 30) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
