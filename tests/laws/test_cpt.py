"""cpt: a session over raw text is TRL's own `SFTTrainer` on the same windows, and tells its perplexity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.errors import RecipeError

from ._runs import bare_trainer, finish, hash_of

TEXTS = [{"text": f"Order {n} is " + "on its way. " * (1 + n * n % 9)} for n in range(24)]
ASKED: dict[str, Any] = {
    "method": "self-supervised",
    "data": TEXTS,
    "epochs": 2,
    "learning_rate": 5e-3,
    "accumulation": 2,
    "max_length": 48,
}


def _as_documented(session: Any, folder: Path) -> Any:
    """TRL's `SFTTrainer` over the texts themselves, joined and cut by its own `wrapped` packing."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from jupyter_ft.control.lease import seeded_streams
    from jupyter_ft.methods.method import arguments
    from jupyter_ft.models import POOL
    from jupyter_ft.weights import to_train

    recipe = session.recipe
    base = POOL.get(recipe.model, revision=None, dtype="float32", report=lambda *_: None)
    shell = base.shell()
    packed = {"packing": True, "packing_strategy": "wrapped", "max_length": recipe.max_length}
    with seeded_streams(recipe.seed):
        return SFTTrainer(
            model=to_train(shell, recipe),
            args=arguments(SFTConfig, recipe, folder, shell, **packed),
            train_dataset=Dataset.from_list(TEXTS),
            processing_class=base.new_tokenizer(),
        )


@pytest.mark.slow
@pytest.mark.parametrize("head", ["trl", "auto"])
def test_cpt_equals_trls_own(tune: Any, tmp_path: Path, head: str) -> None:
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    session = tune("text", loss_head=head, **ASKED)
    ours, our_hash = finish(session)
    trainer = _as_documented(session, tmp_path)
    Streams.seeded(session.recipe.seed).put()
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert ours == pytest.approx(logged, abs=1e-5)
    if head == "trl":
        assert ours == logged
        assert our_hash == hash_of(trained_tensors(trainer.model))
    assert ours[-1] < ours[0]
    (ready, *_) = [event for event in session.events if event.kind == "data"]
    assert ready.tokens == ready.trained_tokens == sum(map(len, trainer.train_dataset["input_ids"]))
    assert ready.said.startswith(f"24 documents, {ready.tokens:,} tokens in {ready.rows} windows of up to 48, ")
    assert session.metrics["tokens"].sum() == 2 * ready.tokens


@pytest.mark.slow
def test_perplexity_is_that_of_the_evaluation(tune: Any, tiny_model: Path, tmp_path: Path) -> None:
    session = tune("held", held_out=4, eval_steps=2, loss_head="trl", **ASKED)
    finish(session)
    trainer = bare_trainer(tiny_model, TEXTS, session.recipe, tmp_path)
    trainer.train()
    theirs = trainer.evaluate()
    seen = [event for event in session.events if event.kind == "eval"]
    assert len(seen) > 2
    for event in seen:
        assert event.metrics["eval_perplexity"] == math.exp(event.metrics["eval_loss"])
    assert seen[-1].metrics["eval_loss"] == theirs["eval_loss"]
    assert theirs["eval_perplexity"] == math.exp(theirs["eval_loss"])
    assert session.metrics["eval_perplexity"].dropna().is_monotonic_decreasing


@pytest.mark.slow
def test_a_folder_is_learnt_from_and_a_stopped_run_goes_on(tune: Any, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    for number, row in enumerate(TEXTS):
        (docs / ("deep" if number % 2 else "") / f"{number:02}.md").write_text(row["text"])
    asked = {**ASKED, "data": str(docs), "adapter": {"r": 4, "dropout": 0.1}}
    whole = finish(tune("whole", **asked))
    session = tune("parted", **asked, until=4)
    session.wait_until_over(60)
    assert session.step < session.total_steps
    session.resume().wait()
    assert finish(session) == whole
    assert session.chat("Order 3 is", max_new_tokens=4).tokens > 0


def test_an_encoder_that_cannot_mask_is_refused(tune: Any, tiny_model: Path, tmp_path: Path) -> None:
    """As a causal model it would look at the answers: its loss falls to nothing, and it learns nothing."""
    import shutil

    from transformers import BertConfig, BertForMaskedLM

    import jupyter_ft

    folder = tmp_path / "bert"
    shutil.copytree(tiny_model, folder)
    config = BertConfig(
        vocab_size=259, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForMaskedLM(config).save_pretrained(folder)
    session = jupyter_ft.finetune(str(folder), TEXTS, "cpt", method="cpt", dtype="float32")
    session.wait_until_over(60)
    assert session.state == "failed"
    assert "its tokenizer has no mask token" in session.events[-1].note
    with pytest.raises(RecipeError, match=r"is an encoder \(bert\): it writes no text, as sft wants; method: class"):
        jupyter_ft.finetune(str(folder), TEXTS, "sft", dtype="float32")


@pytest.mark.slow
def test_held_out_perplexity_falls_below_the_bases(tmp_path: Path) -> None:
    """A made-up land's chronicle: what is held out shares its words and turns of phrase, and none of its sentences."""
    import random

    import jupyter_ft

    draw = random.Random(5)
    people, places = ["Orla", "Tam", "Wenna", "Brac", "Isolt"], ["Vell", "Harrow Quay", "the Salt Stair", "Ombre"]
    deeds = ["mended the sluice at", "carried the ledger to", "lost a wager in", "planted rue beside", "sang for"]
    weather = [
        "under a copper sky",
        "while the bells were still",
        "before the tide turned",
        "in the year of two frosts",
    ]
    docs = tmp_path / "chronicle"
    docs.mkdir()
    for day in range(40):
        told = [
            f"On day {draw.randrange(400)} {draw.choice(people)} of {draw.choice(places)} {draw.choice(deeds)} "
            f"{draw.choice(places)} {draw.choice(weather)}."
            for _ in range(8)
        ]
        (docs / f"{day:02}.txt").write_text(" ".join(told))
    session = jupyter_ft.finetune(
        "demo", str(docs), "chronicle", method="self-supervised", held_out=4, max_length=96, batch_size=2,
        max_steps=4, eval_steps=2, learning_rate=1e-3, dtype="float32",
    )  # fmt: skip
    session.wait(timeout=400)
    assert session.state == "finished"
    perplexity = [event.metrics["eval_perplexity"] for event in session.events if event.kind == "eval"]
    before = _untrained_perplexity(session)
    assert perplexity[-1] < 0.7 * before
    assert perplexity == sorted(perplexity, reverse=True)


def _untrained_perplexity(session: Any) -> float:
    """Of the base on the held-out windows, by transformers' own loss alone."""
    import torch
    from datasets import Dataset

    from jupyter_ft.models import POOL

    model = POOL.get("demo", revision=None, dtype="float32", report=lambda *_: None).model
    windows = Dataset.from_file(str(session.run_folder.rows.with_name("held_out.arrow")))
    with torch.no_grad():
        found = [
            (float(model(input_ids=ids, labels=ids).loss), ids.numel() - 1)
            for ids in (torch.tensor([row["input_ids"]]) for row in windows)
        ]
    return math.exp(sum(loss * count for loss, count in found) / sum(count for _, count in found))
