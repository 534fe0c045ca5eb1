"""`attach` to trainers of every kind, built as TRL's and transformers' own pages build them: the losses are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ._runs import history, losses, trained, untimed

QUESTIONS = [f"Where is order {number}?" for number in range(20)]
KINDS = ("dpo", "dpo full", "kto", "reward", "classification", "masked", "masked unseeded")
MANY = 20  # epochs: a run that is to be stopped is far from its end when it is told
"""With the collator's own generator, and with torch's global one, from which dropout draws as well."""


def _settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 5e-3,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
    } | more


def _turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _of_trl(kind: str, model: Path, settings: dict[str, Any]) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    pairs = [
        {
            "prompt": _turn("user", question),
            "chosen": _turn("assistant", "On its way."),
            "rejected": _turn("assistant", f"No idea about {number}."),
        }
        for number, question in enumerate(QUESTIONS)
    ]
    rated = [
        {
            "prompt": pair["prompt"],
            "completion": pair["chosen" if number % 2 else "rejected"],
            "label": bool(number % 2),
        }
        for number, pair in enumerate(pairs)
    ]
    rows = Dataset.from_list(rated if kind == "kto" else pairs)
    settings |= {"bf16": False}
    lora = (
        None
        if kind == "dpo full"
        else LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    if kind == "reward":
        scores = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype="float32")
        lora.modules_to_save = ["score"]
        build, config = RewardTrainer, RewardConfig(max_length=128, **settings)
        lora.task_type = "SEQ_CLS"
    else:
        scores = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
        build, config = (KTOTrainer, KTOConfig(**settings)) if kind == "kto" else (DPOTrainer, DPOConfig(**settings))
    return build(
        model=scores,
        args=config,
        train_dataset=rows,
        eval_dataset=rows.select(range(8)),
        processing_class=tokenizer,
        peft_config=lora,
    )


def _of_transformers(kind: str, model: Path, settings: dict[str, Any]) -> Any:
    import numpy as np
    from datasets import Dataset
    from transformers import (
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = Dataset.from_list([{"text": q, "label": number % 2} for number, q in enumerate(QUESTIONS)])
    rows = texts.map(lambda some: tokenizer(some["text"], truncation=True, max_length=40), batched=True)
    shared = {"args": TrainingArguments(**settings), "processing_class": tokenizer}
    if kind.startswith("masked"):
        rows = rows.remove_columns(["text", "label"])
        return Trainer(
            model=AutoModelForMaskedLM.from_pretrained(model),
            train_dataset=rows,
            eval_dataset=rows.select(range(8)),
            data_collator=DataCollatorForLanguageModeling(
                tokenizer, mlm_probability=0.15, seed=5 if kind == "masked" else None
            ),
            **shared,
        )

    def compute_metrics(seen: Any) -> dict[str, float]:
        logits, labels = seen
        return {"accuracy": float((np.argmax(logits, axis=-1) == labels).mean())}

    return Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            model, num_labels=2, id2label={0: "even", 1: "odd"}, label2id={"even": 0, "odd": 1}
        ),
        train_dataset=rows,
        eval_dataset=rows.select(range(8)),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        **shared,
    )


@pytest.fixture
def make(tiny_model: Path, tiny_bert: Path, tmp_path: Path) -> Any:
    """Build a trainer of that kind; the same one for the same words, from the same global random state."""
    import torch

    def build(kind: str, **more: Any) -> Any:
        torch.manual_seed(7)
        settings = _settings(tmp_path / "out", **more)
        if kind.startswith(("classification", "masked")):
            trainer = _of_transformers(kind, tiny_bert, settings)
        else:
            trainer = _of_trl(kind, tiny_model, settings)
        torch.manual_seed(11)
        return trainer

    return build


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_attached_trainer_equals_the_bare_one(make: Any, kind: str) -> None:
    import torch

    import jupyter_ft

    more = {"eval_strategy": "steps", "eval_steps": 4, "gradient_accumulation_steps": 1 if kind == "kto" else 2}
    bare = make(kind, **more)
    expected = bare.train()
    trainer = make(kind, **more)
    session = jupyter_ft.attach(trainer, name="mine")
    got = trainer.train()
    assert history(trainer) == history(bare)
    assert trained(trainer) == trained(bare)
    assert (got.global_step, got.training_loss) == (expected.global_step, expected.training_loss)
    assert losses(session) == [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
    assert [event.step for event in session.events if event.kind == "eval"]
    evaluated = []
    for one in (trainer, bare):
        torch.manual_seed(3)  # masks may be drawn from it
        evaluated.append(untimed(one.evaluate()))
    assert evaluated[0] == evaluated[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_looking_changes_nothing_and_what_is_stopped_goes_on(make: Any, kind: str) -> None:
    import jupyter_ft

    bare = make(kind, num_train_epochs=MANY)
    bare.train()
    trainer = make(kind, num_train_epochs=MANY)
    first = jupyter_ft.attach(trainer, name="mine")
    first.wait(step=2, timeout=60)
    assert trainer.evaluate()["eval_loss"] > 0
    assert first.chat("Where is [MASK]?" if "masked" in kind else "Where is it?", max_new_tokens=4)
    first.save().wait(60)
    first.wait(step=8, timeout=60)
    first.stop().wait(60)
    first.wait(timeout=60)
    assert 8 <= first.step < bare.state.global_step
    first.close()
    trainer = make(kind, num_train_epochs=MANY)
    session = jupyter_ft.attach(trainer, name="mine", resume=True)
    trainer.train()
    expected = [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
    assert losses(session) == expected, f"stopped at {first.step}"
    assert trained(trainer) == trained(bare)


@pytest.mark.slow
def test_masks_come_back_also_where_a_batch_was_made_another_beyond_the_checkpoint(make: Any) -> None:
    """In mid-epoch: what was collated ahead is let go by the edit, resumed or not."""
    import jupyter_ft

    whole = jupyter_ft.attach(make("masked unseeded", num_train_epochs=MANY), name="whole")
    whole.set(batch_size=3, step=8)
    whole.wait(timeout=60)
    parted = jupyter_ft.attach(make("masked unseeded", num_train_epochs=MANY), name="parted")
    parted.set(batch_size=3, step=8)
    parted.set(checkpoint_steps=7, step=2)
    parted.wait(step=10, timeout=60)
    parted.stop().wait(60)
    parted.wait(timeout=60)
    assert 7 in parted.steps
    _forget_after(parted, 7)
    parted.close()
    again = jupyter_ft.attach(make("masked unseeded", num_train_epochs=MANY), name="parted", resume=True)
    again.wait(timeout=60)
    assert losses(again) == losses(whole)


class Hiding:
    """A collator of the user's own, which hides words by a generator of its own, `made` when it is, or at first use."""

    def __init__(self, tokenizer: Any, made: bool) -> None:
        self.tokenizer = tokenizer
        self.generator = self._new() if made else None

    def _new(self) -> Any:
        import torch

        return torch.Generator().manual_seed(3)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch = self.tokenizer.pad(rows, return_tensors="pt")
        ids = batch["input_ids"]
        self.generator = self.generator or self._new()
        hidden = torch.rand(ids.shape, generator=self.generator) < 0.3
        hidden[:, 1] = True
        batch["labels"] = ids.masked_fill(~hidden, -100)
        batch["input_ids"] = ids.masked_fill(hidden, self.tokenizer.mask_token_id)
        return dict(batch)


