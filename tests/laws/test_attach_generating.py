"""`attach` to TRL's trainers that generate, built as their own pages build them: GRPO's and RLOO's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.control.lease import LEASE

from ._runs import history, losses, trained

PROMPTS = [
    {"prompt": [{"role": "user", "content": f"Where is order {number}?"}], "number": number} for number in range(9)
]
SEVERAL = {"gradient_accumulation_steps": 2, "steps_per_generation": 4}
"""A generation lasts two steps of two micro-batches: every other boundary is whole."""
KINDS = ("grpo", "rloo")


def letters(completions: list[Any], number: list[int], **_: Any) -> list[float]:
    """Distinct letters, and something of the row."""
    return [len(set(answer[0]["content"])) + 0.01 * one for answer, one in zip(completions, number, strict=True)]


def short(completions: list[Any], **_: Any) -> list[float]:
    return [-0.1 * len(answer[0]["content"]) for answer in completions]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Any:
    """Build a trainer of that kind; the same one for the same words, from the same global random state."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    def build(kind: str, **more: Any) -> Any:
        torch.manual_seed(7)
        trainer_class, config = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}[kind]
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 6,
            "learning_rate": 5e-3,
            "num_train_epochs": 2,
            "beta": 0.04,
            "logging_steps": 1,
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            "report_to": "none",
            "save_strategy": "no",
        }
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"),
            reward_funcs=[letters, short],
            args=config(**settings | more),
            train_dataset=Dataset.from_list(PROMPTS),
            eval_dataset=Dataset.from_list(PROMPTS[:2]),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            peft_config=LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        torch.manual_seed(11)
        return trainer

    return build


def _untimed(trainer: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if not k.endswith("step_time")} for entry in history(trainer)]


def _bare_losses(bare: Any) -> list[float]:
    return [entry["loss"] for entry in bare.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_attached_trainer_equals_the_bare_one(make: Any, kind: str) -> None:
    import jupyter_ft

    more = SEVERAL | {"eval_strategy": "steps", "eval_steps": 3, "warmup_steps": 0.25}
    bare = make(kind, **more)
    expected = bare.train()
    trainer = make(kind, **more)
    session = jupyter_ft.attach(trainer, name="mine")
    got = trainer.train()
    assert _untimed(trainer) == _untimed(bare)
    assert trained(trainer) == trained(bare)
    assert (got.global_step, got.training_loss) == (expected.global_step, expected.training_loss)
    assert losses(session) == _bare_losses(bare)
    rewards = [entry["reward"] for entry in bare.state.log_history if "reward" in entry]
    assert session.metrics["reward"].dropna().tolist() == rewards
    assert len(set(rewards)) > 2
    evaluated = {event.step: event for event in session.events if event.kind == "eval"}
    assert sorted(evaluated) == [3, 6, 8]
    assert evaluated[8].best_step == max(evaluated, key=lambda step: evaluated[step].metrics["eval_reward"])
    assert {"rewards/letters", "rewards/short", "completion"} <= set(session.completions.columns)
    assert session.total_steps == 8
    assert session.state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_looking_changes_nothing_and_what_is_stopped_goes_on_where_the_answers_are_used_up(
    make: Any, kind: str
) -> None:
    import jupyter_ft

    more = SEVERAL | {"num_train_epochs": 3}
    bare = make(kind, **more)
    bare.train()
    trainer = make(kind, **more)
    first = jupyter_ft.attach(trainer, name="mine")
    first.wait(step=1, timeout=60)
    assert trainer.evaluate()["eval_reward"] != 0
    assert first.chat("Where is it?", max_new_tokens=4).step <= first.step
    assert first.chat("Where is it?", at="base", max_new_tokens=4) is not None
    assert first.save().wait(60) % 2 == 0
    first.wait(step=5, timeout=60)
    assert first.stop().wait(60) % 2 == 0
    first.wait(timeout=60)
    assert 6 <= first.step < bare.state.global_step
    assert all(step % 2 == 0 for step in first.steps)
    first.close()
    trainer = make(kind, **more)
    session = jupyter_ft.attach(trainer, name="mine", resume=True)
    trainer.train()
    assert losses(session) == _bare_losses(bare)
    assert trained(trainer) == trained(bare)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("grpo", {"temperature": 0.6, "beta": 0.5}), ("rloo", {"reward_weights": [2.0, 0.5], "beta": 0.5})],
)
def test_a_live_field_is_what_it_would_be_from_the_start(make: Any, kind: str, changes: dict[str, Any]) -> None:
    import jupyter_ft

    bare = make(kind, max_steps=4, **changes)
    bare.train()
    trainer = make(kind, max_steps=4)
    with LEASE:  # it gets no turn before it is told
        session = jupyter_ft.attach(trainer, name="mine")
        told = session.set(step=1, **changes)
    assert told.wait(30) == 1
    slower = session.set(learning_rate=1e-3, step=4)
    trainer.train()
    assert losses(session) == _bare_losses(bare)
    assert slower.wait(30) == 4
    assert float(session.log.read()[0].steps["learning_rate"][3]) == 1e-3


def test_the_fields_of_a_preference_trainer_are_live_too(tiny_model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    import jupyter_ft

    def build(**more: Any) -> Any:
        settings = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none"}
        return DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32"),
            args=DPOConfig(**settings, max_steps=3, logging_steps=1, learning_rate=1e-3, save_strategy="no", **more),
            train_dataset=Dataset.from_list([{"prompt": "How?", "chosen": "So.", "rejected": "No."}] * 24),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
        )

    bare = build(beta=2.0)
    bare.train()
    trainer = build()
    with LEASE:
        session = jupyter_ft.attach(trainer, name="mine")
        told = session.set(beta=2.0, step=1)
    assert told.wait(30) == 1
    trainer.train()
    assert losses(session) == _bare_losses(bare)
    assert len(set(losses(session))) == 3


def test_what_cannot_be_is_said(make: Any) -> None:
    import jupyter_ft
    from jupyter_ft.errors import RecipeError, Refused

    trainer = make("grpo", gradient_accumulation_steps=2, num_generations=4)
    for name, value, said in [
        ("use_vllm", True, "use_vllm is not supported"),
        ("sync_ref_model", True, "sync_ref_model moves the reference"),
        ("steps_per_generation", 20, "10 prompts are answered at once .* and there are 9"),
    ]:
        before = getattr(trainer.args, name)
        setattr(trainer.args, name, value)
        with pytest.raises(Refused, match=said):
            jupyter_ft.attach(trainer, name="mine")
        setattr(trainer.args, name, before)
    session = jupyter_ft.attach(trainer, name="mine")
    for changes, said in [
        ({"batch_size": 4}, "'batch_size' is fixed once a run has started: how many answers"),
        ({"num_generations": 2}, "'num_generations' is fixed"),
        ({"reward_timeout": 3}, "'reward_timeout' is fixed"),
        ({"beta": 0}, "with 0 a run keeps no reference"),
    ]:
        with pytest.raises(RecipeError, match=said):
            session.set(**changes)
