"""A race of three in JupyterLab: the worst is stopped, the best is forked at a step and talked to in three columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.lab._saving import save
from tests.lab.test_reopened import Files, notebook_of, opened, run_cell

SHOTS = Path(__file__).parents[1] / "shots"
MINUTE = 60_000
RACE = """%%finetune grid --model {model} --data tickets.csv
columns: {{prompt: Customer message, completion: Agent reply}}
max_steps: 4000
snapshot_steps: 5
dtype: float32
batch_size: 4
race:
  learning_rate: [5e-3, 1e-3, 1e-7]"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_three_race_one_is_stopped_and_the_best_is_forked(page: Page, lab: str, tiny_model: Path) -> None:
    page.set_default_timeout(MINUTE)
    page.set_viewport_size({"width": 1200, "height": 1500})
    Files(lab).put("race.ipynb", notebook_of(["%load_ext jupyter_ft", RACE.format(model=tiny_model)]))
    opened(page, lab, "race.ipynb")
    run_cell(page, 0)
    run_cell(page, 1)
    race, buttons = page.locator(".jft-race"), page.locator(".jft-race-controls")
    chosen = buttons.locator("select")
    expect(race).to_contain_text("3 runs, 3 live · best so far: grid-1", timeout=2 * MINUTE)
    expect(race.locator("tbody tr").last).to_contain_text("grid-3")

    # the worst is stopped, and the others go on
    chosen.select_option("grid-3")
    buttons.locator(".jft-race-stop").click()
    expect(buttons).to_contain_text(re.compile(r"grid-3: stop at step \d+"))
    expect(race).to_contain_text("3 runs, 2 live")
    expect(race.locator("tr", has_text="grid-3")).to_contain_text("stopped")
    expect(buttons.locator(".jft-race-stop")).to_be_disabled()

    # the best is looked at, and forked at a kept step; the fork's panel appears below
    chosen.select_option("grid-1")
    buttons.locator(".jft-race-show").click()
    panels = page.get_by_test_id("panel")
    expect(panels).to_have_count(1)
    best = panels.first
    best.get_by_test_id("pause").click()  # else the first kept step may be a checkpoint that makes room for the next
    expect(best.get_by_test_id("state")).to_have_text("paused", timeout=MINUTE)
    best.get_by_test_id("step-slider").press("Home")
    said = best.get_by_test_id("step-said")
    expect(said).to_contain_text(re.compile(r"^step \d+ · loss [\d.]+ · "))
    step = re.search(r"\d+", said.inner_text())[0]  # type: ignore[index]
    best.get_by_test_id("fork").click()
    best.get_by_test_id("fork-name").fill("calmer")
    best.get_by_test_id("fork-learning_rate").fill("2e-5")
    best.get_by_test_id("fork-make").click()
    expect(best.get_by_test_id("forked")).to_contain_text(f"calmer goes on from grid-1 at step {step}")
    expect(panels).to_have_count(2)
    expect(panels.last.locator(".jft-name")).to_have_text("calmer")
    expect(panels.last.get_by_test_id("state")).to_have_text("running", timeout=MINUTE)
    best.get_by_test_id("tab-lineage").click()
    expect(best.get_by_test_id("page-lineage")).to_contain_text(f"at step {step}, fork, learning_rate = 2e-05")
    best.get_by_test_id("tab-curves").click()

    # three columns
    best.get_by_test_id("chat-with").click()
    best.get_by_test_id("chat-base").check()
    best.locator(".jft-sampling summary").click()
    best.get_by_test_id("chat-max_new_tokens").fill("8")
    best.get_by_test_id("chat-input").fill("My laptop will not start.")
    best.get_by_test_id("chat-send").click()
    replies = best.locator("[data-testid=reply][data-state=done]")
    expect(replies).to_have_count(3)
    assert [reply.get_attribute("data-at") for reply in replies.all()] == ["live", "base", step]
    stamps = best.get_by_test_id("reply-stamp").all_inner_texts()
    assert [stamp.partition(" · ")[0] for stamp in stamps[1:]] == ["base", f"step {step}"]
    best.get_by_test_id("resume").click()  # not before: a run that goes on may keep the step no more

    # the winner goes on alone
    buttons.locator(".jft-race-promote").click()
    expect(race).to_contain_text("3 runs, 1 live · promoted: grid-1")
    SHOTS.mkdir(exist_ok=True)
    race.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "lab-race.png")

    # a page that is loaded anew draws them all again
    save(page, "race.ipynb")
    page.reload()
    expect(panels).to_have_count(2, timeout=2 * MINUTE)