@pytest.mark.slow
@pytest.mark.parametrize("made", [True, False])
def test_masks_of_ones_own_collator_come_back(make: Any, made: bool) -> None:

    def build() -> Any:
        trainer = make("masked", num_train_epochs=MANY)
        trainer.data_collator = Hiding(trainer.processing_class, made)
        return trainer

    _stopped_and_resumed_equals_bare(build)


def _stopped_and_resumed_equals_bare(build: Any, meanwhile: Any = lambda trainer: None) -> None:
    """`meanwhile(trainer)` is what a cell does with the trainer at work."""
    import jupyter_ft

    bare = build()
    bare.train()
    trainer = build()
    first = jupyter_ft.attach(trainer, name="mine")
    first.set(checkpoint_steps=7, step=2)
    first.wait(step=2, timeout=60)
    meanwhile(trainer)
    first.wait(step=8, timeout=60)
    first.stop().wait(60)
    first.wait(timeout=60)
    first.close()
    trainer = build()
    session = jupyter_ft.attach(trainer, name="mine", resume=True)
    trainer.train()
    assert first.step < session.step
    assert losses(session) == [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
    assert trained(trainer) == trained(bare)


class HidingByNumbers(Hiding):
    """The same by numpy's or Python's generators, under a name of the user's; or by the global ones."""

    def __init__(self, tokenizer: Any, kind: str, made: bool) -> None:
        self.kind, self.dice = kind, None
        super().__init__(tokenizer, made)

    def _new(self) -> Any:
        import random

        import numpy as np

        kinds = {
            "Random": lambda: random.Random(3),
            "Generator": lambda: np.random.default_rng(3),
            "Philox": lambda: np.random.Generator(np.random.Philox(3)),
            "RandomState": lambda: np.random.RandomState(3),
            "random": lambda: random,
            "numpy.random": lambda: np.random,
        }
        self.dice = kinds[self.kind]()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        if self.dice is None:
            self._new()
        batch = self.tokenizer.pad(rows, return_tensors="pt")
        ids = batch["input_ids"]
        drawn = [[self.dice.random() for _ in row] for row in ids]
        hidden = torch.tensor(drawn) < 0.3
        hidden[:, 1] = True
        batch["labels"] = ids.masked_fill(~hidden, -100)
        batch["input_ids"] = ids.masked_fill(hidden, self.tokenizer.mask_token_id)
        return dict(batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "made"),
    [("Random", True), ("Random", False), ("Generator", True), ("Generator", False), ("Philox", True),
     ("RandomState", True), ("RandomState", False), ("random", True), ("numpy.random", True)],
)  # fmt: skip
def test_what_a_collator_draws_by_numpy_or_python_comes_back(make: Any, kind: str, made: bool) -> None:
    """An evaluation from a cell draws too, and is put back."""
    import random

    import numpy as np

    def build() -> Any:
        trainer = make("masked", num_train_epochs=MANY)
        trainer.data_collator = HidingByNumbers(trainer.processing_class, kind, made)
        random.seed(5)
        np.random.seed(5)
        return trainer

    def evaluated(trainer: Any) -> None:
        assert trainer.evaluate()["eval_loss"] > 0

    _stopped_and_resumed_equals_bare(build, evaluated)


