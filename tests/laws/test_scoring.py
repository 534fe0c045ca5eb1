"""Classifiers and reward models: the losses of the trainer that its documentation builds; files, chat, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ._runs import finish, hash_of, losses

TEXTS = [
    {
        "text": f"Order {number}: {'wonderful, thank you' if number % 3 else 'broken and late'}!",
        "label": "glad" if number % 3 else "angry",
    }
    for number in range(36)
]
CLASSIFY: dict[str, Any] = {
    "method": "classification",
    "data": TEXTS,
    "epochs": 2,
    "learning_rate": 5e-3,
    "batch_size": 5,
    "max_length": 64,
}
PAIRS = [
    {
        "prompt": f"Where is order {number}?",
        "chosen": "On its way." if number % 3 else f"Sent, see {number}.",
        "rejected": "No idea." if number % 2 else "Ask someone else, please.",
    }
    for number in range(24)
]
REWARD: dict[str, Any] = {"method": "reward", "data": PAIRS, "epochs": 2, "learning_rate": 5e-3, "max_length": 64}
BOTH = pytest.mark.parametrize("asked", [CLASSIFY, REWARD], ids=["classification", "reward"])
ADAPTERS = pytest.mark.parametrize("adapter", [{"r": 4}, "full"], ids=["lora", "full"])


def _as_documented(model: Path, asked: dict[str, Any], adapter: Any, folder: Path) -> Any:
    """The trainer of transformers or TRL over raw rows, with a model loaded and wrapped as their pages do it."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )
    from trl import RewardConfig, RewardTrainer

    from jupyter_ft.control.lease import seeded_streams

    shared: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": 42,
        "learning_rate": asked["learning_rate"],
        "num_train_epochs": asked["epochs"],
        "per_device_train_batch_size": asked.get("batch_size", 4),
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "weight_decay": 0.0,
        "bf16": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(model)
    reward = asked["method"] == "reward"
    with seeded_streams(42):
        made = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1 if reward else 2, dtype="float32")
        made.config.pad_token_id = tokenizer.pad_token_id
        if adapter != "full":
            made = get_peft_model(
                made, LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=32, target_modules="all-linear")
            )
        if reward:
            turns = [
                {
                    key: [{"role": "user" if key == "prompt" else "assistant", "content": text}]
                    for key, text in row.items()
                }
                for row in asked["data"]
            ]
            return RewardTrainer(
                model=made,
                args=RewardConfig(max_length=64, gradient_checkpointing=False, **shared),
                train_dataset=Dataset.from_list(turns),
                processing_class=tokenizer,
            )
        rows = Dataset.from_list(
            [{"text": row["text"], "label": int(row["label"] == "glad")} for row in asked["data"]]
        ).map(lambda some: tokenizer(some["text"], truncation=True, max_length=64), batched=True)
        return Trainer(
            model=made,
            args=TrainingArguments(**shared),
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )


