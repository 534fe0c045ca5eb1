"""Looking does not touch, and a reply is spoken by the weights that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.messages import OVER

from ._runs import finish, replies

LONG = {"epochs": 6, "learning_rate": 3e-2, "batch_size": 4, "seed": 7}
LENGTH = 240  # tokens: some steps long, also where a checkpoint at each of them waits for the disk


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_chat_leaves_losses_and_weights_alone(tune: Any, dropout: float) -> None:
    adapter = {"r": 4, "dropout": dropout}
    alone = finish(tune("alone", adapter=adapter, **LONG))
    session = tune("watched", adapter=adapter, **LONG)
    for number in range(6):
        session.ask([{"role": "user", "content": f"Hello {number}"}], at="live", max_new_tokens=40, temperature=1.0)
        session.ask([{"role": "user", "content": f"Hello {number}"}], at="base", max_new_tokens=20)
    watched = finish(session)
    spoken_while_training = [reply for reply in replies(session) if 0 < reply.step < session.total_steps]
    assert len(spoken_while_training) >= 2
    assert watched == alone


@pytest.mark.slow
def test_a_review_leaves_losses_and_weights_alone(tune: Any) -> None:
    adapter = {"r": 4, "dropout": 0.1}
    alone = finish(tune("alone", adapter=adapter, **LONG))
    session = tune("reviewed", adapter=adapter, **LONG)
    desk = session.review_desk(at="live,base", max_new_tokens=24, temperature=0.7)
    while session.state not in OVER and (pair := desk.wait(60)) is not None:
        desk.judge("left", edited="Better." if pair.number % 2 else None)
    assert finish(session) == alone
    steps = {answer.step for one in session.feedback for answer in one.answers if answer.at == "live"}
    assert len({step for step in steps if 0 < step < session.total_steps}) >= 2


@pytest.mark.slow
def test_a_reply_is_of_one_step(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ft import runs
    from jupyter_ft.data import chat_ids
    from jupyter_ft.launch.voices import voices_of
    from jupyter_ft.sampling.generate import Manner, speak

    monkeypatch.setattr(runs, "KEEP", 10**6)
    session = tune("spoken", checkpoint_steps=1, **LONG)
    messages = [{"role": "user", "content": "Where is order 3?"}]
    session.wait(step=4, timeout=120)
    spans, asked = [], 0
    while session.state == "running" and asked < 6:
        session.ask(messages, max_new_tokens=LENGTH).wait(120)
        spans.append(session.step - replies(session)[-1].step)
        asked += 1
    session.wait(timeout=120)
    said = [(reply, span) for reply, span in zip(replies(session), spans, strict=True) if reply.step > 0]
    assert max(span for _, span in said) >= 3

    def idle(step: int) -> str:
        twin = voices_of(session.run_folder, step, session.recipe, "prompt-completion", session.log)
        model, of = twin.voice("live")
        assert of == step
        return speak(model, twin.tokenizer, chat_ids(twin.tokenizer, messages), Manner(max_new_tokens=LENGTH)).text

    for reply, _ in said:
        assert reply.text == idle(reply.step)
    assert len({idle(step) for step in (1, *(r.step for r, _ in said), session.step)}) > 1  # else this proves nothing


def test_base_is_the_untouched_base(tune: Any, tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    session = tune("learned", epochs=1, learning_rate=3e-2)
    session.wait(timeout=120)
    reply = session.chat("Where is order 3?", at="base", max_new_tokens=40)
    learned = session.chat("Where is order 3?", at="live", max_new_tokens=40)

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is order 3?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    out = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    assert reply == tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert learned != reply
    assert learned.step == session.step


def test_two_sessions_in_one_kernel_each_equal_their_solo_run(tune: Any) -> None:
    first = {"max_steps": 12, "seed": 1, "learning_rate": 1e-3, "adapter": {"r": 4, "dropout": 0.1}}
    second = {"max_steps": 8, "seed": 2, "learning_rate": 1e-2, "accumulation": 2, "adapter": {"r": 8, "dropout": 0.1}}
    solo = [finish(tune("solo-a", **first)), finish(tune("solo-b", **second))]
    together = [tune("pair-a", **first), tune("pair-b", **second)]
    assert [finish(session) for session in together] == solo
    assert solo[0] != solo[1]
