"""Every command gets exactly one answer, and every event has a reader."""

from __future__ import annotations

import re
import typing
from collections import Counter
from pathlib import Path
from typing import Any

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


def test_each_command_has_an_owner() -> None:
    from jupyter_ft.control.inbox import Inbox
    from jupyter_ft.control.obey import Obedience

    commands = set(typing.get_args(messages.Command))
    for_trainer, for_chat = set(typing.get_args(messages.ForTrainer)), set(typing.get_args(messages.ForChat))
    assert for_trainer | for_chat == commands
    assert not for_trainer & for_chat
    assert set(Obedience(typing.cast(Any, None), Inbox())._handlers) == for_trainer


def test_each_event_has_a_reader_in_the_panel() -> None:
    source = "\n".join(path.read_text() for path in PANEL.glob("*.ts"))
    known = set(re.findall(r"""["']([a-z-]+)["']""", source))
    for event in typing.get_args(messages.Event):
        kind = event.model_fields["kind"].default
        if kind != "step":  # steps travel as columns
            assert kind in known, f"the panel does not know '{kind}'"
