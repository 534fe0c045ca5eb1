"""What is drawn on the loss plot: the held-out curve, spikes, steps that are not finite, a zoom, checkpoints."""

from __future__ import annotations

import pytest
from browser import DARK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import SmallRun

from jupyter_ft.messages import Confusion, Resumed, StepRefused
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
RAW, SMOOTHED, HELD, RED = "#9cc1ec", "#1f6fd1", "#b0479a", "#c62f2f"
HELD_DARK = "#e58ad2"


def hover(view: Open, part: float) -> str:
    box = view.page.locator(".u-over").first.bounding_box()
    assert box is not None
    view.page.mouse.move(box["x"] + 5, box["y"] + 40)
    view.page.mouse.move(box["x"] + box["width"] * part, box["y"] + 60)
    view.turn()
    return view.page.locator(".jft-tip").first.inner_text()


def step_at(view: Open, part: float) -> int:
    return int(hover(view, part).split()[1])


def scored(run: SmallRun) -> None:
    for loss in (2.9, 2.1, 1.7, 1.55, 1.8):
        run.take(40)
        best = 160 if run.step >= 160 else run.step
        run.score(loss, best)
        run.save()


@pytest.mark.parametrize(("theme", "colour"), [(LIGHT, HELD), (DARK, HELD_DARK)], ids=["light", "dark"])
def test_the_held_out_curve_has_its_points_its_best_step_and_its_place_in_the_readout(
    browser: Browser, run: SmallRun, panel: Panel, theme: dict[str, str], colour: str
) -> None:
    scored(run)
    run.take(10)
    view = Open(browser, run, panel, theme)  # a latecomer
    held = view.painted(colour)
    assert min(x for x, _ in held) == pytest.approx(39 / 209, abs=0.02)
    assert max(x for x, _ in held) == pytest.approx(199 / 209, abs=0.02)
    columns = {round(x, 2) for x, _ in held}
    assert len(columns) > 70  # a line from point to point
    around_best = [y for x, y in held if abs(x - 159 / 209) < 0.004]
    around_third = [y for x, y in held if abs(x - 119 / 209) < 0.004]
    assert max(around_best) - min(around_best) > 2 * (max(around_third) - min(around_third))  # the ring and the word
    assert view.page.get_by_test_id("key-held").is_visible()
    assert "held-out 1.55" in hover(view, 159 / 209)
    assert "held-out 1.55 (step 160)" in hover(view, 175 / 209)
    view.shot(f"held-out-{'dark' if theme is DARK else 'light'}")
    run.log.append(Resumed(step=120))
    run.step = 120
    run.take(90)
    view.turn()
    assert max(x for x, _ in view.painted(colour)) == pytest.approx(119 / 209, abs=0.02)
    run.score(1.2, 210)
    view.turn()
    assert max(x for x, _ in view.painted(colour)) > 0.98
    assert view.errors == []


