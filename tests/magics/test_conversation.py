"""The bookkeeping of `%%chat`."""

from __future__ import annotations

import pytest

from jupyter_ft.magics.chat_view import Column
from jupyter_ft.magics.conversation import Conversation
from jupyter_ft.messages import ReplyStarted


def said(talk: Conversation, column: str) -> list[str]:
    return [message["content"] for message in talk.messages(column)]


def test_each_column_hears_its_own_replies() -> None:
    talk = Conversation()
    talk.begin("a", "one").replies.update(live="L1", base="B1")
    talk.begin("b", "two").replies.update(live="L2")
    talk.begin("c", "three")
    assert said(talk, "live") == ["one", "L1", "two", "L2", "three"]
    assert said(talk, "base") == ["one", "B1", "three"]
    roles = [message["role"] for message in talk.messages("base")]
    assert roles == ["user", "assistant", "user"]


def test_a_cell_again_replaces_its_turn_and_drops_the_later() -> None:
    talk = Conversation()
    for cell, prompt in (("a", "one"), ("b", "two"), ("c", "three")):
        talk.begin(cell, prompt).replies["live"] = prompt.upper()
    talk.begin("b", "two, please")
    assert said(talk, "live") == ["one", "ONE", "two, please"]


def test_without_cell_ids_the_same_words_again_are_the_same_turn() -> None:
    talk = Conversation()
    talk.begin(None, "one").replies["live"] = "1"
    talk.begin(None, "one").replies["live"] = "1b"
    talk.begin(None, "two").replies["live"] = "2"
    talk.begin(None, "one")
    assert said(talk, "live") == ["one", "1b", "two", "2", "one"]


def test_system_and_clear() -> None:
    talk = Conversation(system="Be brief.")
    talk.begin("a", "one")
    assert talk.messages("live")[0] == {"role": "system", "content": "Be brief."}
    talk.clear()
    assert talk.turns == []
    assert talk.system is None


@pytest.mark.parametrize(
    ("label", "at", "stamp"),
    [
        ("best", "40", "best (step 40)"),
        ("grid-5@best", "40", "grid-5@best (step 40)"),
        ("40", "40", "40 · step 40"),
        ("live", "live", "live · step 40"),
        ("base", "base", "base"),
    ],
)
def test_a_column_is_called_as_it_was_asked_for(label: str, at: str, stamp: str) -> None:
    column = Column(label, at, "c")
    assert column.hear(ReplyStarted(command="c", at=at, prompt="hi", step=40, between_steps=False, turn="", thread=""))
    assert column.stamp == f"{stamp} · …"
