"""The Review tab in a browser: two answers, a choice by keyboard, and the mark that it is on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import DARK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import XSS, SmallRun, until

from jupyter_ft.feedback import Feedback
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
PROMPTS = [f"Where is order {number}?" for number in range(30)]
LONG = "**Thank you** for asking. Your order left our warehouse this morning:\n\n1. number 4711\n2. by parcel service"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SmallRun]:
    run = SmallRun(folder=tmp_path / "support")
    run.folder.mkdir()
    run.take(40)
    yield run
    if run.desk is not None:
        run.desk.close()


def seen(view: Open, words: str, name: str = "page-review") -> None:
    """Turn until it says `words`: pages are made on a thread."""
    assert until(lambda: view.turn() or words in view.text(name), 20), view.text(name)


def open_review(view: Open, run: SmallRun, prompts: list[str] = PROMPTS) -> None:
    run.review_desk(prompts, ("live", "base"), "Ada")
    view.page.get_by_test_id("tab-review").click()
    seen(view, "Pair 1")


def test_a_review_by_keyboard_alone(browser: Browser, run: SmallRun, panel: Panel) -> None:
    view = Open(browser, run, panel, LIGHT)
    open_review(view, run)
    press = view.page.keyboard.press
    kept = Feedback(run.folder)
    assert "saved" not in view.text("page-review").lower()
    assert not {"live", "base", "step"} & set(view.page.locator(".jft-review .two").inner_text().split())
    left = view.text("answer-left")
    press("ArrowLeft")
    assert view.page.get_by_test_id("page-review").get_attribute("aria-busy") == "true"
    press("ArrowLeft")  # before the first is saved: nothing unseen is judged
    assert view.page.get_by_test_id("review-saved").count() == 0
    seen(view, "Saved: pair 1, left is better")
    [first] = kept
    assert first.preferred is not None
    assert (first.preferred.text, first.choice, first.reviewer, first.blind) == (left, "left", "Ada", True)
    for key, choice in (("ArrowRight", "right"), ("t", "tie"), ("ArrowDown", "tie"), ("b", "both_bad"), ("s", "skip")):
        number = len(kept) + 1
        seen(view, f"Pair {number}")
        press(key)
        seen(view, f"Saved: pair {number}")
        seen(view, f"Pair {number + 1}")
        assert [one.choice for one in kept][-1] == choice
    prompt = view.text("review-prompt")
    press("u")
    seen(view, "Taken back: pair 6 is on the table again")
    assert len(kept) == 5
    assert view.text("review-prompt") != prompt
    press("1")
    press("3")
    press("c")
    view.page.keyboard.type("tie beats 1: es wird klarer")  # letters and figures that are keys elsewhere
    press("Escape")
    view.shot("review-light")
    press("ArrowRight")
    seen(view, "Saved: pair 6, right is better")
    last = list(kept)[-1]
    assert (last.tags, last.comment) == (["more correct", "clearer"], "tie beats 1: es wird klarer")
    assert view.page.evaluate("document.activeElement.closest('[data-testid=page-review]') !== null")
    assert not view.page.get_by_test_id("reason-1").is_checked()
    assert view.text("tab-review") == "Review"
    assert view.page.get_by_test_id("tab-review").get_attribute("aria-selected") == "true"
    assert view.errors == []


def test_an_edit_is_kept_and_what_is_refused_is_not_lost(browser: Browser, run: SmallRun, panel: Panel) -> None:
    view = Open(browser, run, panel, LIGHT)
    open_review(view, run)
    press = view.page.keyboard.press
    right = view.text("answer-right")
    press("e")
    seen(view, "Which is the better one")
    press("ArrowRight")
    seen(view, "as it should be")
    field = view.page.get_by_test_id("edited")
    assert field.input_value() == right
    assert field.evaluate("(e) => document.activeElement === e")
    press("Control+Enter")
    seen(view, "is the same as before")
    field.fill("It is on its way.\nIt comes today, 3 p.m.")
    run.desk._tell()  # type: ignore[union-attr]
    run.take(1)
    for _ in range(4):
        view.turn()  # a newer page does not take away what is typed, or the place
    assert field.input_value().endswith("3 p.m.")
    assert field.evaluate("(e) => document.activeElement === e")
    view.shot("review-edit-light")
    press("Control+Enter")
    seen(view, "edited, right is better")
    [one] = Feedback(run.folder)
    assert (one.edited, one.choice, one.kind) == ("It is on its way.\nIt comes today, 3 p.m.", "right", "edit")
    press("e")
    seen(view, "Which is the better one")
    press("Escape")
    seen(view, "This is better")
    assert len(Feedback(run.folder)) == 1
    assert view.errors == []


def test_nothing_that_is_reviewed_is_alive(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.answers = iter([*XSS, *(f"{one} again" for one in XSS), *("more",) * 99])
    view = Open(browser, run, panel, LIGHT)
    open_review(view, run, [*XSS, *PROMPTS])
    for number in range(1, len(XSS) // 2):
        seen(view, f"Pair {number}")
        alive = "img, iframe, svg, math, script, object, embed, video, link, base, form, a"
        assert view.page.locator(f".jft-review :is({alive})").count() == 0
        view.page.keyboard.press("b")
    assert view.page.evaluate("window.__pwned") is None
    assert view.foreign == []
    assert view.errors == []


def test_a_review_is_opened_ended_and_reaches_twenty(browser: Browser, run: SmallRun, panel: Panel) -> None:
    view = Open(browser, run, panel, DARK, width=400, pushes=False)
    assert until(lambda: view.turn() or view.text("state") == "running", 20)
    view.page.get_by_test_id("tab-review").click()
    seen(view, "Two answers to a prompt")
    view.page.get_by_test_id("review-reviewer").fill("Dr Ada")
    view.page.get_by_test_id("review-prompts").fill("\n".join([*PROMPTS, XSS[1]]))
    view.shot("review-opening-dark-400")
    view.page.get_by_test_id("review-begin").click()
    run.answers = (f"{LONG} {n}" for n in range(999))
    seen(view, "Pair 1")
    view.page.get_by_test_id("page-review").focus()
    assert "Train on these" not in view.text("page-review")
    for number in range(1, 32):
        seen(view, f"Pair {number}")
        if view.page.get_by_test_id("review-train").count():
            break
        view.page.keyboard.press("ArrowLeft")
        seen(view, f"Saved: pair {number},")
    assert sum(not one.held_out for one in Feedback(run.folder)) == 20
    assert "20 to train on" in view.text("review-progress")
    view.shot("review-dark-400")
    assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    view.page.set_viewport_size({"width": 900, "height": 900})
    view.shot("review-dark")
    view.page.get_by_test_id("review-close").click()
    assert run.desk is not None
    assert until(lambda: view.turn() or run.desk.closed, 20)  # type: ignore[union-attr]
    assert view.errors == []


def test_a_thumb_is_saved_known_again_and_taken_back(browser: Browser, run: SmallRun, panel: Panel) -> None:
    view = Open(browser, run, panel, LIGHT)
    run.reply("a", "Where is my order?", "It is on its way.", turn="k.0")
    run.reply("b", "Where is my order?", "I have no orders.", at="base", turn="k.0")
    view.page.get_by_test_id("tab-chat").click()
    view.turn()
    good, bad = (view.page.get_by_test_id(f"thumb-{name}") for name in ("good", "bad"))
    saved = view.page.get_by_test_id("thumb-saved")
    good.first.click()
    bad.last.click()
    assert saved.all_inner_texts() == ["saving…", "saving…"]
    assert until(lambda: view.turn() or saved.all_inner_texts() == ["saved", "saved"], 20), saved.all_inner_texts()
    assert good.first.get_attribute("aria-pressed") == "true"
    view.shot("thumbs-light")
    kept = {one.answers[0].text: one.good for one in Feedback(run.folder)}
    assert kept == {"It is on its way.": True, "I have no orders.": False}
    view.page.reload()
    view.page.wait_for_function("window.ready")
    view.page.get_by_test_id("tab-chat").click()
    assert until(lambda: view.turn() or bad.last.get_attribute("aria-pressed") == "true", 20)
    assert (bad.first.get_attribute("aria-pressed"), saved.all_inner_texts()) == ("false", ["saved", "saved"])
    bad.last.click()
    assert until(lambda: view.turn() or bad.last.get_attribute("aria-pressed") == "false", 20)
    assert [one.good for one in Feedback(run.folder)] == [True]
    assert view.errors == []


def test_a_thumb_that_cannot_be_kept_says_why(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.folder = run.folder / "gone"
    view = Open(browser, run, panel, LIGHT)
    run.reply("a", "Where is my order?", "It is on its way.", turn="k.0")
    view.page.get_by_test_id("tab-chat").click()
    view.turn()
    run.folder.write_text("a file where the folder should be")
    view.page.get_by_test_id("thumb-good").click()
    saved = view.page.get_by_test_id("thumb-saved")
    assert until(lambda: view.turn() or saved.inner_text() not in ("saving…", ""), 20)
    assert "saved" not in saved.inner_text()
    assert view.page.get_by_test_id("thumb-good").get_attribute("aria-pressed") == "false"
    assert view.errors == []
