"""From a review to weights that answer as the reviewer chose: judged in the browser, trained, judged again, blind."""

from __future__ import annotations

from typing import Any

import pytest
from browser import LIGHT, Open
from playwright.sync_api import Browser
from small_run import until

import jupyter_ft
from jupyter_ft.feedback import Feedback, is_held_out
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
ROWS = [
    {"prompt": f"Where is order {n}?", "completion": "On its way." if n % 2 else "Sent by post."} for n in range(50)
]
CASES = [f"Where is order {number}?" for number in range(50, 250)]
HELD_OUT = [case for case in CASES if is_held_out([{"role": "user", "content": case}])][:12]
WARM = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 16}


def liked(text: str) -> bool:
    """What this reviewer likes; between two such answers, or two others, there is nothing to choose."""
    return text.startswith("Sent")


@pytest.fixture
def run(tune: Any) -> Any:
    """A run that is over and says either of two things, with a review of it open."""
    session = tune("support", data=ROWS, adapter="full", learning_rate=3e-3, max_steps=120)
    session.wait(timeout=200)
    session.review_desk(CASES, reviewer="Ada", max_new_tokens=16)
    return session


def judged(view: Open, number: int) -> None:
    """Judge pair `number` by keyboard, from what stands in the browser."""
    page = view.page.get_by_test_id("page-review")

    def stands() -> bool:  # while an answer is awaited, the pair of before stands there, and no key is heard
        return page.get_attribute("aria-busy") != "true" and f"Pair {number}" in view.text("page-review")

    assert until(lambda: view.turn() or stands(), 60), view.text("page-review")
    left, right = (liked(view.text(f"answer-{side}")) for side in ("left", "right"))
    view.page.keyboard.press("t" if left == right else "ArrowLeft" if left else "ArrowRight")
    saved = f"Saved: pair {number},"
    assert until(lambda: view.turn() or saved in view.text("page-review"), 60), view.text("page-review")


def test_from_a_review_to_other_answers(browser: Browser, run: Any, panel: Panel) -> None:
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-review").click()
    number = 0
    while not view.page.get_by_test_id("review-train").count():
        number += 1
        judged(view, number)
    kept = Feedback(run.folder)
    assert len(kept) == number >= 20
    view.page.get_by_test_id("review-learning_rate").fill("as fast as you can")
    view.page.get_by_test_id("review-train").click()
    assert until(lambda: view.turn() or "learning_rate" in view.text("page-review"), 60)
    assert "should be a valid number" in view.text("review-wrong")
    assert list(jupyter_ft.sessions) == ["support"]
    view.page.get_by_test_id("review-learning_rate").fill("1e-3")
    view.page.get_by_test_id("review-epochs").fill("2")
    view.page.get_by_test_id("review-train").click()
    assert until(lambda: view.turn() or "support-tuned is finished" in view.text("page-review"), 200)
    view.shot("review-trained-light")
    tuned = jupyter_ft.sessions["support-tuned"]
    assert (tuned.recipe.method, tuned.recipe.start_from, len(tuned.metrics)) == ("dpo", "support", tuned.step)

    margins = [event.metrics["eval_rewards/margins"] for event in tuned.events if event.kind == "eval"]
    assert margins[-1] > max(margins[0], 0)  # on judgements that were held out; the reference's margin is 0
    asked = [(case, seed) for case in HELD_OUT for seed in range(2)]
    before, after = ([str(session.chat(case, seed=seed, **WARM)) for case, seed in asked] for session in (run, tuned))
    assert before != after
    assert sum(map(liked, after)) > sum(map(liked, before))

    view.page.get_by_test_id("review-compare").click()
    view.page.get_by_test_id("page-review").focus()
    for more in range(1, 7):
        judged(view, number + more)
    wins = kept.wins("support-tuned", "support")
    assert wins.blind
    assert wins.won > wins.lost
    trained_on = {one.prompt[-1]["content"] for one in list(kept)[:number] if not one.held_out}
    assert not trained_on & {one.prompt[-1]["content"] for one in list(kept)[number:]}
    view.shot("review-compared-light")
    assert view.errors == []
