"""The steps that are kept: a slider stands at one, talked to, gone back to or forked; what is taken back stays."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import DARK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import SmallRun, until

import jupyter_ft
from jupyter_ft.messages import Applied, Resumed, Rewind
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
DIMMED = "#c4cdd8"


def kept(run: SmallRun) -> None:
    """Forty steps; 10, 20 and 35 are kept, 20 is the best; the rate was changed at 25."""
    for step, loss, best in ((10, 2.0, 10), (20, 1.5, 20), (35, 1.6, 20)):
        if step == 35:
            run.take(4)
            run.apply("c1", learning_rate=5e-5)
        run.take(step - run.step)
        run.score(loss, best)
        run.save()
    run.take(5)


def rightmost(points: list[tuple[float, float]]) -> float:
    return max((x for x, _ in points), default=0.0)


def test_a_slider_stands_at_kept_steps_and_what_is_taken_back_stays_dimmed(
    browser: Browser, run: SmallRun, panel: Panel
) -> None:
    kept(run)
    view = Open(browser, run, panel, LIGHT)
    slider, said = view.page.get_by_test_id("step-slider"), view.page.get_by_test_id("step-said")
    assert said.inner_text().startswith("live, step 40 · loss ")
    assert view.page.get_by_test_id("rewind").is_disabled()
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    words = said.inner_text().split(" · ")
    assert words[0] == "step 20"
    assert words[2:] == ["held-out 1.5", "best", "checkpoint"]
    assert slider.get_attribute("aria-valuetext") == ", ".join(words)
    view.shot("travel-light")

    box = view.page.locator(".u-over").first.bounding_box()
    assert box is not None
    view.page.mouse.click(box["x"] + box["width"] * 8 / 39, box["y"] + 40)  # step 9, nothing is kept there
    assert said.inner_text().startswith("step 10 · ")
    view.page.get_by_test_id("chat-with").click()
    view.turn()
    assert view.page.get_by_test_id("chat-10").is_checked()
    view.page.get_by_test_id("tab-curves").click()

    view.page.get_by_test_id("rewind").click()
    warned = view.text("rewind-said")
    assert warned == "Takes back 30 steps, 1 change, 2 kept steps after step 10. The curve stays, dimmed."
    view.page.keyboard.press("Escape")
    view.turn()
    assert run.said == []
    assert not view.page.get_by_test_id("rewind-said").is_visible()
    view.page.get_by_test_id("rewind").click()
    view.page.get_by_test_id("rewind-confirm").click()
    view.turn()
    assert [(type(command), command.step) for command in run.said if isinstance(command, Rewind)] == [(Rewind, 10)]
    assert not view.painted(DIMMED, 12)
    run.log.append(Resumed(step=10, rewound=True))
    run.log.append(Applied(command=run.said[-1].id, verb="rewind", step=10))
    run.step = 10
    view.turn()
    assert view.text("line") == "Went back to step 10."
    assert rightmost(view.painted(DIMMED, 12)) == pytest.approx(1, abs=0.02)  # to step 40, where it had come
    run.take(10)
    view.turn()
    assert rightmost(view.painted("#1f6fd1")) == pytest.approx(19 / 39, abs=0.03)  # the run itself is at step 20
    assert view.page.get_by_test_id("key-left").is_visible()
    view.shot("travel-dimmed-light")
    assert view.errors == []

    again = Open(browser, run, panel, LIGHT)  # the page is loaded anew
    assert rightmost(again.painted(DIMMED, 12)) == pytest.approx(1, abs=0.02)
    assert again.errors == []
    dark = Open(browser, run, panel, DARK, width=480)
    dark.shot("travel-dark-480")
    travel, root = dark.page.get_by_test_id("travel").bounding_box(), dark.page.locator(".jft").bounding_box()
    assert travel is not None
    assert root is not None
    assert travel["x"] + travel["width"] <= root["x"] + root["width"]


def test_a_step_that_makes_room_is_said_to_be_gone_and_the_disk_is_shown(
    browser: Browser, run: SmallRun, panel: Panel
) -> None:
    run.take(10)
    run.snap([2, 4, 6, 8, 10], 95_000_000)
    view = Open(browser, run, panel, LIGHT)
    slider, said = view.page.get_by_test_id("step-slider"), view.page.get_by_test_id("step-said")
    assert said.inner_text().endswith(" · snapshots 95 MB of 2 GB")
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    assert said.inner_text().startswith("step 8 · ")
    run.take(2)
    run.snap([4, 8, 12], 190_000_000)
    view.turn()
    assert said.inner_text().startswith("step 8 · ")
    run.take(4)
    run.snap([4, 12, 16], 190_000_000)
    view.turn()
    assert said.inner_text().startswith("step 8 is kept no more · live, step 16 · ")
    assert said.inner_text().endswith(" · snapshots 190 MB of 2 GB")
    slider.press("ArrowLeft")
    assert said.inner_text().startswith("step 16 · ")
    assert view.errors == []


class TestForking:
    @pytest.fixture
    def run(self, tune: Any) -> Any:
        session = tune("support", max_steps=12, checkpoint_steps=4)
        session.wait(timeout=100)
        return session

    def test_a_fork_is_made_under_the_curve_and_stands_in_the_lineage(
        self, browser: Browser, run: Any, panel: Panel
    ) -> None:
        view = Open(browser, run, panel, LIGHT)
        slider = view.page.get_by_test_id("step-slider")
        slider.focus()
        while not view.text("step-said").startswith("step 8 "):
            slider.press("ArrowLeft")
        view.page.get_by_test_id("fork").click()
        assert until(lambda: view.turn() or view.page.get_by_test_id("fork-name").count() > 0, 20)
        view.page.keyboard.type("calmer")  # the form has the focus
        view.page.get_by_test_id("fork-learning_rate").fill("slowly")
        view.page.get_by_test_id("fork-make").click()
        assert until(lambda: view.turn() or view.page.get_by_test_id("fork-wrong").count() > 0, 20)
        assert "learning_rate" in view.text("fork-wrong")
        assert view.page.get_by_test_id("fork-name").input_value() == "calmer"
        assert list(jupyter_ft.sessions) == ["support"]
        view.page.get_by_test_id("fork-learning_rate").fill("2e-5")
        view.shot("fork-form-light")
        view.page.get_by_test_id("fork-learning_rate").press("Control+Enter")
        assert until(lambda: view.turn() or view.page.get_by_test_id("forked").count() > 0, 60)
        assert "%ft show calmer" in view.text("forked")
        child = jupyter_ft.sessions["calmer"].wait(timeout=60)
        assert child.hyperparameters.learning_rate == 2e-5
        assert child.metrics.loc[8, "loss"] == run.metrics.loc[8, "loss"]
        assert len(panel.beside) == 1  # a front end that can draws it below

        view.page.get_by_test_id("tab-lineage").click()
        assert until(lambda: view.turn() or "finished, step 12" in view.text("page-lineage"), 20)
        tree = re.sub(r"\s+", " ", view.text("page-lineage"))
        assert tree == "support finished, step 12 calmer at step 8, fork, learning_rate = 2e-05 · finished, step 12"
        view.page.get_by_test_id("run-calmer").click()
        assert until(lambda: view.turn() or "%ft show calmer" in view.text("lineage-told"), 20)
        view.shot("lineage-light")

        before = run.metrics  # and the run itself goes back, though it is over
        view.page.get_by_test_id("tab-curves").click()
        view.page.get_by_test_id("rewind").click()
        assert "The run goes on from there." in view.text("rewind-said")
        view.page.get_by_test_id("rewind-confirm").click()
        view.turn()
        assert run.wait_until_over(60)
        view.turn()
        assert [event.step for event in run.events if event.kind == "resumed" and event.rewound] == [8]
        assert list(run.metrics["loss"]) == list(before["loss"])
        assert view.text("rewind") == "Rewind to here…"  # answered, though by another word
        assert view.page.get_by_test_id("key-left").is_visible()
        assert view.errors == []
