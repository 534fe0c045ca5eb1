"""The desk: pairs come by themselves, a verdict lasts, and nobody waits for what is prepared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.errors import AddressError, DataError, RecipeError, Refused
from jupyter_ft.feedback import is_held_out
from jupyter_ft.messages import REVIEW, ReplyDone
from jupyter_ft.session.review import Desk

CASES = [f"What about case {number}?" for number in range(8)]
SHORT = {"max_new_tokens": 12}


@pytest.fixture
def over(tune: Any) -> Any:
    """A run that is over."""
    session = tune("support", max_steps=3)
    session.wait(timeout=120)
    return session


def _next(desk: Desk) -> Any:
    pair = desk.wait(60)
    assert pair is not None, desk.error
    return pair


def _all(desk: Desk, choose: Callable[[Any], str] = lambda pair: "left") -> list[Any]:
    seen = []
    while (pair := desk.wait(60)) is not None:
        seen.append(pair)
        desk.judge(choose(pair))
    return seen


@pytest.mark.slow
def test_a_verdict_waits_for_the_first_pair_and_what_is_shown_of_both_is_blind(over: Any) -> None:
    desk = over.review_desk(CASES[:2], reviewer="Ada", at=("live", "base"), **SHORT)
    judged = desk.judge("tie")
    assert (judged.choice, judged.prompt[-1]["content"]) == ("tie", CASES[0])
    assert CASES[0] in repr(judged)
    assert not any(word in repr(judged) for word in ("live", "base", "step"))
    pair = _next(desk)
    assert repr(pair).splitlines() == [f"pair 2: {CASES[1]}", f"  left:  {pair.left}", f"  right: {pair.right}"]


@pytest.mark.slow
def test_from_the_first_pair_to_the_last(over: Any) -> None:
    desk = over.review_desk(CASES, reviewer="Ada", **SHORT)
    first = _next(desk)
    assert (first.number, first.question) == (1, CASES[0])
    assert first.left.strip() != first.right.strip()
    assert (first.left_at, first.right_at, first.left_step) == ("live", "live", 3)
    assert not any(word in repr(first) for word in ("live", "base", "Answer"))
    judged = desk.judge("right", tags=["tone"], comment="curt", pair=first)
    with pytest.raises(Refused, match="no longer on the table"):
        desk.judge("left", pair=first.id)  # a second click
    second = _next(desk)
    edited = desk.judge("left", edited="As it should be.", pair=second)
    assert desk.progress.said.startswith("2 judged; 6 to go")
    assert desk.undo() == second.__class__(edited.id, 2, second.prompt, second.answers, second.shown)
    assert [one.id for one in over.feedback] == [judged.id]
    assert (judged.reviewer, judged.blind, judged.tags, judged.comment) == ("Ada", True, ["tone"], "curt")
    sampled = [answer.sampling for answer in judged.answers]
    assert sampled[0]["seed"] != sampled[1]["seed"]
    assert sampled[0]["temperature"] > 0
    again = over.chat(CASES[0], **sampled[0])
    assert again == judged.answers[0].text  # the seed and the settings that are recorded gave it
    rest = _all(desk, lambda pair: "tie")
    assert [pair.question for pair in rest] == CASES[1:]
    assert desk.done
    with pytest.raises(Refused, match="no pair left"):
        desk.judge("left")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (lambda desk, pair: desk.judge("lift"), "no choice; did you mean 'left'"),
        (lambda desk, pair: desk.judge("left", edited="  "), "the edited answer is empty"),
        (lambda desk, pair: desk.judge("left", edited=pair.right), "same as before"),
        (lambda desk, pair: desk.judge("skip", edited="Better."), "skipped has no better answer"),
        (lambda desk, pair: desk.undo(), "no judgement of yours"),
        (lambda desk, pair: (desk.close(), desk.judge("left")), "review is closed"),
    ],
)
def test_what_cannot_be_judged_is_said_and_the_pair_stays(over: Any, judge: Any, said: str) -> None:
    desk = over.review_desk(CASES[:1], **SHORT)
    pair = _next(desk)
    with pytest.raises(Refused, match=said):
        judge(desk, pair)
    assert desk.pair() == pair
    assert len(over.feedback) == 0


@pytest.mark.slow
def test_sides_are_shuffled_and_wins_are_counted_for_the_weights(over: Any) -> None:
    desk = over.review_desk(CASES, at="live,base", reviewer="Ada", **SHORT)
    pairs = _all(desk, lambda pair: "left" if pair.left_at == "live" else "right")
    assert {pair.left_at for pair in pairs} == {"live", "base"}
    assert {pair.right_step for pair in pairs} == {0, 3}
    found = desk.progress.wins
    assert (found.won, found.lost, found.blind) == (8, 0, True)
    assert desk.progress.more == 0
    other = over.review_desk(CASES, at=["live", "base"], reviewer="Bob", **SHORT)
    _all(other, lambda pair: "left" if pair.left_at == "live" else "right")
    assert str(over.feedback.agreement()).startswith("Ada, Bob agree on 8 of 8")  # the same answers came to both


@pytest.mark.slow
def test_what_is_judged_does_not_come_again_but_when_asked_for(over: Any) -> None:
    _all(over.review_desk(CASES[:3], reviewer="Ada", **SHORT))
    assert _next(over.review_desk(CASES[:4], reviewer="Ada", **SHORT)).question == CASES[3]
    assert _next(over.review_desk(CASES[:4], reviewer="Bob", **SHORT)).question == CASES[0]
    assert _next(over.review_desk(CASES[:4], at="live,base", reviewer="Ada", **SHORT)).question == CASES[0]
    before = {answer.text for one in over.feedback for answer in one.answers}
    once_more = _next(over.review_desk(CASES[:3], reviewer="Ada", again=True, **SHORT))
    assert not {once_more.left, once_more.right} & before
    with pytest.raises(DataError, match="every prompt is judged by Ada"):
        over.review_desk(CASES[:3], reviewer="Ada", **SHORT)


@pytest.mark.slow
def test_the_same_answer_twice_is_passed_over_and_said(over: Any) -> None:
    desk = over.review_desk(CASES[:2], top_k=1, **SHORT)
    assert desk.wait(60) is None
    assert "both sides give the same answers" in desk.error
    assert desk.progress.alike == 2
    assert len(over.feedback) == 0


@pytest.mark.slow
def test_who_looks_is_told_once_for_what_comes_together(over: Any) -> None:
    desk = over.review_desk(CASES[:2], **SHORT)
    _next(desk)
    told, inside, go = [], threading.Event(), threading.Event()

    def look() -> None:
        told.append(desk.progress.mine)
        inside.set()
        assert go.wait(60)

    end = desk.on_change(look)
    judging = threading.Thread(target=desk.judge, args=("left",))
    judging.start()
    assert inside.wait(60)
    _next(desk)
    desk.judge("right")  # does not wait for who looks
    desk.undo()
    desk.judge("tie")
    go.set()
    judging.join(60)
    assert told[-1] == 2
    assert len(told) <= 3
    end()
    desk.undo()
    assert told[-1] == 2


# --- beside a chat ----------------------------------------------------------------------------------------------------


def _order(session: Any) -> list[str]:
    return [event.thread for event in session.events if isinstance(event, ReplyDone)]


def test_a_person_is_answered_before_what_is_prepared(tune: Any) -> None:
    session = tune("support", max_steps=2)
    ask = [{"role": "user", "content": "Hello"}]
    prepared = [session.ask(ask, thread=REVIEW, max_new_tokens=4) for _ in range(3)]
    asked = [session.ask(ask, max_new_tokens=4) for _ in range(2)]
    for receipt in (*prepared, *asked):
        receipt.wait(60)
    assert _order(session) == ["panel", "panel", "review", "review", "review"]


@pytest.mark.slow
def test_what_is_prepared_gives_way_and_is_whole_afterwards(over: Any) -> None:
    long = {"max_new_tokens": 400, "temperature": 3.0, "seed": 5}
    ask = [{"role": "user", "content": "Tell me everything"}]
    alone = over.chat(ask, **long)
    assert alone.tokens > 100
    prepared = over.ask(ask, thread=REVIEW, **long)
    chat = over._chat
    with chat._changed:
        assert chat._changed.wait_for(lambda: chat._current is not None, 60)
    hello = over.ask(ask, max_new_tokens=3)
    prepared.wait(60)
    assert hello.answer is not None
    assert _order(over)[-2:] == ["panel", "review"]
    assert prepared.answer.text == alone
    assert prepared.answer.ended == alone.ended


@pytest.mark.slow
def test_closing_takes_back_what_is_asked_and_ends_the_thread(tune: Any) -> None:
    session = tune("support", max_steps=2)
    desk = session.review_desk(CASES, reviewer="Ada", **SHORT)
    session.wait(timeout=120)
    _next(desk)
    session.close()
    for thread in threading.enumerate():
        if thread.name == "jupyter-ft review of support":
            thread.join(60)
            assert not thread.is_alive()
    assert desk.closed


@pytest.mark.slow
def test_reviews_are_in_no_chat(over: Any) -> None:
    from jupyter_ft.ui.record import record_html, record_text
    from jupyter_ft.ui.telling import View
    from jupyter_ft.ui.watched import past_of

    over.chat("A question of mine", max_new_tokens=3)
    _all(over.review_desk(CASES[:2], **SHORT))
    assert [reply.prompt for reply in past_of(over).replies] == ["A question of mine"]
    message = View("v", 0.0).next_message(over, 0.0)
    assert message is not None
    for shown in (record_html(over), record_text(over), str(message.content)):
        assert "A question of mine" in shown
        assert CASES[0] not in shown


# --- which prompts, which weights -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prompts_of_the_run_those_held_out_first(tune: Any, rows: list[dict[str, str]]) -> None:
    session = tune("support", held_out=5, max_steps=2, system="Be brief.")
    session.wait(timeout=120)
    session._examples = None  # as after opening it again
    import jupyter_ft

    jupyter_ft.sessions["support"].close()
    session = jupyter_ft.open("support")
    desk = session.review_desk(**SHORT)
    assert desk._supply.left == 50
    from jupyter_ft import data

    apart = data.hold_out(data.load(rows, {}), 5, {}, 42)[1]
    assert apart is not None
    held = {row["prompt"] for row in apart.rows}
    first = {_judge_any(desk) for _ in range(5)}
    assert first == held


def _judge_any(desk: Desk) -> str:
    question = str(_next(desk).question)
    desk.judge("tie")
    return question


@pytest.mark.slow
def test_prompts_from_a_file_a_list_or_other_judgements(over: Any, tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_text("case,Question,system\n1,How are you?,Be brief.\n2,And now?,\n2,And now?,\n")
    pair = _next(over.review_desk(str(file), **SHORT))
    assert pair.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}]
    assert _next(over.review_desk("How are you?", **SHORT)).question == "How are you?"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert _next(over.review_desk([turns], **SHORT)).prompt == turns
    (tmp_path / "one.jsonl").write_text('{"what": "Only this?"}\n')
    assert _next(over.review_desk(tmp_path / "one.jsonl", **SHORT)).question == "Only this?"
    _all(over.review_desk(CASES, reviewer="Ada", **SHORT))
    apart = [case for case in CASES if is_held_out([{"role": "user", "content": case}])]
    assert apart
    assert over.review_desk("feedback:support", reviewer="Bob", **SHORT)._supply.left == len(apart)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"prompts": "nowhere.csv"}, DataError, "nowhere.csv does not exist"),
        ({"prompts": []}, DataError, "no prompts"),
        ({"prompts": ["Hello", " "]}, DataError, "prompt 2: no prompt"),
        ({"prompts": [{"a": "x", "b": "y"}]}, DataError, "no column is called prompt"),
        ({"at": "live,base,3"}, RecipeError, "compares two weights"),
        ({"at": "live,77"}, AddressError, "step 77 is not kept"),
        ({"at": "live,nobody@3"}, AddressError, "nobody"),
        ({"warmth": 2}, RecipeError, "unknown setting 'warmth'"),
    ],
)
def test_what_cannot_be_reviewed_is_said_at_once(over: Any, given: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        over.review_desk(**given)
    assert "\n" not in str(raised.value)
    assert over.desk is None


# --- thumbs -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thumb_is_kept_with_the_conversation(over: Any) -> None:
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Where?"},
    ]
    reply = over.chat(turns, max_new_tokens=8, temperature=0.5, seed=3)
    liked = over.rate(reply, True, reviewer="Ada", comment="yes")
    assert (liked.prompt, liked.answers[0].text, liked.answers[0].step) == (turns, str(reply), 3)
    assert liked.answers[0].sampling["seed"] == 3
    over.rate(reply.command, good=False, reviewer="Bob")
    over.rate(reply, good=False, reviewer="Ada")
    assert [(one.reviewer, one.good) for one in over.feedback] == [("Bob", False), ("Ada", False)]
    assert over.rate(reply, None, reviewer="Ada") is None
    assert [one.reviewer for one in over.feedback] == ["Bob"]
    assert len(over.feedback.undone) == 2
    with pytest.raises(Refused, match="no reply was given to 'nothing'"):
        over.rate("nothing")


@pytest.mark.slow
def test_where_no_answer_can_come_the_reason_is_told_and_it_goes_on(tune: Any) -> None:
    session = tune("support", epochs=40)
    session.pause(free_memory=True).wait(60)
    desk = session.review_desk(CASES, **SHORT)
    with desk._supply.changed:
        assert desk._supply.changed.wait_for(lambda: bool(desk.error), 60)
    assert "memory is given back" in desk.error
    with pytest.raises(Refused, match="memory is given back"):
        desk.judge("left")
    session.resume().wait(60)
    with desk._supply.changed:
        desk._supply.changed.wait_for(lambda: bool(desk._supply.ready), 60)
    assert _next(desk).question == CASES[0]
    session.stop()
