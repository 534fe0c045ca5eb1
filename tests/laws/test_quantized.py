"""A base in 4 or 8 bits: the laws of an adapter hold over it, its gradients stay, and nobody holds a second copy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.errors import ModelError, TrainingFailed

from ._runs import finish, losses, spoken
from .test_adapters import QUESTION, by_peft
from .test_methods import PAIRS

KINDS = ["nf4", "int8"]
LORA = {"kind": "lora", "r": 4}


@pytest.fixture
def repacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with AVX512-BF16, on which bitsandbytes repacks 4-bit weights at the first look; here it loses them."""
    from bitsandbytes.nn import modules

    def repacked(data: Any, state: Any) -> Any:
        state.absmax.zero_()
        return data, state

    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(modules, "_convert_weight_packed_for_cpu", repacked)


def base_of(model: Path, quantization: str = "nf4", dtype: str = "float32") -> Any:
    from jupyter_ft.models import POOL

    return POOL.get(str(model), revision=None, dtype=dtype, report=lambda *_: None, quantization=quantization)


def gradients(model: Any) -> dict[str, Any]:
    """The gradients of the adapter: those of the first layer come through all the layers above it."""
    import torch

    model.zero_grad(set_to_none=True)
    ids = torch.tensor([[1, 50, 60, 70, 80, 90]])
    model.train()(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_after_an_evaluation_and_a_chat(
    tiny_model: Path, rows: Any, tmp_path: Path, repacking: None, kind: str
) -> None:
    import torch

    from jupyter_ft.data import load
    from jupyter_ft.methods import METHODS
    from jupyter_ft.recipe import parse_recipe
    from jupyter_ft.sampling.generate import Manner, speak
    from jupyter_ft.sampling.twin import Twin

    base = base_of(tiny_model, kind)
    recipe = parse_recipe({"dtype": "float32", "adapter": LORA, "quantization": kind})
    sft, tokenizer = METHODS["sft"], base.new_tokenizer()
    tokens = sft.render(load(rows, {}), tokenizer, system=None, max_length=64).rows
    trainer = sft.build(base.shell(), tokenizer, recipe, tokens, tmp_path, held_out=tokens)
    twin = Twin(base, recipe, "messages", lambda step: tmp_path)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    before = gradients(trainer.model)
    assert all(gradient.abs().max() > 0 for gradient in before.values())
    for voice in ("live", "base"):
        speak(twin.voice(voice)[0], tokenizer, [1, 50, 60], Manner(max_new_tokens=5))
    trainer.evaluate()
    after = gradients(trainer.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_looking_and_stopping_leave_a_run_as_it_is(tune: Any, kind: str) -> None:
    recipe = {"adapter": LORA, "quantization": kind, "held_out": 0.2}
    whole = finish(tune("whole", eval_steps=10**6, **recipe))
    session = tune("parted", eval_steps=2, **recipe)
    asked = [
        session.ask([{"role": "user", "content": f"Hello {number}"}], max_new_tokens=20, temperature=1.0)
        for number in range(3)
    ]
    session.wait(step=5, timeout=60)
    session.stop().wait(60)
    session.wait_until_over(60)
    session.resume().wait(60)
    again = finish(session)
    assert again == whole
    assert again[0][-1] < again[0][0]
    for receipt in asked:
        receipt.wait(60)
    assert len([event for event in session.events if event.kind == "reply"]) == 3


@pytest.mark.slow
def test_a_reply_is_what_peft_says_over_the_base_as_transformers_quantises_it(tune: Any, tiny_model: Path) -> None:
    import torch
    from transformers import BitsAndBytesConfig

    session = tune(quantization="4bit", epochs=3, learning_rate=1e-2)
    session.wait(timeout=120)
    asked = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    theirs = by_peft(session.run_folder.adapter, tiny_model, quantization_config=asked)
    live = session.chat(QUESTION, max_new_tokens=30)
    assert live == spoken(theirs, QUESTION, 30)
    base = session.chat(QUESTION, at="base", max_new_tokens=30)
    assert base == spoken(theirs.unload(), QUESTION, 30)
    assert live != base


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_fits_the_base_that_is_not_quantised(tune: Any, tiny_model: Path, kind: str) -> None:
    """Over the original weights its logits are near: nearer than the base's own are without it."""
    import torch

    from jupyter_ft.launch.voices import voices_of

    session = tune(quantization=kind, epochs=3, learning_rate=1e-2)
    session.wait(timeout=120)
    voices = voices_of(session.run_folder, session.step, session.recipe, "prompt-completion", session.log)
    ids = torch.tensor([[1, 50, 60, 70, 80, 90]])
    with torch.no_grad():
        ours, base = (voices.voice(at)[0](ids).logits for at in ("live", "base"))
        theirs = by_peft(session.run_folder.adapter, tiny_model)(ids).logits
    assert (ours - theirs).norm() < 0.2 * (ours - base).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_one_base_is_shared_statistics_too(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    import torch

    from jupyter_ft.heads import scoring_model
    from jupyter_ft.models import with_adapter
    from jupyter_ft.quantized import is_quantised
    from jupyter_ft.recipe import parse_recipe
    from jupyter_ft.sampling.twin import Twin

    def storages(model: Any) -> set[int]:
        found: set[int] = set()
        for module in model.modules():
            if is_quantised(module):
                held = [module.weight, *vars(module.weight).values(), *vars(module).values()]
                states = [
                    vars(thing).values() for thing in held if type(thing).__name__ in ("QuantState", "MatmulLtState")
                ]
                inner = [vars(x).values() for state in states for x in state if type(x).__name__ == "QuantState"]
                every = [*held, *(x for part in (*states, *inner) for x in part)]
                found |= {x.data_ptr() for x in every if isinstance(x, torch.Tensor) and x.numel() > 1}
        return found

    base = base_of(tiny_model, kind)
    recipe = parse_recipe({"adapter": LORA, "quantization": kind})
    twin = Twin(base, recipe, "messages", lambda step: tmp_path)
    ids = torch.tensor([[1, 50, 60]])
    models = [
        twin.base,
        twin.live,
        twin.new_past(),
        with_adapter(base.shell(), recipe),
        scoring_model(base, ["a", "b"]),
    ]
    for model in models:
        model(ids)  # an 8-bit layer moves its statistics at the first use
    known = storages(base.model)
    assert len(known) >= 2 * 14
    for model in models:
        assert storages(model) == known
    quantised = [module for module in base.model.modules() if is_quantised(module)]
    assert len(quantised) == 14  # two layers of seven; the output layer stays
    assert base_of(tiny_model, kind) is base
    assert base_of(tiny_model, "none") is not base


def test_it_is_as_small_as_is_said(tiny_model: Path) -> None:
    from jupyter_ft.quantization import bytes_per_weight
    from jupyter_ft.quantized import is_quantised, size

    plain, small = base_of(tiny_model, "none").model, base_of(tiny_model).model
    weights, held = size(plain)
    assert held == 4 * weights == sum(p.numel() * 4 for p in plain.parameters())
    layers = [m for m in small.modules() if is_quantised(m)]
    inside = sum(m.in_features * m.out_features for m in layers)
    now = size(small)
    assert now[0] == weights
    beside = len(layers) * (256 + 16 + 2) * 4  # the codes, which a large layer does not feel
    assert now[1] - beside == pytest.approx((weights - inside) * 4 + inside * bytes_per_weight("nf4"), rel=0.01)


METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"data": PAIRS, "max_length": 64, "loss": math.log(2)},
    "reward": {"data": PAIRS, "max_length": 64},
    "kto": {
        "data": [
            {"prompt": r["prompt"], "completion": r["chosen" if i % 5 else "rejected"], "label": bool(i % 5)}
            for i, r in enumerate(PAIRS)
        ],
        "max_length": 64,
        "loss": 0.5,
    },
    "cpt": {"data": [{"text": f"Order {n} was sent on day {n}. " * 4} for n in range(24)], "max_length": 64},
    "classification": {
        "data": [
            {"text": f"Order {n}: {'wonderful' if n % 3 else 'broken'}!", "label": "glad" if n % 3 else "angry"}
            for n in range(36)
        ],
        "max_length": 64,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_over_it(tune: Any, method: str) -> None:
    asked = dict(METHODS[method])
    loss, stopped = asked.pop("loss", None), method in ("dpo", "classification")
    asked |= {"method": method, "adapter": {"kind": "qlora", "r": 4}, "epochs": 4, "learning_rate": 5e-3}
    session = tune(**asked)
    if stopped:
        session.wait(step=5, timeout=60)
        session.stop().wait(60)
        session.wait_until_over(60)
        session.resume().wait(60)
    seen, final = finish(session)
    assert sum(seen[-5:]) < sum(seen[:5])
    if loss is not None:
        assert seen[0] == pytest.approx(loss, abs=1e-6)  # the policy is its own reference at the first step
    assert session.recipe.quantization == "nf4"
    assert session.chat(QUESTION, max_new_tokens=5).step == session.total_steps
    if stopped:
        assert finish(tune("whole", **asked)) == (seen, final)


@pytest.mark.slow
def test_beside_another_session_it_is_as_it_is_alone(tune: Any) -> None:
    asked = {"adapter": LORA, "quantization": "nf4"}
    alone = finish(tune("alone", **asked))
    one, other = tune("one", **asked), tune("other", seed=5, **asked)
    assert finish(one) == alone
    assert finish(other) != alone


@pytest.mark.slow
def test_dora_over_4_bits_is_resumed_to_the_bit(tune: Any) -> None:
    asked = {"adapter": {"kind": "dora", "r": 4}, "quantization": "nf4"}
    whole = finish(tune("whole", **asked))
    session = tune("parted", **asked)
    session.chat(QUESTION, max_new_tokens=5)
    session.wait(step=5, timeout=60)
    session.stop().wait(60)
    session.wait_until_over(60)
    session.resume().wait(60)
    assert finish(session) == whole


@pytest.mark.slow
def test_a_stage_is_on_the_same_base(tune: Any) -> None:
    import jupyter_ft
    from jupyter_ft.messages import Progress

    parent = tune("parent", adapter={"kind": "qlora", "r": 4})
    finish(parent)
    child = jupyter_ft.finetune(data=PAIRS, name="child", start_from="parent", method="dpo", batch_size=4)
    seen, _ = finish(child)
    assert seen[0] == pytest.approx(math.log(2), abs=1e-6)
    assert child.recipe.quantization == "nf4"
    assert [e.what for e in child.events if isinstance(e, Progress) and e.what.startswith(("loading", "quant"))] == []


def test_an_encoder_is_quantised_but_for_what_is_new(tiny_bert: Path) -> None:
    from jupyter_ft.quantized import is_quantised

    base = base_of(tiny_bert)
    kept = [n for n, m in base.model.named_modules() if hasattr(m, "in_features") and not is_quantised(m)]
    assert kept == ["bert.pooler.dense", "classifier"]


# --- models that are quantised on the disk ---


@pytest.mark.slow
def test_4_bits_on_the_disk_are_taken_as_they_are(tune: Any, tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    import jupyter_ft

    asked = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, quantization_config=asked).save_pretrained(
        tmp_path / "small"
    )
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "small")
    ours = tune("ours", quantization="nf4")
    small = {"model": str(tmp_path / "small"), "learning_rate": 5e-3, "batch_size": 4, "dtype": "float32", "r": 4}
    theirs = jupyter_ft.finetune(data=rows, name="theirs", **small)
    assert finish(theirs) == finish(ours)
    for more, said in (
        ({"adapter": "full"}, "cannot be trained"),
        ({"quantization": "int8"}, r"4-bit \(NF4\) already"),
    ):
        refused = jupyter_ft.finetune(data=rows, name="refused", **{k: v for k, v in small.items() if k != "r"}, **more)
        with pytest.raises(TrainingFailed, match=said):
            refused.wait(timeout=60)


def test_what_cannot_be_trained_over_is_said(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json
    import shutil
    import sys

    other = tmp_path / "gptq"
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantised by gptq; give the original model, with quantization: nf4"):
        base_of(other, "none")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        base_of(tiny_model)


# --- a trainer of one's own ---


@pytest.mark.slow
def test_an_attached_qlora_trainer_equals_the_bare_one(
    tiny_model: Path, rows: Any, tmp_path: Path, repacking: None
) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    import jupyter_ft

    def build() -> Any:
        torch.manual_seed(7)
        asked = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, quantization_config=asked)
        settings = {"per_device_train_batch_size": 4, "learning_rate": 5e-3, "logging_steps": 1, "report_to": "none"}
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(str(tmp_path / "out"), use_cpu=True, bf16=False, save_strategy="no", **settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        torch.manual_seed(11)
        return trainer

    bare, trainer = build(), build()
    bare.train()
    session = jupyter_ft.attach(trainer, name="mine")
    asked = [session.ask([{"role": "user", "content": QUESTION}], max_new_tokens=10) for _ in range(3)]
    trainer.train()
    for receipt in asked:
        receipt.wait(60)
    theirs = dict(bare.model.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in trainer.model.named_parameters() if p.requires_grad)
    assert losses(session) == [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
