"""An encoder goes on pre-training by masked tokens: the losses of the documented trainer, masks by the seed alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft import preview

from ._runs import finish, finish_taken_back, hash_of, losses

NAMES = ("Orla", "Tam", "Wenna", "Brac")
TEXTS = [{"text": f"{NAMES[n % 4]} of the Salt Stair went to Vell on day {n}, and sang."} for n in range(24)]
ASKED: dict[str, Any] = {
    "method": "cpt",
    "max_length": 32,
    "epochs": 2,
    "learning_rate": 5e-3,
    "batch_size": 4,
    "dtype": "float32",
    "adapter": {"r": 4},
}
ADAPTERS = pytest.mark.parametrize("adapter", [{"r": 4}, "full"], ids=["lora", "full"])


@pytest.fixture
def mask(tiny_bert: Path) -> Any:
    """Start a small run of the encoder."""

    def start(name: str = "masked", **more: Any) -> Any:
        import jupyter_ft

        return jupyter_ft.finetune(str(tiny_bert), more.pop("data", TEXTS), name, **(ASKED | more))

    return start


def _as_documented(session: Any, adapter: Any, folder: Path, seed: int = 42) -> Any:
    """transformers' `Trainer` with its own collator, on the windows of the session."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    from jupyter_ft.control.lease import seeded_streams

    recipe = session.recipe
    tokenizer = AutoTokenizer.from_pretrained(recipe.model)
    with seeded_streams(seed):
        model = AutoModelForMaskedLM.from_pretrained(recipe.model, dtype="float32")
        if adapter != "full":
            model = get_peft_model(model, LoraConfig(r=4, lora_alpha=32, target_modules="all-linear"))
        return Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(folder),
                seed=seed,
                learning_rate=5e-3,
                num_train_epochs=2,
                per_device_train_batch_size=4,
                logging_steps=1,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
            ),
            train_dataset=Dataset.from_file(str(session.run_folder.rows.with_name("tokens.arrow"))),
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=seed),
            processing_class=tokenizer,
        )


