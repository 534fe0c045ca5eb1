"""Columns of one question speak in one batch over one base, each as it speaks alone, and touch nothing."""

from __future__ import annotations

from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import AddressError
from jupyter_ft.magics.chat import Talk
from jupyter_ft.messages import Ask

from ._runs import finish, replies

QUESTION = "Where is order 3?"
MANY = {"epochs": 4, "snapshot_steps": 4, "learning_rate": 2e-2}


def ask(columns: list[tuple[Any, str]], turn: str, question: str = QUESTION, **more: Any) -> list[Any]:
    """What each column says, asked as a cell does."""
    talk = Talk()
    for number, (session, at) in enumerate(columns):
        messages = [{"role": "user", "content": question if number else question}]
        asked = Ask(messages=messages, at=session.chat_address(at), turn=turn, thread="cell", **more)
        talk.add(session, asked, at)
    talk.ask()
    talk.follow(lambda: None)
    return talk.columns


def alone(session: Any, at: str, **more: Any) -> str:
    return str(session.chat(QUESTION, at=at, **more))


def test_columns_across_steps_and_runs_speak_in_one_batch_as_each_does_alone(tune: Any) -> None:
    solo = finish(tune("solo", **MANY))
    a, b = tune("a", **MANY), tune("b", **MANY, adapter={"r": 2, "targets": ["q_proj", "down_proj"]})
    for run in (a, b):
        run.wait(step=20, timeout=60)
    while a.state == "running":  # beside training; what it says then is compared below
        assert [c.refused for c in ask([(a, "4"), (a, "live"), (b, "8")], "beside", max_new_tokens=5)] == [""] * 3
    assert finish(a) == solo
    finish(b)
    columns = [(a, "4"), (a, "12"), (a, "live"), (b, "20"), (b, "live"), (a, "base")]
    said = ask(columns, "turn", max_new_tokens=40)
    assert [column.done.together for column in said] == [6] * 6
    assert [column.step for column in said] == [4, 12, a.step, 20, b.step, 0]
    assert [c.text for c in said] == [alone(run, at, max_new_tokens=40) for run, at in columns]
    assert len({column.text for column in said}) >= 4  # else this proves little
    warm = {"max_new_tokens": 30, "temperature": 1.0, "seed": 5}
    drawn = ask(columns, "drawn", **warm)
    assert [c.text for c in drawn] == [alone(run, at, **warm) for run, at in columns]
