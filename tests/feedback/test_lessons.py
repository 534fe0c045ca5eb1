"""What judgements teach: as pairs, as rated answers, as answers; and what they say of two weights and of reviewers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from jupyter_ft import data
from jupyter_ft.errors import DataError
from jupyter_ft.feedback import Answer, Feedback, Judgement, is_held_out
from jupyter_ft.feedback.agreement import agreement, kappa
from jupyter_ft.feedback.wins import more_to_be_sure, sign_test, wins

from .making import chosen, thumb

PROMPTS = [f"Where is order {number}?" for number in range(40)]
TRAIN = [prompt for prompt in PROMPTS if not is_held_out([{"role": "user", "content": prompt}])]
APART = [prompt for prompt in PROMPTS if prompt not in TRAIN]


@pytest.fixture
def kept(runs: Path) -> Feedback:
    """The judgements of a run that is there."""
    (runs / "support").mkdir(parents=True)
    (runs / "support" / "recipe.yaml").write_text(yaml.safe_dump({"recipe": {}, "about": {}}))
    return Feedback(runs / "support")


def _asked(row: dict[str, Any]) -> str:
    return str(row["prompt"][-1]["content"])


def test_a_choice_is_a_pair_and_an_edit_beats_what_it_was_made_from() -> None:
    from jupyter_ft.feedback.lessons import pairs

    assert [(row["chosen"], row["rejected"]) for row in pairs([chosen("a"), chosen("b", "right")])] == [
        ("Good.", "Bad."),
        ("Bad.", "Good."),
    ]
    edits = pairs([chosen("a", "left", edited="Best."), chosen("b", "both_bad", edited="Bad.")])
    assert [(row["chosen"], row["rejected"]) for row in edits] == [
        *(("Best.", "Good."), ("Best.", "Bad.")),
        ("Bad.", "Good."),  # not over itself
    ]
    assert pairs([chosen("a", "tie"), chosen("b", "skip"), chosen("c", "both_bad"), thumb("d", True)]) == []


def test_a_policy_takes_the_prompts() -> None:
    from jupyter_ft.feedback.lessons import view_for

    view, said = view_for("grpo", [])
    judged = [chosen("a"), chosen("a", "skip"), thumb("b", True)]
    assert [row["prompt"][0]["content"] for row in view(judged)] == ["a", "b"]
    assert said == "the prompts alone"


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_pairs_train_and_a_fifth_evaluates(kept: Feedback, method: str) -> None:
    for prompt in PROMPTS:
        kept.add(chosen(prompt, "right" if prompt.endswith("3?") else "left"))
    kept.add(chosen("undone"))
    kept.undo(list(kept)[-1])
    examples = data.load("feedback:support", {}, "held-out judgements", method=method)
    apart = examples.beside["held-out judgements"]
    assert [_asked(row) for row in examples.rows] == TRAIN
    assert [_asked(row) for row in apart.rows] == APART
    assert examples.path is None  # what is judged later belongs to another run
    assert f"{len(APART)} more held out" in examples.notes[0]
    assert examples.said.startswith(f"{len(TRAIN)} choices between two answers from feedback:support")


def test_kto_takes_thumbs_and_without_any_choices(kept: Feedback) -> None:
    for prompt in PROMPTS:
        kept.add(chosen(prompt, "both_bad" if prompt.endswith("3?") else "left"))
    examples = data.load("feedback:support", {}, method="kto")
    rows = list(examples.rows)
    both_bad = sum(prompt.endswith("3?") for prompt in TRAIN)
    assert [row["label"] for row in rows].count(True) == len(TRAIN) - both_bad
    assert len(rows) == 2 * len(TRAIN)
    assert {(row["completion"], row["label"]) for row in rows if not _asked(row).endswith("3?")} == {
        ("Good.", True),
        ("Bad.", False),
    }
    assert all(_asked(one) != _asked(other) for one, other in pairwise(rows))
    assert "no thumbs" in examples.notes[0]
    for prompt in PROMPTS[:9]:
        kept.add(thumb(prompt, good=prompt.endswith("1?")))
    examples = data.load("feedback:support", {}, method="kto")
    assert {_asked(row) for row in examples.rows} == {*PROMPTS[:9]} & {*TRAIN}
    assert {row["completion"] for row in examples.rows} == {"Fine."}
    assert "choices beside the thumbs not used; dpo learns from them" in examples.notes[0]


def test_few_judgements_are_said_to_be_few() -> None:
    assert "19 judgements to learn from are few" in data.few_said("feedback:support", 19)
    assert data.few_said("feedback:support", 20) == data.few_said("tickets.csv", 1) == ""


def test_supervised_takes_what_people_wrote_chose_or_liked(kept: Feedback) -> None:
    one, two, three, four = TRAIN[:4]
    for judged in (chosen(one, edited="Best."), chosen(two), thumb(three, True), thumb(four, False), chosen(two)):
        kept.add(judged)
    rows = list(data.load("feedback:support", {}).rows)
    assert [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows] == [
        *((one, "Best."), (two, "Good."), (three, "Fine.")),
    ]


@pytest.mark.parametrize(
    ("judged", "method", "said"),
    [
        ([], "dpo", "feedback:support has no judgement yet; %ft review"),
        ([chosen(p, "tie") for p in TRAIN[:3]], "dpo", "has 3 choices, all ties, so dpo has nothing to learn from"),
        (
            [chosen(TRAIN[0], "tie"), chosen(TRAIN[1], "skip"), thumb(TRAIN[2], True)],
            "reward",
            "has 2 choices, 1 ties, 1 skipped and 1 thumb, all up, so reward",
        ),
        ([chosen(APART[0])], "dpo", "the only row for dpo belong"),
        ([chosen(TRAIN[0])], "classification", "classification does not learn from judgements; method: dpo"),
    ],
)
def test_nothing_to_learn_from_is_one_line(kept: Feedback, judged: list[Judgement], method: str, said: str) -> None:
    for one in judged:
        kept.add(one)
    with pytest.raises(DataError) as error:
        data.load("feedback:support", {}, method=method)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_that_is_not_there(runs: Path) -> None:
    with pytest.raises(DataError, match=r"feedback:nobody: .* holds no run"):
        data.load("feedback:nobody", {}, method="dpo")


def test_held_out_unless_the_recipe_says_otherwise(kept: Feedback) -> None:
    from jupyter_ft.session.start import plan

    for prompt in PROMPTS:
        kept.add(chosen(prompt))
    planned = plan("demo", "feedback:support", {"method": "preference"})
    assert planned.recipe.held_out == "held-out judgements"
    train, apart = data.hold_out(planned.examples, planned.recipe.held_out, {}, 42, "dpo")
    assert apart is not None
    assert ([*map(_asked, train.rows)], [*map(_asked, apart.rows)]) == (TRAIN, APART)
    asked = plan("demo", "feedback:support", {"method": "dpo", "held_out": 3})
    train, apart = data.hold_out(asked.examples, asked.recipe.held_out, {}, 42, "dpo")
    assert apart is not None
    assert {*map(_asked, train.rows), *map(_asked, apart.rows)} == {*TRAIN}
    assert plan("demo", "feedback:support", {"method": "dpo", "held_out": None}).recipe.held_out is None


# --- who wins, and do people agree ------------------------------------------------------------------------------------


def test_wins_are_counted_by_weights_not_by_sides() -> None:
    live, base = Answer(text="x", run="s", at="live", step=9), Answer(text="y", run="s", at="base", step=0)

    def judged(left: Answer, right: Answer, choice: str, **more: Any) -> Judgement:
        return Judgement(kind="choice", prompt="q", answers=[left, right], choice=choice, blind=True, **more)

    both = [judged(live, base, "left"), judged(base, live, "right"), judged(live, base, "right")]
    open_ones = [judged(base, live, "tie"), judged(base, live, "skip"), judged(live, live.model_copy(), "tie")]
    found = wins([*both, *open_ones], "live", "base")
    assert (found.won, found.lost, found.ties, found.blind) == (2, 1, 1, True)
    turned = wins(both, "base", "s@9")
    assert (turned.won, turned.lost) == (1, 2)
    assert str(found).startswith("live preferred to base 2 of 3, blind, 1 without a winner; chance")
    fifteen = wins([judged(live, base, "left")] * 15 + [judged(live, base, "right")] * 5, "live", "base")
    assert str(fifteen) == "live preferred to base 15 of 20, blind"
    assert not wins([judged(live, base, "left").model_copy(update={"blind": False})], "live", "base").blind


def test_a_sign_test() -> None:
    # Siegel (1956), table D: P(x <= 5) for N = 20 is .021 on one side
    assert sign_test(15, 20) == pytest.approx(2 * 0.0207, abs=1e-4)
    assert sign_test(5, 20) == sign_test(15, 20)
    assert (sign_test(0, 0), sign_test(10, 20)) == (1.0, 1.0)
    assert more_to_be_sure(15, 20) == 0
    more = more_to_be_sure(6, 8)
    assert more is not None
    assert sign_test(int(0.75 * (8 + more)), 8 + more) < 0.05 <= sign_test(int(0.75 * (7 + more)), 7 + more)
    assert more_to_be_sure(50, 100) is None


def test_kappa_of_two_people() -> None:
    # the textbook case: both yes 20, both no 15, yes-no 5, no-yes 10; kappa = (0.7 - 0.5) / (1 - 0.5)
    both = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert kappa(both) == pytest.approx(0.4)
    assert kappa([("y", "y")] * 5) is None


def test_agreement_is_over_the_same_answers_however_they_stood() -> None:
    def turned(prompt: str, choice: str, reviewer: str) -> Judgement:
        one = chosen(prompt, choice, reviewer=reviewer)
        return one.model_copy(update={"answers": one.answers[::-1]})

    ada = [
        chosen("a", "left", reviewer="Ada"),
        chosen("b", "right", reviewer="Ada"),
        chosen("c", "tie", reviewer="Ada"),
    ]
    bob = [turned("a", "right", "Bob"), turned("b", "right", "Bob"), chosen("c", "tie", reviewer="Bob")]
    other = [chosen("a", "left", right="Another.", reviewer="Bob"), chosen("d", "left", reviewer="Bob")]
    found = agreement([*ada, *bob, *other])
    assert (found.reviewers, found.pairs, found.judged, found.same) == (("Ada", "Bob"), 3, 3, 2)
    assert found.kappa == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert str(found) == "Ada, Bob agree on 2 of 3 (67%, Cohen's kappa 0.50)"
    eve = [chosen("a", "left", reviewer="Eve"), chosen("b", "skip", reviewer="Eve")]
    three = agreement([*ada, *bob, *eve])
    assert (three.pairs, three.judged, three.same) == (3, 5, 4)
    again = agreement([*ada, *bob, turned("b", "left", "Bob")])  # he has changed his mind
    assert again.same == 3
