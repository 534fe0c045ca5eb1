"""Every command gets exactly one answer, and every event has a reader."""

from __future__ import annotations

import gc
import re
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft import messages
from jupyter_ft.messages import Ask, Hush, Pause, Resume, Save, Set, Stop

PANEL = Path(__file__).parents[2] / "labextension" / "panel"


def test_each_command_is_answered_once(tune: Any) -> None:
    session = tune(epochs=4)
    handed_in = [
        Set(changes={"learning_rate": 1e-4}),
        Set(changes={"learning_rate": -1}),
        Set(changes={"nonsense": 1}),
        Set(changes={"learning_rate": 1e-4}, step=10**6),
        Set(changes={"learning_rate": 2e-4}, step=30),
        Ask(messages=[{"role": "user", "content": "hi"}], max_new_tokens=5),
        Ask(messages=[{"role": "user", "content": "hi"}], at="nowhere"),
        (long := Ask(messages=[{"role": "user", "content": "hi"}], max_new_tokens=400)),
        (queued := Ask(messages=[{"role": "user", "content": "hi"}], max_new_tokens=400)),
        Hush(target=queued.id),
        Hush(target=long.id),
        Hush(target="nobody"),
        Resume(),
        Pause(),
        Pause(),
        Save(),
        Resume(),
        Save(),
        Stop(),
        Stop(),
        Pause(),
    ]
    session.wait(step=1, timeout=60)
    for command in handed_in:
        session.submit(command)
    session.wait(timeout=120)
    handed_in += [late := Set(changes={"learning_rate": 1e-4}), Save(), Stop()]
    for command in handed_in[-3:]:
        session.submit(command)
    for command in handed_in:
        assert session.log.wait_for(lambda c=command: session.log.answer(c.id) is not None, 60), command
    answers = Counter(e.command for e in session.events if isinstance(e, typing.get_args(messages.Answer)))
    assert answers == Counter(command.id for command in handed_in)
    assert session.log.answer(late.id).kind == "refused"


def test_commands_are_answered_while_it_loads_and_when_it_is_closed(tune: Any) -> None:
    session = tune("early", epochs=4)
    early = [Stop(), Pause(), Set(changes={"learning_rate": 1e-4}), Ask(messages=[{"role": "user", "content": "hi"}])]
    for command in early:
        session.submit(command)
    assert session.wait_until_over(60)
    assert session.state == "stopped"
    session.close()
    early += [Resume(), Ask(messages=[{"role": "user", "content": "hi"}]), Ask(messages=[])]
    for command in early[-3:]:
        session.submit(command)
    answers = Counter(e.command for e in session.events if isinstance(e, typing.get_args(messages.Answer)))
    assert answers == Counter(command.id for command in early)
    assert "is closed" in session.log.answer(early[-1].id).reason


def test_a_run_that_cannot_start_ends(tune: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    session = jupyter_ft.finetune(str(broken), [{"prompt": "a", "completion": "b"}], "broken")
    question = session.ask([{"role": "user", "content": "hi"}])
    with pytest.raises(jupyter_ft.errors.TrainingFailed, match="cannot be loaded"):
        session.wait(timeout=60)
    with pytest.raises(jupyter_ft.errors.Refused):
        question.wait(30)
    assert not (session.folder / "lock").exists()


def test_a_question_to_a_run_that_is_just_ending_is_answered(tune: Any) -> None:
    """After what waits was refused and before the last event: the run collects garbage there, and then we ask."""
    from jupyter_ft.control.lease import LEASE

    late: list[Any] = []

    def ask(phase: str, _: Any) -> None:
        if phase == "start" and not late and first.answer is not None and session.state == "loading":
            late.append(None)
            late[0] = session.ask([{"role": "user", "content": "still there?"}])

    with LEASE:  # the run cannot build its trainer, which will fail
        session = tune(adapter={"targets": "no_such_layer"})
        first = session.ask([{"role": "user", "content": "hi"}])
        gc.callbacks.append(ask)
    try:
        session.wait_until_over(60)
        with pytest.raises(jupyter_ft.errors.Refused, match="no_such_layer"):
            late[0].wait(10)
    finally:
        gc.callbacks.remove(ask)


@pytest.mark.slow
def test_a_save_that_fails_is_said_and_the_run_goes_on(tune: Any) -> None:
    session = tune("full", epochs=2, checkpoint_steps=3)
    (session.folder / "checkpoints").write_text("in the way")
    session.wait_until_over(60)
    assert session.step == session.total_steps
    assert {event.kind for event in session.events} >= {"save-failed"}
    assert session.state == "stopped"  # not finished: there is no result on disk
    assert "could not be written" in session.events[-1].note


def test_each_command_has_an_owner() -> None:
    from jupyter_ft.control.inbox import Inbox
    from jupyter_ft.control.obey import Obedience

    commands = set(typing.get_args(messages.Command))
    for_trainer, for_chat = set(typing.get_args(messages.ForTrainer)), set(typing.get_args(messages.ForChat))
    assert for_trainer | for_chat == commands
    assert not for_trainer & for_chat
    assert set(Obedience(typing.cast(Any, None), Inbox())._handlers) == for_trainer


def test_each_event_has_a_reader_in_the_panel() -> None:
    read = "".join((PANEL / name).read_text() for name in ("store.ts", "lines.ts"))
    known = set(re.findall(r'case "([a-z-]+)"', read))
    for event in typing.get_args(messages.Event):
        kind = event.model_fields["kind"].default
        if kind != "step":  # steps travel as columns
            assert kind in known, f"the panel does not know '{kind}'"
