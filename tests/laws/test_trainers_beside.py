"""Trainers that a cell builds while a run lives: neither side takes accelerate's state away from the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ._runs import finish, losses


def in_the_middle(session: Any, at: int, do: Any) -> None:
    """Call `do` from this thread while the training thread is inside the step after `at`."""
    import threading

    from transformers import Trainer

    inside, done = threading.Event(), threading.Event()
    original = Trainer.training_step

    def step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == at and not inside.is_set():
            inside.set()
            assert done.wait(60)
        return original(trainer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", step)
        session.launch()
        assert inside.wait(60)
        try:
            do()
        finally:
            done.set()
        session.wait(timeout=120)


@pytest.fixture
def build(tiny_model: Path, tmp_path: Path) -> Any:
    """The arguments of a cell, and the trainer where it gets as far as that."""

    def make(only_arguments: bool) -> Any:
        from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

        args = TrainingArguments(str(tmp_path / "users"), use_cpu=True, bf16=True, report_to="none", disable_tqdm=True)
        if only_arguments:
            return args
        row = {"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4], "attention_mask": [1, 1, 1, 1]}
        return Trainer(model=AutoModelForCausalLM.from_pretrained(tiny_model), args=args, train_dataset=[row] * 16)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("only_arguments", [True, False])
def test_a_trainer_built_in_a_cell_leaves_a_run_alone(
    tune: Any, build: Any, monkeypatch: pytest.MonkeyPatch, only_arguments: bool
) -> None:
    from accelerate.state import AcceleratorState, PartialState

    from jupyter_ft.session.handle import Session

    alone = finish(tune("alone", max_steps=6))
    with monkeypatch.context() as patch:
        patch.setattr(Session, "launch", lambda session: None)
        session = tune("disturbed", max_steps=6)
    built: list[Any] = []
    in_the_middle(session, 2, lambda: built.append(build(only_arguments)))
    assert finish(session) == alone

    assert type(vars(PartialState)["_shared_state"]) is dict
    trainer = build(only_arguments=False) if only_arguments else built[0]
    assert AcceleratorState().mixed_precision == "bf16"  # the user's own is as the cell left it
    trainer.args.max_steps = 2
    assert trainer.train().global_step == 2


@pytest.mark.slow
def test_runs_of_different_precision_take_turns(tune: Any) -> None:
    solo = [finish(tune("solo-a", max_steps=8)), finish(tune("solo-b", max_steps=8, dtype="bfloat16"))]
    together = [tune("pair-a", max_steps=8), tune("pair-b", max_steps=8, dtype="bfloat16")]
    assert [finish(session) for session in together] == solo
    assert losses(together[0]) != losses(together[1])