def test_a_run_without_held_out_rows_has_no_such_key(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.take(20)
    view = Open(browser, run, panel, LIGHT)
    assert not view.page.get_by_test_id("key-held").is_visible()
    assert view.painted(HELD) == []


def test_a_spike_of_one_step_in_a_hundred_thousand_is_drawn(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.take(100_000, bad=(20_000,), spikes=((54_321, 60.0),))
    view = Open(browser, run, panel, LIGHT)
    above = [(x, y) for x, y in view.painted(SMOOTHED, 60) if y < 0.3]
    assert above
    assert all(abs(x - 0.54321) < 0.01 for x, _ in above)
    assert min(y for _, y in above) < 0.25
    red = [x for x, y in view.painted(RED) if y > 0.9]
    assert red
    assert all(abs(x - 0.2) < 0.01 for x in red)
    view.shot("spike-light")


def test_a_step_that_is_not_finite_is_a_red_tick_and_a_hole(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.take(60, bad=(30, 31, 32, 33))
    run.log.append(StepRefused(step=50, loss=2.0, grad_norm=float("inf")))
    view = Open(browser, run, panel, LIGHT)
    hole = (29.5 / 59, 31.5 / 59)
    for colour in (RAW, SMOOTHED):
        lines = [x for x, _ in view.painted(colour)]
        assert not [x for x in lines if hole[0] < x < hole[1]]
        assert [x for x in lines if x < 0.4]
        assert [x for x in lines if x > 0.6]
    red = [x for x, y in view.painted(RED) if y > 0.9]
    for step in (30, 33, 50):
        assert [x for x in red if abs(x - (step - 1) / 59) < 0.008], step
    assert not [x for x in red if 0.6 < x < 0.8]
    assert view.text("bad-steps").startswith("Not finite at step 30, 31, 32, 33, 50")
    view.shot("not-finite-light")


def test_a_zoom_stays_while_the_curve_grows(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.take(101)
    view = Open(browser, run, panel, LIGHT)
    run.take(100)
    view.turn()
    assert step_at(view, 0.99) == pytest.approx(201, abs=5)  # it grows while nobody has zoomed
    box = view.page.locator(".u-over").first.bounding_box()
    assert box is not None
    assert not view.page.get_by_test_id("zoom-reset").is_visible()
    view.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 80)
    view.page.mouse.down()
    view.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 90, steps=5)
    view.page.mouse.up()
    assert step_at(view, 0.01) == pytest.approx(51, abs=5)
    for _ in range(3):
        run.take(50)
        view.turn()
        assert step_at(view, 0.01) == pytest.approx(51, abs=5)
        assert step_at(view, 0.99) == pytest.approx(101, abs=5)
    assert view.page.get_by_test_id("zoom-reset").is_visible()
    view.shot("zoomed-light")
    view.page.mouse.dblclick(box["x"] + 200, box["y"] + 60)
    run.take(10)
    view.turn()
    assert step_at(view, 0.99) == pytest.approx(361, abs=5)
    assert step_at(view, 0.01) == pytest.approx(1, abs=5)
    assert not view.page.get_by_test_id("zoom-reset").is_visible()
    assert view.errors == []


def test_a_checkpoint_on_the_curve_offers_to_be_talked_to(browser: Browser, run: SmallRun, panel: Panel) -> None:
    scored(run)
    view = Open(browser, run, panel, LIGHT)
    box = view.page.locator(".u-over").first.bounding_box()
    assert box is not None
    view.page.mouse.click(box["x"] + box["width"] * 119 / 199, box["y"] + box["height"] - 5)
    view.shot("checkpoint-menu-light")
    assert view.text("chat-with") == "Chat with step 120"
    view.page.get_by_test_id("chat-with").click()
    view.turn()
    assert view.page.get_by_test_id("tab-chat").get_attribute("aria-selected") == "true"
    assert view.page.get_by_test_id("chat-120").is_checked()
    view.page.keyboard.type("Hello?\n")  # the message field has the focus
    view.turn()
    assert [command.at for command in run.said] == ["live", "120"]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_a_classifiers_matrix_stands_under_the_curves(
    browser: Browser, run: SmallRun, panel: Panel, theme: dict[str, str]
) -> None:
    labels = ["angry", "<img src=x>"]
    run.take(40)
    run.score(1.2, 40, Confusion(labels=labels, counts=[[1, 3], [2, 6]]), eval_accuracy=7 / 12, eval_f1_macro=0.5)
    view = Open(browser, run, panel, theme)
    matrix = view.page.get_by_test_id("confusion")
    assert "Held-out rows at step 40, accuracy 0.5833, macro F1 0.5." in matrix.inner_text()
    run.take(40)
    run.score(0.8, 80, Confusion(labels=labels, counts=[[4, 0], [2, 6]]), eval_accuracy=10 / 12)
    view.turn()
    rows = [row.inner_text().split() for row in matrix.locator("tr").all()]
    assert rows == [
        ["angry", "<img", "src=x>", "recall"],
        ["angry", "4", "0", "1"],
        ["<img", "src=x>", "2", "6", "0.75"],
    ]
    assert "at step 80, accuracy 0.8333." in matrix.inner_text()
    colours = [
        cell.evaluate("cell => getComputedStyle(cell).backgroundColor") for cell in matrix.locator("td[class]").all()
    ]
    assert len(set(colours)) == 4  # right and wrong, much and little
    box, plot = matrix.bounding_box(), view.page.get_by_test_id("plot").bounding_box()
    assert box is not None
    assert plot is not None
    assert box["y"] > plot["y"] + plot["height"]
    assert box["width"] <= plot["width"] + 1
    view.shot(f"confusion-{'dark' if theme is DARK else 'light'}")
    run.log.append(Resumed(step=0))
    run.step = 0
    run.take(1)
    view.turn()
    assert matrix.is_hidden()