@pytest.mark.slow
def test_a_checkpoint_that_keeps_no_states_of_numpys_and_pythons_still_loads(make: Any) -> None:
    import json

    import jupyter_ft
    from jupyter_ft.runs import STATE, _seal

    first = jupyter_ft.attach(make("masked unseeded", num_train_epochs=MANY), name="mine")
    first.wait(step=3, timeout=60)
    first.stop().wait(60)
    first.wait(timeout=60)
    first.close()
    folder = first.run_folder.checkpoint(first.step)
    state = json.loads((folder / STATE).read_text())
    del state["collator"], state["own"]["ahead"]["draws"][2:]
    (folder / STATE).write_text(json.dumps(state))
    (folder / "manifest.json").unlink()
    _seal(folder, first.step)
    again = jupyter_ft.attach(make("masked unseeded", num_train_epochs=MANY), name="mine", resume=True)
    again.wait(timeout=60)
    whole = jupyter_ft.attach(make("masked unseeded", num_train_epochs=MANY), name="whole").wait(timeout=60)
    assert losses(again) == losses(whole)


def _forget_after(session: Any, step: int) -> None:
    """As if the kernel had been killed before the later checkpoints."""
    import shutil

    for other in session.steps:
        if other > step:
            shutil.rmtree(session.run_folder.checkpoint(other))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_live_edits_reach_it(make: Any, kind: str) -> None:
    import jupyter_ft

    session = jupyter_ft.attach(make(kind), name="mine")
    applied = session.set(learning_rate=1e-3, batch_size=2, step=4)
    session.wait(timeout=60)
    assert applied.wait(30) == 4
    rates = [float(rate) for rate in session.log.read()[0].steps["learning_rate"]]
    assert rates[3] == 1e-3
    assert session.step == 3 + 4 + 10  # twelve rows by four, eight by two, and all twenty by two
    assert max(rates[4:]) <= 1e-3


@pytest.mark.slow
def test_a_classifier_answers_with_labels_a_reward_model_with_a_score(make: Any) -> None:
    import torch

    import jupyter_ft

    trainer = make("classification")
    session = jupyter_ft.attach(trainer, name="labels")
    trainer.train()
    reply = session.chat("Where is order 3?")
    ids = trainer.processing_class("Where is order 3?", return_tensors="pt")
    with torch.no_grad():
        chances = trainer.model.eval()(**ids).logits[0].softmax(-1)
    assert list(reply.scores) == ["even", "odd"]
    torch.testing.assert_close(torch.tensor(list(reply.scores.values())), chances)

    trainer = make("reward")
    session = jupyter_ft.attach(trainer, name="score")
    trainer.train()
    asked, told = _turn("user", "Where is order 4?"), _turn("assistant", "On its way.")
    reply = session.chat([*asked, *told])
    row = trainer.processing_class.apply_chat_template([*asked, *told], return_tensors="pt", return_dict=True)
    with torch.no_grad():
        assert reply.scores["score"] == pytest.approx(float(trainer.model.eval()(**row).logits), abs=1e-5)

    trainer = make("masked")
    session = jupyter_ft.attach(trainer, name="words")
    trainer.train()
    reply = session.chat("Where is ord[MASK]r 3?")
    ids = trainer.processing_class("Where is ord[MASK]r 3?", return_tensors="pt")
    with torch.no_grad():
        logits = trainer.model.eval()(**ids).logits[0]
    at = int((ids["input_ids"][0] == trainer.processing_class.mask_token_id).nonzero())
    assert sum(reply.scores.values()) == pytest.approx(float(logits[at].softmax(-1).topk(5).values.sum()), abs=1e-5)
