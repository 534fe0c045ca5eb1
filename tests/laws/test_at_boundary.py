"""Where nothing can be shared, the trainer's own model speaks a whole reply between two steps, and is left alone."""

from __future__ import annotations

import threading
import types
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import Refused
from jupyter_ft.messages import ChatWaits

from ._runs import finish, history, losses, replies, trained

FULL = {"adapter": "full", "learning_rate": 2e-3, "epochs": 3, "batch_size": 4, "dtype": "float32"}
ASKED = [{"role": "user", "content": "Where is order 3?"}]


def without_room(model: Path, rows: list[dict[str, str]], name: str, **more: Any) -> Any:
    """A run of ours that is told that there is no memory for a copy."""
    from jupyter_ft.session import start

    session = start._create(name, start.plan(str(model), rows, FULL | more), start.NOTHING_AHEAD)
    session.launch(room=0)
    return session


def greedy(model: Any, tokenizer: Any, length: int = 30) -> str:
    """What an idle model says to `ASKED`, by transformers' own means."""
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.eval().generate(**prompt, max_new_tokens=length, do_sample=False)
    return str(tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.slow
def test_a_run_of_ours_is_left_as_it_was_and_speaks_with_the_weights_of_its_step(
    tune: Any, tiny_model: Path, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from jupyter_ft import runs

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def idle(folder: Path) -> str:
        return greedy(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer)

    monkeypatch.setattr(runs, "KEEP", 10**6)
    whole = finish(tune("whole", **FULL))
    session = without_room(tiny_model, rows, "narrow", checkpoint_steps=1)
    for _ in range(3):
        session.ask(ASKED, max_new_tokens=20, temperature=1.0)
        session.ask(ASKED, max_new_tokens=30)
    base = session.chat(ASKED, at="base", max_new_tokens=30)
    assert (str(base), base.between_steps) == (idle(tiny_model), False)
    session.wait(step=8, timeout=60)
    session.pause().wait(60)
    paused = session.chat(ASKED, max_new_tokens=30)
    assert (paused.step, paused.between_steps) == (session.step, True)
    with pytest.raises(Refused, match=r"step 2: a copy of the trained weights takes .* room for it"):
        session.chat(ASKED, at=2)
    session.resume().wait(60)
    assert finish(session) == whole

    live = [event for event in replies(session) if event.at == "live"]
    assert [event.between_steps for event in live] == [True] * 7
    assert len({event.step for event in live}) == 7  # one a boundary: training goes on between two of them
    for event in live[1::2]:
        if event.step:  # the first boundary is before the first checkpoint
            assert event.text == idle(session.run_folder.checkpoint(event.step))
    assert paused == idle(session.run_folder.checkpoint(paused.step)) != base
    assert len([event for event in session.events if isinstance(event, ChatWaits)]) == 1

    after = session.chat(ASKED, max_new_tokens=30)
    assert (after.step, after.between_steps) == (session.total_steps, False)
    assert after == idle(session.run_folder.model)
    assert session.chat(ASKED, at=2, max_new_tokens=30) == idle(session.run_folder.checkpoint(2))


@pytest.mark.slow
def test_questions_that_wait_are_answered_when_a_run_gives_its_memory_back_and_when_it_is_closed(
    tiny_model: Path, rows: list[dict[str, str]]
) -> None:
    session = without_room(tiny_model, rows, "narrow", epochs=400)
    session.wait(step=2, timeout=60)
    asked = [session.ask(ASKED, max_new_tokens=30) for _ in range(4)]
    session.pause(free_memory=True).wait(60)
    asked += [session.ask(ASKED) for _ in range(2)]
    session.resume().wait(60)
    assert session.chat(ASKED, max_new_tokens=3).between_steps
    asked += [session.ask(ASKED, max_new_tokens=500) for _ in range(3)]
    session.close()
    assert all(receipt.answer is not None for receipt in asked)


@pytest.mark.slow
@pytest.mark.parametrize("peft", [True, False])
def test_an_attached_trainer_is_left_as_it_was(build: Any, peft: bool, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    more = {"num_train_epochs": 2, "learning_rate": 3e-2 if peft else 5e-3}
    bare = build(peft=peft, dropout=0.1, **more)
    start = greedy(bare.model, bare.processing_class)
    bare.train()
    trainer = build(peft=peft, dropout=0.1, **more)
    session = jupyter_ft.attach(trainer, name="narrow", room=0)
    asked = [session.ask(ASKED, at=at, max_new_tokens=30, temperature=t) for at in ("live", "base") for t in (0.0, 1.0)]
    session.wait(step=4, timeout=60)
    session.pause().wait(60)
    paused = session.chat(ASKED, max_new_tokens=30)
    trainer.model.save_pretrained(tmp_path / "kept")
    session.resume().wait(60)
    got = trainer.train()

    assert history(trainer) == history(bare)
    assert trained(trainer) == trained(bare)
    assert got.global_step == session.step
    assert losses(session) == [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
    assert paused.between_steps
    kept = AutoModelForCausalLM.from_pretrained(trainer.model.config._name_or_path if peft else tmp_path / "kept")
    idle = PeftModel.from_pretrained(kept.float(), tmp_path / "kept") if peft else kept.float()
    assert paused == greedy(idle, trainer.processing_class) != start
    told = [receipt.answer for receipt in asked]
    if peft:
        assert told[2].text == start
        assert told[2].between_steps
    else:
        assert "no copy of the old ones is kept" in told[2].reason

    after = session.chat(ASKED, max_new_tokens=30)
    assert (after.step, after.between_steps) == (session.step, False)
    assert trainer.model.training  # as the training left it
    assert after == greedy(trainer.model, trainer.processing_class)


def test_whatever_a_reply_does_to_the_model_is_undone(build: Any) -> None:
    import torch

    from jupyter_ft.sampling.at_boundary import lend

    model = build(dropout=0.1).model.train()
    next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)  # PEFT would make it trainable again

    def state() -> Any:
        plain = [
            {k: v for k, v in vars(m).items() if not k.startswith("_")} | {"buffers": dict(m._buffers)}
            for m in model.modules()
        ]
        return plain, [b.clone() for b in model.buffers()], [p.requires_grad for p in model.parameters()]

    def meddle(same: Any, step: int, between: bool) -> None:
        assert not any(module.training for module in same.modules())
        assert "forward" not in vars(same.get_base_model())
        for buffer in same.buffers():
            buffer.add_(1)
        for module in same.modules():
            module.longest_seen = 4096
            for name in list(module._buffers):
                module.register_buffer(name, torch.zeros(3), persistent=False)
        same.get_base_model().config_of_old = 1

    before = state()
    assert before[1]
    assert "forward" in vars(model.get_base_model())
    for at in ("live", "base"):
        lend(model, at, 1, True, meddle)
        after = state()
        assert after[0] == before[0]
        assert all(map(torch.equal, after[1], before[1]))
        assert after[2] == before[2]


@pytest.mark.parametrize("below", ["all", "lora_only", "norm"])
def test_the_base_of_a_lent_model_has_nothing_that_is_trained(
    below: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """PEFT leaves biases that it trains (`bias=`) in force where it switches an adapter off; so it does a norm."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from jupyter_ft.sampling import at_boundary

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, attention_bias=True, mlp_bias=True, **shape)).eval()
    ids = torch.tensor([[1, 50, 60, 3]])
    untouched = base(ids).logits
    bias = below if below != "norm" else "none"
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], bias=bias, task_type="CAUSAL_LM"))
    base.model.norm.weight.requires_grad_(below == "norm")
    voices = at_boundary.AttachedAtBoundary(model, None, lambda: None, "there is no room")
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(0.5)
    before = {name: p.clone() for name, p in model.named_parameters()}
    said: dict[tuple[str, bool], Any] = {}

    def hear(at: str) -> None:
        voices.use(at, lambda same, _, between: said.update({(at, between): same(ids).logits}))

    for at in ("base", "live"):
        asks = threading.Thread(target=hear, args=(at,))
        asks.start()
        while asks.is_alive():
            voices.speak(3, model)
            asks.join(0.01)
    voices.retire()
    hear("base")
    assert torch.equal(said["base", True], untouched)
    assert torch.equal(said["base", False], untouched)
    assert not torch.allclose(said["live", True], untouched)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not [warned for warned in recwarn if "disabling adapter layers" in str(warned.message)]

    monkeypatch.setattr(at_boundary, "BELOW", 3)  # bytes: no bias or norm is as small
    voices = at_boundary.AttachedAtBoundary(model, None, lambda: None, "there is no room")
    with pytest.raises(Refused, match="base: its own weights are trained, and no copy"):
        hear("base")


@pytest.mark.slow
def test_which_voices_a_trainer_gets(build: Any) -> None:
    from jupyter_ft.sampling.at_boundary import AttachedAtBoundary
    from jupyter_ft.sampling.attached_twin import AttachedTwin, voices_for

    def voices(trainer: Any, room: int | None = None) -> Any:
        return voices_for(trainer.model, trainer.processing_class, Path, lambda: None, room)

    trainer = build()
    own = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    assert isinstance(voices(trainer), AttachedTwin)
    assert isinstance(voices(trainer, 5 * own), AttachedTwin)  # two copies, a gradient, two moments
    assert "a copy of the trained weights takes" in voices(trainer, 5 * own - 1).waits

    patched, hooked, locked = build(), build("plain", peft=False), build("plain")
    theirs = patched.model.get_base_model()
    theirs.forward = types.MethodType(lambda self, *args, **kwargs: type(self).forward(self, *args, **kwargs), theirs)
    assert voices(patched).waits == "its forward was replaced"
    head = hooked.model.lm_head
    hooked.model.model.register_forward_hook(lambda *_: head.training and None)
    assert voices(hooked).waits == "a copy would reach back into it"
    locked.model.lock = threading.Lock()
    assert voices(locked).waits.startswith("its modules cannot be copied (cannot pickle")
    assert all(isinstance(voices(one), AttachedAtBoundary) for one in (patched, hooked, locked))
