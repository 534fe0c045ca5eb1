"""A run on judgements: the rows are those that were judged when it began, and none that is held out."""

from __future__ import annotations

from typing import Any

import pytest

import jupyter_ft
from jupyter_ft import data
from jupyter_ft.ui.record import record_text

from ._runs import finish, losses

CASES = [f"What about case {number}?" for number in range(16)]
DPO = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-2}


@pytest.fixture
def judged(tune: Any) -> Any:
    """A run that is over and reviewed."""
    session = tune("support", max_steps=3)
    session.wait(timeout=120)
    desk = session.review_desk(CASES, reviewer="Ada", max_new_tokens=12)
    while (pair := desk.wait(60)) is not None:
        desk.judge("left" if pair.number % 3 else "right")
    return session


def _asked(examples: Any) -> set[str]:
    return {row["prompt"][-1]["content"] for row in examples.rows}


@pytest.mark.slow
def test_train_on_these_is_a_run_on_the_same_pairs(judged: Any) -> None:
    tuned = judged.desk.train("better", **DPO)
    found = finish(tuned)
    examples = data.load_rows(tuned.run_folder.rows)
    apart = examples.beside["held-out judgements"]
    held = {one.prompt[-1]["content"] for one in judged.feedback if one.held_out}
    assert held
    assert (_asked(examples), _asked(apart)) == ({*CASES} - held, held)
    assert (tuned.recipe.data, tuned.recipe.start_from) == ("feedback:support", "support")
    assert len([event for event in tuned.events if event.kind == "eval"]) > 0
    pairs = judged.feedback.pairs(held_out=False)
    by_hand = finish(jupyter_ft.finetune(None, pairs, "by-hand", method="dpo", start_from="support", **DPO))
    assert found == by_hand
    assert "held out, by their prompts" in " ".join(e.text for e in tuned.events if e.kind == "log")
    few = f"{len(CASES) - len(held)} judgements to learn from are few"
    assert few in record_text(tuned)
    assert few not in record_text(judged)


@pytest.mark.slow
def test_it_evaluates_on_the_held_out_judgements_as_often_as_it_is_told(judged: Any) -> None:
    tuned = judged.desk.train("often", **DPO, eval_steps=2)
    tuned.wait(timeout=120)
    evaluated = [event.step for event in tuned.events if event.kind == "eval"]
    assert evaluated[:-1] == [*range(2, tuned.step, 2)]
    assert evaluated[-1] == tuned.step


@pytest.mark.slow
def test_what_is_judged_later_changes_no_run_that_goes_on(judged: Any) -> None:
    whole = finish(judged.desk.train("whole", **DPO))
    part = judged.desk.train("part", **DPO, checkpoint_steps=2, until=4)
    part.wait_until_over(120)
    assert part.step == 4 < part.total_steps
    part.close()
    for one in judged.feedback:
        judged.feedback.undo(one)
    part = jupyter_ft.open("part")
    part.resume().wait(120)
    assert finish(part)[1] == whole[1]
    assert losses(part) == whole[0]


@pytest.mark.slow
def test_better_is_seen_on_prompts_that_were_held_out(judged: Any) -> None:
    tuned = judged.desk.train("better", **DPO)
    tuned.wait(timeout=120)
    desk = tuned.review_desk("feedback:support", at="live,support", reviewer="Ada", max_new_tokens=12)
    while (pair := desk.wait(60)) is not None:
        assert {pair.left_at, pair.right_at} == {"live", "support"}
        desk.judge("left" if pair.left_at == "live" else "right")
    won = tuned.feedback.wins("live", "support", held_out=True)
    assert won.won == sum(one.held_out for one in judged.feedback) > 0
    assert won.blind
    assert {answer.run for one in tuned.feedback for answer in one.answers} == {"better", "support"}


@pytest.mark.slow
def test_from_choices_to_a_reward_to_a_policy_and_back_on_one_base(judged: Any) -> None:
    """The whole loop of feedback, without the base being loaded again."""
    more: dict[str, Any] = {"data": "feedback:support", "start_from": "support"}
    taste = jupyter_ft.finetune(name="taste", method="reward", batch_size=4, epochs=2, learning_rate=1e-2, **more)
    finish(taste)
    policy = jupyter_ft.finetune(
        name="policy", method="grpo", rewards=["taste"], batch_size=4, num_generations=2, accumulation=1,
        max_completion_length=8, max_steps=4, learning_rate=5e-3, **more,
    )  # fmt: skip
    finish(policy)
    later = [event for session in (taste, policy) for event in session.events if event.kind == "progress"]
    assert [event.what for event in later if event.what.startswith("loading")] == []
    assert policy.metrics["rewards/taste/mean"].tolist() == pytest.approx(policy.metrics["reward"].tolist())

    desk = policy.review_desk(CASES[:4], at="live,support", reviewer="Ada", max_new_tokens=12)
    while (pair := desk.wait(60)) is not None:
        desk.judge("left", pair=pair)
    assert policy.feedback.wins("live", "support").decided == len(policy.feedback) > 0