@pytest.mark.slow
@ADAPTERS
def test_it_equals_the_documented_trainer(mask: Any, tmp_path: Path, adapter: Any) -> None:
    """With BERT's dropout: its draws and those of the masks come from two streams."""
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    session = mask(adapter=adapter)
    ours, our_hash = finish(session)
    trainer = _as_documented(session, adapter, tmp_path)
    Streams.seeded(42).put()
    trainer.train()
    assert ours == [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert our_hash == hash_of(trained_tensors(trainer.model))


@pytest.mark.slow
def test_windows_are_framed_and_nothing_is_lost(mask: Any, tiny_bert: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer

    session = mask(max_length=10_000).wait(timeout=60)
    windows = [row["input_ids"] for row in Dataset.from_file(str(session.run_folder.rows.with_name("tokens.arrow")))]
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert {(ids[0], ids[-1]) for ids in windows} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert {len(ids) for ids in windows[:-1]} == {48}  # all that the model can read
    inside = [token for ids in windows for token in ids[1:-1]]
    assert inside == tokenizer("[SEP]".join(row["text"] for row in TEXTS), add_special_tokens=False)["input_ids"]
    (ready, *_) = [event for event in session.events if event.kind == "data"]
    assert ready.tokens == sum(map(len, windows))
    assert ready.trained_tokens == ready.tokens - 2 * len(windows)
    assert "24 documents" in ready.said
    assert "masked anew each time" in ready.said
    looked = repr(preview(TEXTS, str(tiny_bert), method="cpt", max_length=32))
    assert "masked anew each time" in looked
    assert "of them trained" not in looked


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted(mask: Any) -> None:
    asked = {"epochs": 4, "checkpoint_steps": 3, "held_out": 4, "edits": [{"step": 6, "mask_share": 0.4}]}
    whole = mask("whole", **asked)
    expected = finish(whole)
    evaluated = [event.metrics["eval_loss"] for event in whole.events if event.kind == "eval"]
    parted = mask("parted", **asked)
    stops = []
    for step in (7, 10):
        parted.wait(step=step, timeout=60)
        parted.stop().wait(60)
        parted.wait_until_over(60)
        stops.append(parted.step)
        parted.resume().wait(60)
    assert [change.step for change in (*whole.changes, *parted.changes)] == [6, 6]
    got = finish(parted)
    assert losses(parted) == expected[0], f"stopped at {stops}"
    assert got == expected
    assert {event.step: event.metrics["eval_loss"] for event in parted.events if event.kind == "eval"} == {
        event.step: event.metrics["eval_loss"] for event in whole.events if event.kind == "eval"
    }
    assert len(set(evaluated)) == len(evaluated)


@pytest.mark.slow
def test_masks_depend_on_the_seed_and_on_nothing_else(mask: Any) -> None:
    """Neither on what a cell draws, nor on evaluations; a share that is changed counts from its step on."""
    import torch

    still = {"adapter": {"r": 4, "dropout": 0}}
    torch.manual_seed(1)
    plain, _ = finish(mask("plain", **still))
    torch.manual_seed(2)
    assert finish(mask("again", **still))[0] == plain
    assert finish(mask("other", seed=7, **still))[0] != plain
    quiet, _ = finish(mask("quiet", held_out=4, eval_steps=1000, **still))
    assert finish(mask("looked", held_out=4, eval_steps=1, **still))[0] == quiet
    changed = mask("changed", mlm_probability=0.15, **still)
    changed.set(mask_share=0.5, step=5)
    found, _ = finish(changed)
    assert found[:4] == plain[:4]
    assert found[4] != plain[4]


@pytest.mark.slow
def test_a_causal_model_has_no_masks(tune: Any) -> None:
    from jupyter_ft.errors import Refused

    session = tune("causal", method="cpt", data=TEXTS, epochs=4)
    with pytest.raises(Refused, match="mask_share belongs to encoders"):
        session.set(mask_share=0.3).wait(30)


def test_held_out_rows_are_masked_once(tiny_bert: Path) -> None:
    from transformers import AutoTokenizer

    from jupyter_ft.methods.masked import masked_once

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    rows = [tokenizer(row["text"]) for row in TEXTS] + [tokenizer("a")]
    first, again = masked_once(rows, tokenizer, 0.15, 3), masked_once(rows, tokenizer, 0.15, 3)
    assert first.to_list() == again.to_list()
    for row, masked in zip(rows, first, strict=True):
        chosen = [at for at, label in enumerate(masked["labels"]) if label != -100]
        assert chosen
        assert [masked["labels"][at] for at in chosen] == [row["input_ids"][at] for at in chosen]
        rest = [(a, b) for at, (a, b) in enumerate(zip(row["input_ids"], masked["input_ids"], strict=True))
                if at not in chosen]  # fmt: skip
        assert all(a == b for a, b in rest)


@pytest.mark.slow
def test_a_fork_of_a_snapshot_masks_from_the_seed_on_also_when_it_is_taken_back(mask: Any) -> None:
    parent = mask("parent", epochs=8, snapshot_steps=2, checkpoint_steps=1000)
    finish(parent)
    once = finish(parent.fork("once", at=4))
    assert finish_taken_back(parent.fork("child", at=4), 4) == once


@pytest.mark.slow
def test_an_accumulated_step_has_the_loss_of_the_whole(mask: Any) -> None:
    """Masks are drawn a micro-batch at a time, so the losses are alike, not the same; a sum would be twice as high."""
    whole, _ = finish(mask("whole", max_steps=1))
    parts, _ = finish(mask("parts", batch_size=2, accumulation=2, max_steps=1))
    assert parts[0] == pytest.approx(whole[0], rel=0.1)


@pytest.mark.slow
@ADAPTERS
def test_held_out_pseudo_perplexity_falls_and_a_classifier_goes_on_from_there(mask: Any, adapter: Any) -> None:
    import jupyter_ft
    from jupyter_ft.weights import read_weights

    parent = mask("parent", held_out=4, epochs=12, adapter=adapter, eval_steps=12)
    assert losses(parent.wait(timeout=120))
    found = [event.metrics for event in parent.events if event.kind == "eval"]
    untrained = _untrained_loss(parent)
    assert found[-1]["eval_loss"] < untrained * (0.8 if adapter == "full" else 0.99)  # frozen, random words say little
    assert found[-1]["eval_pseudo_perplexity"] == math.exp(found[-1]["eval_loss"])

    reply = parent.chat("Orla of the Salt [MASK]tair went", at="live")
    base = parent.chat("Orla of the Salt [MASK]tair went", at="base")
    assert reply.scores != base.scores
    assert reply.startswith(f"{next(iter(reply.scores))} {next(iter(reply.scores.values())):.2f} · ")
    with pytest.raises(jupyter_ft.errors.Refused, match=r"put \[MASK\] in the place"):
        parent.chat("Orla went")

    labelled = [{"text": f"{NAMES[n % 4]} sang", "label": "even" if n % 2 else "odd"} for n in range(16)]
    settings = {"name": "child", "start_from": "parent", "method": "classification", "epochs": 1, "batch_size": 4}
    child = jupyter_ft.finetune(data=labelled, learning_rate=1e-9, **settings).wait(timeout=60)
    theirs, ours = read_weights(child.run_folder.start), read_weights(child.run_folder.checkpoint(child.step))
    shared = [name for name in ours if name in theirs]
    assert [name for name in theirs if "bert." in name] == [name for name in shared if "bert." in name]
    for name in shared:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name
    back = mask("back", start_from="child", adapter=adapter, max_steps=1)
    assert finish(back)[0][0] < untrained


def _untrained_loss(session: Any) -> float:
    """Of the folder's own model on the held-out windows, masked as the session masks them."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from jupyter_ft.methods.masked import masked_once

    path = session.recipe.model
    rows = Dataset.from_file(str(session.run_folder.rows.with_name("held_out.arrow")))
    model = AutoModelForMaskedLM.from_pretrained(path).eval()
    total, count = 0.0, 0
    for row in masked_once(rows, AutoTokenizer.from_pretrained(path), 0.15, session.recipe.seed):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        masked = int((labels != -100).sum())
        with torch.no_grad():
            total, count = total + float(model(input_ids=ids, labels=labels).loss) * masked, count + masked
    return total / count


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_a_model_over_the_base_is_the_one_that_transformers_loads(tmp_path: Path, tiny_bert: Path, kind: str) -> None:
    """Also from old files, whose layer norms have a gamma and a beta; without a head it is new, and that is said."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    from jupyter_ft.heads import masked_model
    from jupyter_ft.models import POOL

    folder = tmp_path / kind
    shutil.copytree(tiny_bert, folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    sizes = {"vocab_size": 260, "pad_token_id": 0}
    small = (
        {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}
        if kind == "distilbert"
        else {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    )
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **sizes, **small)).save_pretrained(folder)
    if kind == "bert":
        stored = load_file(folder / "model.safetensors")
        old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
               for n, t in stored.items()}  # fmt: skip
        save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    ids = torch.tensor([[1, 9, 3, 40, 2]])
    base = POOL.get(str(folder), revision=None, dtype="float32", report=lambda *_: None)
    model = masked_model(base)
    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(folder).eval()(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert not model.fresh_head
    storage = {p.data_ptr() for p in base.model.parameters()}
    own = [n for n, p in model.named_parameters() if p.data_ptr() not in storage]
    assert own
    assert not any(name.startswith(f"{kind}.") for name in own)


@pytest.mark.slow
def test_an_adapter_under_a_head_that_no_file_holds_is_refused(mask: Any, tiny_bert: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import AutoModel

    folder = tmp_path / "headless"
    shutil.copytree(tiny_bert, folder)
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    import jupyter_ft

    session = jupyter_ft.finetune(str(folder), TEXTS, "headless", **ASKED)
    session.wait_until_over(60)
    assert "holds no head that guesses masked tokens; adapter: full" in session.events[-1].note
    whole = jupyter_ft.finetune(str(folder), TEXTS, "whole", **ASKED | {"adapter": "full", "epochs": 4})
    assert finish(whole)[0][-1] < losses(whole)[0]


@pytest.mark.slow
def test_rows_can_be_looked_at_before_and_during(mask: Any, tiny_bert: Path) -> None:
    import jupyter_ft

    look = jupyter_ft.preview(TEXTS, str(tiny_bert), method="cpt", max_length=32)
    session = mask().wait(timeout=60)
    (ready, *_) = [event for event in session.events if event.kind == "data"]
    assert f"in {ready.rows} windows" in str(look)


def test_a_probe_that_leaves_no_word_out_is_refused_before_anything_begins(mask: Any, runs: Path) -> None:
    from jupyter_ft.errors import RecipeError

    with pytest.raises(RecipeError) as refused:
        mask(probes=["Orla went to [MASK].", "Where did Tam go?"])
    assert str(refused.value).startswith("probe 2 (Where did Tam go?): ")
    assert str(refused.value).endswith(
        "is an encoder, which guesses words that are left out; put [MASK] in the place of one"
    )
    with pytest.raises(RecipeError, match=r"^probes = 2: .* rows leave none out; write prompts with \[MASK\] in them$"):
        mask(probes=2, held_out=3)
    assert not runs.exists()


@pytest.mark.slow
def test_a_probe_that_leaves_one_out_is_answered(mask: Any) -> None:
    session = mask(probes=["Orla went to [MASK]."], probe_steps=6).wait(timeout=60)
    assert session.probes.columns.tolist() == ["base", 6, 12, 18, 24]
    assert session.probes.notna().all(axis=None)
