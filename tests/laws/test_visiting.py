"""A question to a checkpoint is answered by its weights, alpha included, while training goes on or is over."""

from __future__ import annotations

from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import AddressError

QUESTION = [{"role": "user", "content": "Where is order 3?"}]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"r": 4}, "full"])
def test_each_column_is_spoken_by_its_step(tune: Any, monkeypatch: pytest.MonkeyPatch, adapter: Any) -> None:
    from jupyter_ft import runs
    from jupyter_ft.launch.voices import voices_of

    monkeypatch.setattr(runs, "KEEP", 10**6)
    rate = 3e-2 if isinstance(adapter, dict) else 3e-3
    session = tune(epochs=4, checkpoint_steps=4, learning_rate=rate, adapter=adapter)
    if isinstance(adapter, dict):
        session.set(step=10, alpha=8)
    session.wait(step=13, timeout=60)
    asked = [4, 12, "base", 8, 4]
    receipts = [session.ask(QUESTION, at=at, max_new_tokens=40) for at in asked]
    told = [receipt.wait(60) for receipt in receipts]
    session.wait(timeout=120)
    told = {(e.at, e.step): e.text for e in session.events if e.kind == "reply"}
    assert set(told) == {("4", 4), ("12", 12), ("base", 0), ("8", 8)}

    def idle(step: int, at: str = "live") -> str:
        from jupyter_ft.data import chat_ids
        from jupyter_ft.sampling.generate import Manner, speak

        twin = voices_of(session.run_folder, step, session.recipe, "prompt-completion", session.log)
        model, _ = twin.voice(at)
        return speak(model, twin.tokenizer, chat_ids(twin.tokenizer, QUESTION), Manner(max_new_tokens=40)).text

    assert told == {("base", 0): idle(4, "base")} | {(str(step), step): idle(step) for step in (4, 8, 12)}
    assert len(set(told.values())) >= 3  # else this proves little


@pytest.mark.slow
def test_a_comparison_is_the_replies_of_each_step_made_harmless(tune: Any) -> None:
    session = tune(epochs=1, checkpoint_steps=4, snapshot_steps=1000)
    session.wait(timeout=60)
    prompts = ["Where is order 3?", "<img src=x onerror=alert(1)>"]
    compared = session.compare(prompts, at=["base", 8, "live"], max_new_tokens=12)
    assert list(compared.table.columns) == ["base", "8", "live"]
    for prompt in prompts:
        said = compared.replies[prompt]
        assert [said[at].step for at in ("base", "8", "live")] == [0, 8, session.step]
        assert said["8"] == session.chat(prompt, at=8, max_new_tokens=12)
    assert "<img" not in compared._repr_html_()
    with pytest.raises(AddressError, match="step 5 is not kept"):
        session.compare(prompts, at=["live", 5])


@pytest.mark.slow
def test_weights_that_are_not_there_are_said(tune: Any) -> None:
    session = tune(epochs=1, checkpoint_steps=4, snapshot_steps=1000)
    session.wait(timeout=60)
    with pytest.raises(AddressError, match="step 5 is not kept; here are: live, base, 8, 12, 13"):
        session.chat("hi", at=5)
    assert session.chat("hi", at=8, max_new_tokens=3).step == 8
    (session.run_folder.checkpoint(12) / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(jupyter_ft.errors.Refused, match=r"adapter_model\.safetensors is truncated"):
        session.chat("hi", at=12)


@pytest.mark.slow
def test_best_where_nothing_is_held_out_is_the_newest_and_says_so(tune: Any) -> None:
    session = tune(max_steps=3)
    session.wait(timeout=60)
    said = session.chat("hi", at="best", max_new_tokens=4)
    assert (said.at, said.step, said) == ("live", 3, session.chat("hi", max_new_tokens=4))
    compared = session.compare("hi", at=["best", "base"], max_new_tokens=4)
    assert {at: reply.step for at, reply in compared.replies["hi"].items()} == {"best": 3, "base": 0}
    assert "best (nothing held out: live) (step 3): " in repr(compared)
    assert "best (nothing held out: live)</th>" in compared._repr_html_()
    with pytest.raises(AddressError, match="'best': support has no best step"):
        session.review_desk(["hi"], at="best,live")


@pytest.mark.slow
def test_a_best_step_that_is_still_to_come_is_said(tune: Any) -> None:
    session = tune(max_steps=3, held_out=10, eval_steps=1000)
    session.pause().wait(60)
    with pytest.raises(AddressError, match="no best step: it has not been evaluated yet; ask live"):
        session.chat("hi", at="best")


@pytest.mark.slow
def test_alpha_and_dropout_are_live_and_survive_a_stop(tune: Any) -> None:
    from peft import LoraConfig

    def run(name: str, stop: int | None) -> Any:
        session = tune(name, epochs=3)
        session.set(step=6, alpha=4)
        session.set(step=9, dropout=0.2)
        if stop is not None:
            session.wait(step=stop, timeout=60)
            session.stop().wait(60)
            session.wait_until_over()
            session.resume().wait(60)
        session.wait(timeout=120)
        return session

    from ._runs import finish

    plain, whole, parted = finish(tune("plain", epochs=3)), finish(run("whole", None)), finish(run("parted", 14))
    assert whole == parted
    assert whole[0][:5] == plain[0][:5]
    assert abs(whole[0][5] - plain[0][5]) > 1e-4  # alpha / r from 8 to 1
    config = LoraConfig.from_pretrained(jupyter_ft.sessions["whole"].run_folder.adapter)
    assert (config.lora_alpha, config.lora_dropout) == (4, 0.2)
