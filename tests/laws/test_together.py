"""Columns of one question speak in one batch over one base, each as it speaks alone, and touch nothing."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_ft.errors import AddressError
from jupyter_ft.magics.chat import Talk
from jupyter_ft.messages import Ask, Hush
from jupyter_ft.session.together import check_columns

from ._runs import finish

QUESTION = [{"role": "user", "content": "Where is order 3?"}]
LONGER = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well, hello."}, *QUESTION]
MANY = {"epochs": 2, "snapshot_steps": 2, "learning_rate": 2e-2}


def put(columns: list[tuple[Any, str]], messages: Any = QUESTION, **more: Any) -> Talk:
    """Ask every column at once, as a cell does; every second one may have a longer conversation behind it."""
    talk = Talk()
    for number, (session, at) in enumerate(columns):
        own = messages if isinstance(messages[0], dict) else messages[number % 2]
        asked = Ask(messages=own, at=session.chat_address(at), turn=f"turn-{id(talk)}", thread="cell", **more)
        talk.add(session, asked, at)
    talk.ask()
    return talk


def said(columns: list[tuple[Any, str]], messages: Any = QUESTION, **more: Any) -> list[Any]:
    talk = put(columns, messages, **more)
    talk.follow(lambda: None)
    return talk.columns


@pytest.mark.slow
def test_columns_across_steps_and_runs_speak_in_one_batch_as_each_does_alone(
    tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    solo = finish(tune("solo", **MANY))
    a, b = tune("a", **MANY), tune("b", **MANY, adapter={"r": 2, "targets": ["q_proj", "down_proj"]})
    for run in (a, b):
        run.wait(step=12, timeout=60)
    while a.state == "running":
        assert [c.refused for c in said([(a, "4"), (a, "live"), (b, "8")], max_new_tokens=5)] == ["", "", ""]
    assert finish(a) == solo  # columns beside it have left it as it was
    finish(b)
    # all come, however slowly they are read from the disk
    monkeypatch.setattr("jupyter_ft.sampling.round.PATIENCE", 60.0)
    monkeypatch.setattr("jupyter_ft.sampling.chat.GATHERING", 60.0)
    columns = [(a, "4"), (a, "12"), (a, "live"), (b, "20"), (b, "live"), (a, "base")]
    warm = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5}
    for messages, more in (
        (QUESTION, {"max_new_tokens": 40}),
        ([QUESTION, LONGER], {"max_new_tokens": 12}),
        (QUESTION, warm),
    ):
        together = said(columns, messages, **more)
        assert [column.done.together for column in together] == [6] * 6
        assert [column.step for column in together] == [4, 12, a.step, 20, b.step, 0]
        own = [messages if messages is QUESTION else messages[number % 2] for number in range(6)]
        alone = [str(run.chat(m, at=at, **more)) for (run, at), m in zip(columns, own, strict=True)]
        assert [column.text for column in together] == alone
        assert len(set(alone)) >= 3  # else this proves little
    compared = a.compare("Where is order 3?", at=[4, 12, "live"], max_new_tokens=40)
    assert [reply.step for reply in compared.replies["Where is order 3?"].values()] == [4, 12, a.step]
    assert [event.together for event in a.events if event.kind == "reply"][-3:] == [3, 3, 3]
    one_by_one = [a.ask(QUESTION, at, columns=3, turn="panel", max_new_tokens=40) for at in (4, 12, "live")]
    assert [one.wait() and one.answer.together for one in one_by_one] == [3, 3, 3]
    one_is_stopped_while_the_others_go_on(a)
    what_is_held_is_bounded_and_forgotten(a)


def one_is_stopped_while_the_others_go_on(a: Any) -> None:
    talk = put([(a, "4"), (a, "12"), (a, "base")], max_new_tokens=400)
    while talk.columns[1].step is None:
        talk.hear()
    assert a.submit(Hush(target=talk.columns[1].command)).wait() is not None
    talk.follow(lambda: None)
    ended = {column.at: (column.done.ended, column.done.tokens) for column in talk.columns}
    assert ended["12"][0] == "stopped"
    assert ended["base"] == ("length", 400)
    assert ended["12"][1] < 400


def what_is_held_is_bounded_and_forgotten(a: Any) -> None:
    from jupyter_ft.sampling.twin import KEPT

    voices = a._chat._voices
    steps = [str(step) for step in a.visitable]
    assert len(steps) > KEPT
    said([(a, at) for at in steps], max_new_tokens=1)
    assert list(voices._visits._models) == [int(at) for at in steps[-KEPT:]]
    held = voices.voice(steps[-1])[0]
    assert voices.voice(steps[-1])[0] is held  # no disk, no copy
    before = str(a.chat(QUESTION, at=4, max_new_tokens=20))
    voices.forget()  # as a rewind does
    assert not voices._visits._models
    assert str(a.chat(QUESTION, at=4, max_new_tokens=20)) == before
    with pytest.raises(AddressError, match="17 columns: 16 are the most"):
        check_columns(17)


def test_logits_of_a_batch_equal_those_of_each_alone(tune: Any) -> None:
    import torch

    from jupyter_ft.sampling.chorus import Part, Stage, laid_over, layers_of, storage_of
    from jupyter_ft.sampling.generate import Manner, Row

    a, b = tune("a", epochs=1, learning_rate=5e-2), tune("b", epochs=1, adapter={"kind": "rslora", "r": 3})
    for run in (a, b):
        run.wait(timeout=60)
        run.chat("hi", max_new_tokens=1)
    models = [a._chat._voices.voice("live")[0], b._chat._voices.voice("live")[0], b._chat._voices.base]
    parts = [Part(m, Row(None, [], Manner()), layers_of(m), storage_of(m)) for m in models]
    assert len({part.storage for part in parts}) == 1
    ids = torch.tensor([[1, 50, 60, 70, 80]])
    with torch.no_grad():
        shell = Stage().of(parts[0])
        with laid_over(shell, [part.layers for part in parts]):
            together = shell(ids.expand(3, -1)).logits
        alone = torch.cat([model(ids).logits for model in models])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        assert (alone[0] - alone[2]).abs().max() > 1e-2  # else this proves little
        torch.testing.assert_close(shell(ids).logits, alone[2:], rtol=0, atol=0)  # nothing stays laid over


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "why"), [({"kind": "dora", "r": 2}, "Dora scales the base's rows too"), ({"kind": "full"}, "")]
)
def test_what_cannot_speak_together_speaks_in_turn_and_says_why(tune: Any, adapter: Any, why: str) -> None:
    run, beside = tune("run", epochs=1, adapter=adapter, checkpoint_steps=6), tune("beside", epochs=1)
    for session in (run, beside):
        session.wait(timeout=60)
    columns = [(run, "6"), (run, "live"), (beside, "live"), (run, "base")]
    together = said(columns, max_new_tokens=6)
    assert [column.refused for column in together] == [""] * 4
    assert [column.text for column in together] == [str(r.chat(QUESTION, at=at, max_new_tokens=6)) for r, at in columns]
    assert [column.done.together for column in together[:2]] == [1, 1]
    told = [event.text for event in run.events if event.kind == "log" and "one after another" in event.text]
    assert told == ([f"columns are answered one after another: {why}"] if why else [])
