"""An attached trainer equals the bare one in losses, weights and history; a notebook's next lines mean the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ._runs import history, losses, trained, untimed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "peft", "dropout", "more"),
    [
        ("sft", True, 0.1, {"eval_strategy": "steps", "eval_steps": 4}),
        ("sft", False, 0.0, {"gradient_accumulation_steps": 3, "num_train_epochs": 2}),
        ("plain", True, 0.0, {"gradient_accumulation_steps": 3, "lr_scheduler_type": "cosine", "warmup_steps": 2}),
        ("plain", False, 0.1, {"dataloader_drop_last": True, "num_train_epochs": 2}),
        ("plain", True, 0.1, {"train_sampling_strategy": "group_by_length", "gradient_accumulation_steps": 2}),
        (
            "plain",
            True,
            0.0,
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0, "lr_end": 1e-4}},
        ),
        ("plain", True, 0.0, {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}}),
        ("plain", True, 0.0, {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 3}),
        ("plain", True, 0.0, {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-3}}),
        (
            "plain",
            True,
            0.0,
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 4},
                "warmup_steps": 2,
            },
        ),
    ],
)
def test_an_attached_trainer_equals_the_bare_one(build: Any, kind: str, peft: bool, dropout: float, more: Any) -> None:
    import jupyter_ft

    bare = build(kind, peft, dropout, **more)
    expected = bare.train()
    trainer = build(kind, peft, dropout, **more)
    callbacks, args = list(trainer.callback_handler.callbacks), trainer.args.to_dict()
    session = jupyter_ft.attach(trainer, name="mine")
    got = trainer.train()

    assert history(trainer) == history(bare)
    assert trained(trainer) == trained(bare)
    assert (got.global_step, got.training_loss) == (expected.global_step, expected.training_loss)
    assert losses(session) == [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
    assert trainer.train() is got
    assert trainer.callback_handler.callbacks == callbacks
    assert trainer.args.to_dict() == args
    assert not {"evaluate", "save_model", "_load_best_model"} & set(vars(trainer))
    assert trainer.optimizer.step.__code__ is bare.optimizer.step.__code__
    assert not {"generate", "save_pretrained"} & set(vars(trainer.model))
    assert untimed(trainer.evaluate()) == untimed(bare.evaluate())


def test_an_optimizer_that_changes_weights_outside_its_steps_lends_its_model_for_replies(build: Any) -> None:
    import jupyter_ft

    session = jupyter_ft.attach(build("plain", True, 0.0, optim="schedule_free_adamw"), name="mine")
    (said,) = [event.said for event in session.events if event.kind == "chat-waits"]
    assert "its optimizer changes them outside its steps" in said


@pytest.mark.slow
def test_calls_from_a_cell_are_served_and_change_nothing(build: Any, tmp_path: Path) -> None:
    import torch

    import jupyter_ft

    bare = build(num_train_epochs=2, dropout=0.1)
    bare.train()
    trainer = build(num_train_epochs=2, dropout=0.1)
    session = jupyter_ft.attach(trainer, name="served")
    session.wait(step=2, timeout=60)
    session.pause().wait(60)
    step = session.step
    paused = trainer.evaluate()
    assert trainer.state.global_step == step
    assert paused["eval_loss"] > 0
    trainer.model.save_pretrained(tmp_path / "kept")
    assert (tmp_path / "kept" / "adapter_model.safetensors").is_file()
    said = trainer.model.generate(input_ids=torch.tensor([[1, 5, 9]]), max_new_tokens=4, do_sample=True)
    assert said.shape[0] == 1
    session.resume().wait(60)
    trainer.evaluate()
    trainer.train()
    assert losses(session) == [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
    assert trained(trainer) == trained(bare)


@pytest.mark.slow
def test_chat_speaks_with_the_weights_of_its_step_and_with_the_base(build: Any) -> None:
    import torch

    import jupyter_ft

    trainer = build(num_train_epochs=2, learning_rate=3e-2)
    prompt = trainer.processing_class.apply_chat_template(
        [{"role": "user", "content": "Where is order 3?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]

    def greedy(model: Any) -> str:
        model.eval()
        out = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30)
        return str(trainer.processing_class.decode(out[0, prompt.shape[1] :], skip_special_tokens=True))

    with trainer.model.disable_adapter():
        before = greedy(trainer.model)
    session = jupyter_ft.attach(trainer, name="talks")
    session.wait(step=3, timeout=60)
    assert session.chat("Where is order 3?", at="base", max_new_tokens=30) == before
    trainer.train()
    live = session.chat("Where is order 3?", max_new_tokens=30)
    assert live.step == session.step
    assert live == greedy(trainer.model)
    assert live != before


@pytest.mark.slow
def test_chat_speaks_with_the_best_weights_once_they_are_loaded(build: Any) -> None:
    from transformers import TrainerCallback

    import jupyter_ft

    evaluated, asked = threading.Event(), threading.Event()

    class LastEvaluation(TrainerCallback):
        """The run stands still after its last step, until somebody has asked for its weights."""

        def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == state.max_steps:
                evaluated.set()
                assert asked.wait(60)

    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    every = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = build(max_steps=6, learning_rate=5e-2, **best, **every)
    trainer.add_callback(LastEvaluation())
    session = jupyter_ft.attach(trainer, name="mine")
    assert evaluated.wait(60)
    last = session.chat("Where is order 3?", max_new_tokens=30)
    asked.set()
    trainer.train()
    live = session.chat("Where is order 3?", max_new_tokens=30)
    assert trainer.state.best_global_step < session.step == 6  # of the losses the highest
    assert live != last
    prompt = trainer.processing_class.apply_chat_template(
        [{"role": "user", "content": "Where is order 3?"}], add_generation_prompt=True, return_tensors="pt"
    )
    said = trainer.model.eval().generate(**prompt, max_new_tokens=30)[0, prompt["input_ids"].shape[1] :]
    assert live == trainer.processing_class.decode(said, skip_special_tokens=True)


@pytest.mark.slow
def test_resumed_equals_uninterrupted(build: Any) -> None:
    import jupyter_ft
    from jupyter_ft.errors import Refused, RunFolderError

    bare = build(num_train_epochs=2, dropout=0.1)
    bare.train()
    first = jupyter_ft.attach(build(num_train_epochs=2, dropout=0.1), name="again")
    first.wait(step=5, timeout=60)
    first.stop().wait(60)
    first.wait(timeout=60)
    assert first.state == "stopped"
    first.close()

    past = jupyter_ft.open("again")
    with pytest.raises(Refused, match=r"it was attached.*attach\(trainer, name='again', resume=True\)"):
        past.resume().wait(5)
    with pytest.raises(RunFolderError, match="learning_rate"):
        jupyter_ft.attach(build(num_train_epochs=2, dropout=0.1, learning_rate=1e-3), name="again", resume=True)

    trainer = build(num_train_epochs=2, dropout=0.1)
    session = jupyter_ft.attach(trainer, name="again", resume=True)
    assert trainer.train().global_step == bare.state.global_step
    assert losses(session) == [entry["loss"] for entry in bare.state.log_history if "loss" in entry]
    assert trained(trainer) == trained(bare)


@pytest.mark.slow
def test_a_resumption_has_the_history_and_the_output_of_transformers_own(build: Any, tmp_path: Path) -> None:
    import numpy as np
    from transformers import TrainerCallback

    import jupyter_ft

    class Logs(TrainerCallback):
        def __init__(self, kind: Any) -> None:
            self.kind = kind

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            state.log_history[-1]["own"] = self.kind(state.global_step)

    class Stops(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_save = control.should_training_stop = state.global_step == stopped

    def make(kind: Any = float) -> Any:
        trainer = build(num_train_epochs=2, dropout=0.1, eval_strategy="steps", eval_steps=4, logging_steps=3)
        trainer.add_callback(Logs(kind))
        return trainer

    first = jupyter_ft.attach(make(np.float32), name="parted")
    first.wait(step=5, timeout=60)
    first.stop().wait(60)
    first.wait(timeout=60)
    stopped = first.step
    first.close()
    bare = make()
    bare.add_callback(Stops())
    bare.train()
    bare = make()
    expected = bare.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{stopped}"))

    trainer = make()
    jupyter_ft.attach(trainer, name="parted", resume=True)
    got = trainer.train()
    assert history(trainer) == history(bare)
    assert [entry["step"] for entry in history(trainer) if "loss" in entry][:2] == [3, 6]
    assert (got.global_step, got.training_loss) == (expected.global_step, expected.training_loss)
    assert untimed(got.metrics) == untimed(expected.metrics)


@pytest.mark.slow
def test_what_cannot_be_attached_is_refused_in_one_line(build: Any) -> None:
    import jupyter_ft
    from jupyter_ft.errors import Refused, TrainingFailed

    with pytest.raises(Refused, match="this is a dict"):
        jupyter_ft.attach({}, name="x")
    trainer = build(max_steps=3)
    jupyter_ft.attach(trainer, name="x")
    with pytest.raises(Refused, match="already has a session"):
        jupyter_ft.attach(trainer, name="y")
    trainer.train()
    trained_one = build("plain", max_steps=1)
    trained_one.train()
    with pytest.raises(Refused, match="has trained"):
        jupyter_ft.attach(trained_one, name="y")
    by_loss = build("plain", lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="epoch")
    with pytest.raises(Refused, match=r"schedule 'reduce_lr_on_plateau' follows the losses.*use one that"):
        jupyter_ft.attach(by_loss, name="y")
    with pytest.raises(Refused, match=r"schedule 'cosine_with_min_lr' cannot be made: .*min_lr"):
        jupyter_ft.attach(build("plain", lr_scheduler_type="cosine_with_min_lr"), name="y")

    from transformers import TrainerCallback

    class Breaks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise ValueError("the user's own")

    broken = build("plain", max_steps=3)
    broken.add_callback(Breaks())
    jupyter_ft.attach(broken, name="breaks")
    with pytest.raises(TrainingFailed, match="the user's own"):
        broken.train()


def rates(session: Any) -> list[float]:
    return [float(rate) for rate in session.log.read()[0].steps["learning_rate"]]


@pytest.mark.slow
def test_a_rate_that_is_set_is_followed_by_the_rest_of_the_trainers_own_shape(build: Any) -> None:
    import jupyter_ft

    own = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0, "lr_end": 1e-4}}
    own |= {"num_train_epochs": 4}
    unchanged = jupyter_ft.attach(build("plain", **own), name="unchanged")
    before = rates(unchanged.wait(timeout=60))
    session = jupyter_ft.attach(build("plain", **own), name="changed")
    applied = session.set(learning_rate=1e-3, step=6)
    session.wait(timeout=60)
    assert applied.answer.changes == {"learning_rate": (pytest.approx(before[5]), 1e-3)}
    assert rates(session)[:5] == before[:5]
    assert rates(session)[5:] == pytest.approx([1e-3 * rate / before[5] for rate in before[5:]])

    stopped = jupyter_ft.attach(build("plain", **own), name="parted")
    stopped.set(learning_rate=1e-3, step=6)
    stopped.wait(step=8, timeout=60)
    stopped.stop().wait(60)
    stopped.wait(timeout=60)
    stopped.close()
    trainer = build("plain", **own)
    again = jupyter_ft.attach(trainer, name="parted", resume=True)
    trainer.train()
    assert rates(again) == rates(session)
    assert losses(again) == losses(session)


@pytest.mark.slow
def test_a_shape_that_would_rise_above_the_rate_that_is_set_ends_there_and_it_is_said(build: Any) -> None:
    import jupyter_ft

    restarts = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}}
    session = jupyter_ft.attach(build("plain", **restarts), name="restarts")
    early, last = session.set(learning_rate=1e-3, step=4), session.set(schedule="linear", step=11)
    session.wait(timeout=60)
    assert early.answer.changes["schedule"] == ("trainer", "constant")
    assert rates(session)[3:10] == [1e-3] * 7
    assert last.answer.changes == {"schedule": ("constant", "linear")}
    assert rates(session)[-1] < 1e-3

    late = jupyter_ft.attach(build("plain", **restarts), name="late")
    in_the_last_cycle = late.set(learning_rate=1e-3, step=11)
    late.wait(timeout=60)
    assert set(in_the_last_cycle.answer.changes) == {"learning_rate"}
    assert rates(late)[10:] == sorted(rates(late)[10:], reverse=True)
    assert rates(late)[-1] < 5e-4
