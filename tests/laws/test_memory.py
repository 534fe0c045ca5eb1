"""Memory that runs out costs a micro-batch and not the run; a pause that gives memory back resumes to the bit."""

from __future__ import annotations

import gc
import math
import sys
import typing
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from jupyter_ft import messages
from jupyter_ft.errors import Refused, TrainingFailed
from jupyter_ft.messages import Ask, Pause, Resume, Save, Set, Stop

from ._runs import finish, losses

Short = Callable[..., None]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Short:
    """Have the model run out of memory when it learns from more than `most` rows at once, `times` times at most."""
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def limit(most: int, times: float = math.inf, error: Callable[[], Exception] | None = None) -> None:
        left = [times]

        def short_forward(self: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
            if input_ids.shape[0] > most and self.training and left[0] > 0:
                left[0] -= 1
                torch.rand(3)  # what a step draws before it fails
                raise error() if error else torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(self, input_ids, *args, **kwargs)

        monkeypatch.setattr(LlamaModel, "forward", short_forward)

    return limit


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The rows of each step that was done, in order."""
    from jupyter_ft.control.port import Port

    steps: list[tuple[int, ...]] = []
    end = Port.on_step_end

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        steps.append(tuple(self._rows))
        end(self, *args, **kwargs)

    monkeypatch.setattr(Port, "on_step_end", noted)
    return steps


def _kinds(session: Any, *kinds: str) -> list[Any]:
    return [event for event in session.events if event.kind in kinds]


ERRORS: list[Callable[[], Exception] | None] = [
    None,
    MemoryError,
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
def test_the_same_rows_are_learned_from_in_smaller_micro_batches(
    tune: Any, short: Short, seen: list[Any], error: Callable[[], Exception] | None
) -> None:
    short(4, error=error)
    session = tune("short", batch_size=8, epochs=2)
    session.wait(timeout=60)
    got, rows = losses(session), seen[:]
    told = _kinds(session, "memory-short")
    assert [(event.step, event.micro_batch) for event in told] == [(1, 4)]  # it is not tried again at each step
    assert "with 8 rows at once; the same rows go on in micro-batches of 4" in told[0].said
    assert session.hyperparameters.batch_size == 8
    assert session.metrics["mean_token_accuracy"].between(0, 1).all()
    seen.clear()
    roomy = tune("roomy", batch_size=4, accumulation=2, epochs=2)
    roomy.wait(timeout=60)
    assert rows == seen
    torch.testing.assert_close(torch.tensor(got), torch.tensor(losses(roomy)), rtol=1e-5, atol=1e-5)
    for epoch in range(2):
        used = Counter(row for step in rows[epoch * 7 : epoch * 7 + 7] for row in step)
        assert used == Counter(range(1, 51))


@pytest.mark.slow
def test_it_halves_until_it_fits_and_what_dropout_draws_is_drawn_again(tune: Any, short: Short) -> None:
    asked = {"adapter": {"r": 4, "dropout": 0.2}, "max_steps": 6}
    short(2)
    session = tune("short", batch_size=8, **asked)
    session.wait(timeout=60)
    assert [event.micro_batch for event in _kinds(session, "memory-short")] == [4, 2]
    roomy = tune("roomy", batch_size=2, accumulation=4, **asked)
    roomy.wait(timeout=60)
    torch.testing.assert_close(
        torch.tensor(losses(session)), torch.tensor(losses(roomy)), rtol=1e-5, atol=1e-5
    )  # the random state of the step was put back: the same masks


@pytest.mark.slow
def test_a_single_row_that_does_not_fit_pauses_and_loses_nothing(tune: Any, short: Short, seen: list[Any]) -> None:
    short(0, times=2)
    session = tune("stuck", batch_size=2, max_steps=5)
    with pytest.raises(TrainingFailed, match=r"paused by itself at step 0: memory ran out at step 1 with a single row"):
        session.wait(timeout=60)
    assert [event.micro_batch for event in _kinds(session, "memory-short")] == [1, 0]
    assert "max_length" in _kinds(session, "memory-short")[-1].said
    session.resume()  # somebody has made room
    session.wait(timeout=60)
    rows = seen[:]
    assert session.state == "finished"
    seen.clear()
    tune("roomy", batch_size=2, max_steps=5).wait(timeout=60)
    assert rows == seen


@pytest.mark.slow
def test_a_run_that_is_stopped_while_a_row_does_not_fit_resumes_with_that_row(
    tune: Any, short: Short, seen: list[Any]
) -> None:
    session = tune("stuck", batch_size=1, max_steps=40)
    session.wait(step=3, timeout=60)
    session.pause().wait(60)
    short(0, times=1)
    session.resume().wait(60)
    with pytest.raises(TrainingFailed, match="with a single row"):
        session.wait(timeout=60)
    session.save().wait(60)
    session.stop().wait(60)
    session.wait(timeout=60)
    assert session.state == "stopped"
    session.resume().wait(60)
    got = finish(session)
    rows = seen[:]
    seen.clear()
    assert got == finish(tune("roomy", batch_size=1, max_steps=40))
    assert rows == seen


def test_out_of_memory_elsewhere_is_one_clear_line(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ft.models import POOL

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(POOL, "get", full)
    session = tune("large")
    with pytest.raises(
        TrainingFailed, match=r"out of memory while loading .* free some: close other sessions"
    ) as caught:
        session.wait(timeout=60)
    assert "\n" not in str(caught.value)


# --- nothing is held --------------------------------------------------------------------------------------------------


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Any]]]:
    """Weak references to the trainers, their models, and the bases that runs of this test have made."""
    from jupyter_ft.methods import METHODS
    from jupyter_ft.models import POOL

    found: list[weakref.ref[Any]] = []
    sft, get = METHODS["sft"], POOL.get

    def noted(*args: Any, **kwargs: Any) -> Any:
        trainer = sft.build(*args, **kwargs)
        found.extend((weakref.ref(trainer), weakref.ref(trainer.model)))
        return trainer

    def noted_base(*args: Any, **kwargs: Any) -> Any:
        base = get(*args, **kwargs)
        found.append(weakref.ref(base.model))
        return base

    monkeypatch.setitem(METHODS, "sft", replace(sft, build=noted))
    monkeypatch.setattr(POOL, "get", noted_base)
    return found


def _alive(held: list[weakref.ref[Any]]) -> list[str]:
    gc.collect()
    return [type(ref()).__name__ for ref in held if ref() is not None]


@pytest.mark.slow
@pytest.mark.parametrize("word", ["explode", "memory"])
def test_a_run_that_failed_holds_nothing_also_after_a_failing_cell(
    tune: Any, held: list[Any], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_ft.control.port import Port

    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError("explode") if word == "explode" else torch.OutOfMemoryError("CUDA out of memory.")

    session = tune("failing", epochs=3)
    session.wait(step=2, timeout=60)
    session.pause().wait(60)
    monkeypatch.setattr(Port, "on_step_end", explode)
    session.resume().wait(60)
    shell = InteractiveShell.instance()
    shell.user_ns["failing"] = session
    try:
        result = shell.run_cell("failing.wait()")
        assert isinstance(result.error_in_exec, TrainingFailed)
        assert sys.last_value is result.error_in_exec
        assert ("out of memory after step" in str(result.error_in_exec)) == (word == "memory")
        shell.run_cell("failing")
        assert _alive(held[1:2] + held[2:3]) == []  # the trainer and its model; the voices stay for who asks
        session.close()
        assert _alive(held) == []
        assert "failing" in shell.user_ns
    finally:
        shell.reset(new_session=False)


@pytest.mark.slow
def test_a_pause_that_gives_the_memory_back_resumes_to_the_bit(tune: Any, held: list[Any]) -> None:
    asked = {"epochs": 2, "adapter": {"r": 4, "dropout": 0.1}}
    session = tune("freed", **asked)
    session.set(step=20, learning_rate=1e-3)
    session.wait(step=4, timeout=60)
    session.pause().wait(60)
    assert session.chat("Where is order 3?", max_new_tokens=3)
    at = session.pause(free_memory=True).wait(60)
    assert (session.state, session.step) == ("paused", at)
    assert len(held) == 3
    assert _alive(held) == []
    assert session.steps[-1] == at
    with pytest.raises(Refused, match="memory is given back; resume it first"):
        session.chat("Still there?")
    late = session.set(learning_rate=2e-3)
    assert session.save().wait(60) == at
    with pytest.raises(Refused, match="paused already"):
        session.pause(free_memory=True).wait(60)
    assert late.answer is None
    assert session.resume().wait(60) == at
    assert late.wait(60) == at + 1
    assert session.chat("And now?", max_new_tokens=3).step >= at
    got = finish(session)
    assert [mark.step for mark in session.changes] == [at + 1, 20]
    whole = tune("whole", **asked)
    whole.set(step=at + 1, learning_rate=2e-3)
    whole.set(step=20, learning_rate=1e-3)
    assert got == finish(whole)


@pytest.mark.slow
def test_a_run_whose_memory_is_given_back_can_be_stopped_and_opened(tune: Any, held: list[Any]) -> None:
    session = tune("freed", epochs=2)
    session.wait(step=3, timeout=60)
    at = session.pause(free_memory=True).wait(60)
    late = session.set(learning_rate=2e-3)
    assert session.stop().wait(60) == at
    session.wait(timeout=60)
    assert session.state == "stopped"
    with pytest.raises(Refused):
        late.wait(10)
    assert (session.folder / "adapter" / "adapter_model.safetensors").exists()
    assert session.chat("Where is order 3?", max_new_tokens=3).step == at
    session.resume().wait(60)
    assert finish(session) == finish(tune("whole", epochs=2))


def test_each_command_is_answered_once_around_memory_that_is_given_back(tune: Any) -> None:
    session = tune("freed", epochs=4)
    session.wait(step=2, timeout=60)
    question = [{"role": "user", "content": "hi"}]
    handed_in = [
        Set(changes={"learning_rate": 1e-4}), Pause(free_memory=True), Set(changes={"learning_rate": 2e-4}),
        Set(changes={"learning_rate": 3e-4}, step=40), Pause(), Save(), Ask(messages=question), Resume(),
        Set(changes={"learning_rate": 5e-4}), Pause(), Pause(free_memory=True), Stop(), Stop(), Save(),
    ]  # fmt: skip
    for command in handed_in:
        session.submit(command)
    assert session.wait_until_over(60)
    for command in handed_in:
        assert session.log.wait_for(lambda c=command: session.log.answer(c.id) is not None, 60), command
    answers = Counter(e.command for e in session.events if isinstance(e, typing.get_args(messages.Answer)))
    assert answers == Counter(command.id for command in handed_in)
    assert session.state == "stopped"


@pytest.mark.slow
def test_no_memory_is_given_back_where_the_checkpoint_cannot_be_written(tune: Any) -> None:
    session = tune("full", epochs=6, checkpoint_steps=10**6)
    (session.folder / "checkpoints").write_text("in the way")
    session.wait(step=2, timeout=60)
    with pytest.raises(Refused, match="so no memory is given back"):
        session.pause(free_memory=True).wait(60)
    (session.folder / "checkpoints").unlink()
    session.wait(timeout=60)
    assert session.state == "finished"