@pytest.mark.slow
def test_an_encoder_equals_the_documented_trainer(tiny_bert: Path, tmp_path: Path) -> None:
    """Dropout, and a pooler and a classifier that no file holds: the same draws in the same order."""
    import jupyter_ft
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    asked = {**CLASSIFY, "learning_rate": 1e-3}
    settings = {key: value for key, value in asked.items() if key != "data"}
    session = jupyter_ft.finetune(str(tiny_bert), TEXTS, "ours", dtype="float32", adapter="full", **settings)
    ours, our_hash = finish(session)
    trainer = _as_documented(tiny_bert, asked, "full", tmp_path / "bare")
    Streams.seeded(42).put()
    trainer.train()
    assert ours == [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert our_hash == hash_of(trained_tensors(trainer.model))


@pytest.mark.slow
@ADAPTERS
@BOTH
def test_it_equals_the_documented_trainer(
    tune: Any, tiny_model: Path, tmp_path: Path, asked: dict[str, Any], adapter: Any
) -> None:
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    session = tune("ours", adapter=adapter, **asked)
    ours, our_hash = finish(session)
    trainer = _as_documented(tiny_model, asked, adapter, tmp_path / "bare")
    Streams.seeded(42).put()
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert ours == logged
    assert our_hash == hash_of(trained_tensors(trainer.model))
    assert ours[-1] < ours[0]


def test_the_backbone_is_the_bases_own_storage(tiny_model: Path, tiny_bert: Path) -> None:
    import torch

    from jupyter_ft.heads import scoring_model
    from jupyter_ft.models import POOL

    for path, head in ((tiny_model, {"score"}), (tiny_bert, {"bert.pooler.dense", "classifier"})):
        base = POOL.get(str(path), revision=None, dtype="bfloat16", report=lambda *_: None)
        model = scoring_model(base, ("no", "yes", "perhaps"))
        base_storage = {p.data_ptr() for p in base.model.parameters()}
        assert set(model.head_modules) == head
        for name, parameter in model.named_parameters():
            own = any(name.startswith(module + ".") for module in head)
            assert (parameter.data_ptr() in base_storage) == (not own), name
            assert parameter.dtype == (torch.float32 if own else torch.bfloat16), name
        assert model.config.id2label == {0: "no", 1: "yes", 2: "perhaps"}
        weight = model.get_submodule(sorted(head)[-1]).weight
        assert weight.shape[0] == 3
        assert 0.005 < float(weight.std()) < 0.05  # drawn as the model draws it


def _alone(base: Path, adapter: Path, texts: list[str], pair: bool = False) -> Any:
    """The logits of PEFT and transformers, with nothing of ours."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    config = AutoConfig.from_pretrained(adapter)
    made = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype="float32")
    model = PeftModel.from_pretrained(made, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        return [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["llama", "bert"])
def test_peft_and_transformers_alone_load_the_result(tune: Any, tiny_model: Path, tiny_bert: Path, which: str) -> None:
    import torch
    from transformers import AutoConfig

    import jupyter_ft

    model = tiny_bert if which == "bert" else tiny_model
    settings = {**CLASSIFY, "dtype": "float32", "adapter": {"r": 4}}
    data = settings.pop("data")
    session = jupyter_ft.finetune(str(model), data, "ours", **settings).wait(timeout=60)
    assert losses(session)[-1] < losses(session)[0]
    text = "Order 5: wonderful!"
    reply = session.chat(text)
    (logits,) = _alone(model, session.folder / "adapter", [text])
    assert list(reply.scores) == ["angry", "glad"]
    torch.testing.assert_close(torch.tensor(list(reply.scores.values())), logits.softmax(-1))
    top = max(reply.scores, key=lambda label: reply.scores[label])
    assert reply.startswith(f"{top} {reply.scores[top]:.2f} · ")
    assert AutoConfig.from_pretrained(session.folder / "adapter").id2label == {0: "angry", 1: "glad"}


@pytest.mark.slow
def test_full_weights_are_a_classifier_that_can_be_loaded_and_tuned_again(tune: Any) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import jupyter_ft
    from jupyter_ft.heads import scoring_model
    from jupyter_ft.models import POOL

    session = tune("whole", adapter="full", **{**CLASSIFY, "learning_rate": 1e-3}).wait(timeout=60)
    reply = session.chat("Order 5: wonderful!")
    folder = session.folder / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        chances = model(**tokenizer("Order 5: wonderful!", return_tensors="pt")).logits[0].softmax(-1)
    torch.testing.assert_close(torch.tensor(list(reply.scores.values())), chances)
    base = POOL.get(str(folder), revision=None, dtype="float32", report=lambda *_: None)
    learnt = model.score.weight
    assert torch.equal(scoring_model(base, ["angry", "glad"]).score.weight, learnt)
    for other in (["glad", "sad"], ["angry", "glad", "sad"], []):  # no head for these: a new one
        fresh = scoring_model(base, other).score.weight
        assert len(fresh) == max(1, len(other))
        assert not torch.equal(fresh, learnt[: len(fresh)])
    settings = {**CLASSIFY, "dtype": "float32", "adapter": {"r": 4}, "epochs": 1}
    again = jupyter_ft.finetune(str(folder), settings.pop("data"), "again", **settings).wait(timeout=60)
    assert losses(again)[0] < losses(session)[0]


@pytest.mark.slow
def test_a_reward_model_scores_an_exchange(tune: Any, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    session = tune("scores", adapter={"r": 4}, **{**REWARD, "epochs": 4}).wait(timeout=60)
    asked = {"role": "user", "content": "Where is order 4?"}
    good, bad = (session.chat([asked, {"role": "assistant", "content": text}]) for text in ("On its way.", "No idea."))
    assert good.scores["score"] > bad.scores["score"]
    assert good == f"score {good.scores['score']:.3g}"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    turns = [[asked, {"role": "assistant", "content": "On its way."}], [asked]]
    texts = [tokenizer.apply_chat_template(turn, tokenize=False) for turn in turns]
    answered, prompt = (float(logits) for logits in _alone(tiny_model, session.folder / "adapter", texts))
    assert good.scores["score"] == pytest.approx(answered, abs=1e-5)
    alone = session.chat([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "score 0.1"}, asked])
    assert alone.scores["score"] == pytest.approx(prompt, abs=1e-5)


@pytest.mark.slow
@BOTH
def test_chatting_leaves_the_run_alone_and_speaks_for_a_step(tune: Any, asked: dict[str, Any]) -> None:
    from jupyter_ft.errors import Refused

    asked = {**asked, "adapter": {"r": 4}, "epochs": 4}
    quiet = finish(tune("quiet", **asked))
    session = tune("asked", **asked)
    question = [{"role": "user", "content": "Order 5: wonderful!"}]
    session.wait(step=1, timeout=60)
    receipts = [session.ask(question) for _ in range(4)]
    step = session.pause().wait(30)
    session.save().wait(30)
    live, visited = session.chat(question), session.chat(question, at=session.step)
    assert live.step == visited.step == session.step >= step
    assert live.scores == visited.scores
    session.resume().wait(30)
    assert finish(session) == quiet
    assert all(receipt.wait(30) >= 0 and receipt.answer.scores for receipt in receipts)
    assert session.chat(question).scores != live.scores
    with pytest.raises(Refused, match="its head is new"):
        session.chat(question, at="base")


@pytest.mark.slow
def test_label_smoothing_is_live_and_comes_back(tune: Any) -> None:
    asked = {**CLASSIFY, "adapter": {"r": 4}, "checkpoint_steps": 4}
    _live_and_back(tune, asked, label_smoothing=0.3)


@pytest.mark.slow
def test_center_rewards_coefficient_is_live_and_comes_back(tune: Any) -> None:
    asked = {**REWARD, "adapter": {"r": 4}, "epochs": 3, "checkpoint_steps": 4}
    _live_and_back(tune, asked, center_rewards_coefficient=0.5)


def _live_and_back(tune: Any, asked: dict[str, Any], **change: float) -> None:
    """A change counts from its step on, and a run that was stopped and resumed equals one that was not."""
    plain, _ = finish(tune("plain", **asked))
    session = tune("changed", **asked)
    session.set(step=6, **change)
    changed, final = finish(session)
    assert changed[:5] == plain[:5]
    assert changed[5] != plain[5]
    again = tune("stopped", **asked, until=7)
    again.set(step=6, **change)
    again.wait_until_over(60)
    again.resume().wait(30)
    assert finish(again) == (changed, final)


@pytest.mark.slow
def test_smoothing_is_transformers_own(tune: Any, tiny_model: Path, tmp_path: Path) -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    from jupyter_ft.control.lease import Streams

    ours, _ = finish(tune("ours", adapter={"r": 4}, label_smoothing=0.2, **CLASSIFY))
    trainer = _as_documented(tiny_model, CLASSIFY, {"r": 4}, tmp_path / "bare")
    trainer.label_smoother = LabelSmoother(epsilon=0.2)
    Streams.seeded(42).put()
    trainer.train()
    assert ours == [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
def test_a_step_in_micro_batches_has_the_loss_of_the_whole(tune: Any) -> None:
    """transformers adds the means of micro-batches up, as if they were sums over the rows of the step."""
    asked = {**CLASSIFY, "adapter": {"r": 4}, "max_grad_norm": 0, "trainer": {"optim": "sgd"}}
    whole, _ = finish(tune("whole", **{**asked, "batch_size": 6}))
    split, _ = finish(tune("split", **{**asked, "batch_size": 4, "accumulation": 2, "epochs": 1, "max_steps": 1}))
    two, _ = finish(tune("two", **{**asked, "batch_size": 8, "max_steps": 1}))
    assert split == pytest.approx(two, rel=1e-5)
    three, _ = finish(tune("three", **{**asked, "batch_size": 3, "accumulation": 2}))
    assert three == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_an_evaluation_tells_accuracy_f1_recall_and_the_matrix(tune: Any, tiny_model: Path) -> None:
    held = [dict(row) for row in TEXTS[:9]]
    asked = {**CLASSIFY, "data": TEXTS[9:], "adapter": {"r": 4}, "eval_steps": 4}
    folder = Path(tune("first", **{**asked, "eval_steps": None, "max_steps": 1}).wait(timeout=60).folder)
    file = folder / "held.jsonl"

    file.write_text("".join(json.dumps(row) + "\n" for row in held))
    plain, weights = finish(tune("plain", **{**asked, "eval_steps": None}))
    session = tune("scored", held_out=str(file), **asked)
    assert finish(session) == (plain, weights)  # looking does not touch
    event = [event for event in session.events if event.kind == "eval"][-1]
    names = ["angry", "glad"]
    guessed = [
        int(logits.argmax())
        for logits in _alone(tiny_model, folder.parent / "scored" / "adapter", [r["text"] for r in held])
    ]
    truth = [names.index(row["label"]) for row in held]
    counts = [[sum(t == a and g == b for t, g in zip(truth, guessed, strict=True)) for b in (0, 1)] for a in (0, 1)]
    assert event.confusion.model_dump() == {"labels": names, "counts": counts}
    assert event.metrics["eval_accuracy"] == pytest.approx(sum(map(int.__eq__, truth, guessed)) / 9)
    assert event.metrics["eval_recall_angry"] == pytest.approx(counts[0][0] / sum(counts[0]))
    ready = next(event for event in session.events if event.kind == "data")
    assert ready.labels == names
    assert "2 labels: 'angry' 9, 'glad' 18" in ready.said
    assert {"eval_accuracy", "eval_f1_macro"} <= set(session.metrics)


def test_metrics_by_hand() -> None:
    from jupyter_ft.methods.classification import TOLD_ONE_BY_ONE, metrics

    found = metrics([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2], ["a", "b", "c", "never"])
    assert found["confusion"]["counts"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1_macro"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)  # precision 1, 1/2, 1/2; recall 2/3, 1/2, 1
    assert {k: v for k, v in found.items() if k.startswith("recall_")} == {
        "recall_a": pytest.approx(2 / 3),
        "recall_b": 0.5,
        "recall_c": 1.0,
    }
    many = metrics([0], [0], [str(n) for n in range(TOLD_ONE_BY_ONE + 1)])
    assert set(many) == {"accuracy", "f1_macro"}


@pytest.mark.slow
def test_an_encoder_reads_no_more_than_it_has_room_for(tiny_bert: Path) -> None:
    import jupyter_ft
    from jupyter_ft.errors import RecipeError

    long = [{"text": "much too long " * 20, "label": "long"}, {"text": "short", "label": "short"}] * 3
    asked: dict[str, Any] = {"method": "classify", "dtype": "float32", "adapter": {"r": 2}}
    session = jupyter_ft.finetune(str(tiny_bert), long, "long", **asked).wait(timeout=60)
    assert "3 rows cut at max_length 48" in next(e.said for e in session.events if e.kind == "data")
    assert session.chat("much too long " * 30).tokens == 48
    with pytest.raises(RecipeError, match=r"is an encoder \(bert\): it writes no text, as sft wants; method: class"):
        jupyter_ft.finetune(str(tiny_bert), [{"prompt": "a", "completion": "b"}] * 3, "spoken")


@pytest.mark.slow
def test_a_past_run_answers_from_its_checkpoints(tune: Any) -> None:
    import jupyter_ft

    session = tune("past", adapter={"r": 4}, **CLASSIFY).wait(timeout=60)
    before = session.chat("Order 5: wonderful!")
    session.close()
    assert jupyter_ft.open("past").chat("Order 5: wonderful!").scores == before.scores


@pytest.mark.slow
@BOTH
def test_where_chat_has_no_room_the_run_waits_for_an_answer(tiny_model: Path, asked: dict[str, Any]) -> None:
    from jupyter_ft.errors import Refused
    from jupyter_ft.session import start as starting

    def start(name: str) -> Any:
        settings = {**asked, "dtype": "float32", "adapter": "full", "epochs": 4, "learning_rate": 1e-3}
        return starting._create(
            name, starting.plan(str(tiny_model), settings.pop("data"), settings), starting.NOTHING_AHEAD
        )

    quiet = start("quiet")
    quiet.launch()
    expected = finish(quiet)
    session = start("narrow")
    session.launch(room=0)
    session.wait(step=1, timeout=60)
    session.pause().wait(30)
    live = session.chat("Order 5: wonderful!")
    assert live.between_steps
    assert live.step == session.step
    with pytest.raises(Refused, match="its head is new"):
        session.chat("Order 5: wonderful!", at="base")
    session.resume().wait(30)
    assert finish(session) == expected
    over, copied = session.chat("Order 5: wonderful!"), quiet.chat("Order 5: wonderful!")
    assert over.scores == copied.scores != live.scores
