"""The Data tab: the rows that the trainer has, page by page, while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import DARK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import XSS, SmallRun, until

from jupyter_ft.data import hold_out, load, render
from jupyter_ft.data.look import keep_about
from jupyter_ft.messages import DataReady
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
ROWS = [
    {"prompt": f"Where is order {number}?", "completion": XSS[number % 2] if number < 2 else "It is on its way to you."}
    for number in range(40)
]


def tokenise(run: SmallRun) -> None:
    """Write the rows of `run` as its job would."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.recipe.model)
    examples = load([*ROWS, ROWS[5], {"prompt": "long " * 60, "completion": "too late"}], {})
    sides = hold_out(examples, run.recipe.held_out, {}, run.recipe.seed)
    for part, name in zip(sides, ("tokens.arrow", "held_out.arrow"), strict=True):
        assert part is not None
        file = run.folder / "data" / name
        rendered = render(part, tokenizer, system="Be kind.", max_length=run.recipe.max_length, file=file)
        keep_about(file, rendered, (examples.said,))
    run.log.append(DataReady(said="", rows=1, dropped=0, tokens=1, trained_tokens=1))


def turned(view: Open, words: str) -> None:
    """Turn until the rows say `words`: they are made on a thread."""
    assert until(lambda: view.turn() or words in view.text("page-data"), 60), view.text("page-data")


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> SmallRun:
    recipe = parse_recipe({"model": str(tiny_model), "held_out": 6, "max_length": 128})
    run = SmallRun(recipe=recipe, folder=tmp_path / "support")
    run.take(20)
    return run


def test_rows_are_turned_jumped_to_and_never_alive(browser: Browser, run: SmallRun, panel: Panel) -> None:
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-data").click()
    turned(view, "not tokenised yet")
    tokenise(run)
    turned(view, "42 prompt–completion rows from a list")
    assert view.text("rows-place") == "1–5 of 35"
    rows = view.page.locator(".jft-data .row")
    assert rows.count() == 5
    assert "Where is order" in rows.first.inner_text()
    trained = rows.nth(3).locator("mark").all_inner_texts()
    assert "".join(trained) == "It is on its way to you.<|im_end|>\n"
    assert "1 row is dropped (row 42)" in view.text("page-data")
    assert "repeats an earlier one token by token" in view.text("page-data")
    view.shot("data-light")
    assert view.page.get_by_test_id("rows-previous").is_disabled()
    view.page.get_by_test_id("rows-next").click()
    assert until(lambda: view.turn() or view.text("rows-place") == "6–10 of 35", 30)
    view.page.get_by_test_id("rows-jump").fill("41")
    view.page.get_by_test_id("rows-jump").press("Enter")
    turned(view, "Row 41")
    assert view.page.get_by_test_id("rows-next").is_disabled()
    assert "rows to train on" not in view.text("page-data")
    view.page.get_by_test_id("rows-jump").fill("42")
    view.page.get_by_test_id("rows-jump").press("Enter")
    turned(view, "row 42 is dropped: its answer begins beyond max_length 128")
    view.page.get_by_test_id("rows-side").select_option("held out")
    turned(view, "held out")
    assert until(lambda: view.turn() or view.text("rows-place") == "1–5 of 6", 30)
    assert rows.first.locator(".tag").inner_text() == "held out"
    run.take(5)
    view.turn()
    assert view.text("step") == "25"
    assert view.page.evaluate("window.__pwned") is None
    assert view.foreign == []
    assert view.errors == []


def test_where_only_answers_arrive_and_in_the_dark(browser: Browser, run: SmallRun, panel: Panel) -> None:
    tokenise(run)
    view = Open(browser, run, panel, DARK, width=420, pushes=False)
    assert until(lambda: view.turn() or view.text("state") == "running", 20)
    view.page.get_by_test_id("tab-data").click()
    turned(view, "rows to train on")
    for page in ("6–10 of 35", "11–15 of 35"):
        view.page.get_by_test_id("rows-next").click()
        assert until(lambda: view.turn() or view.text("rows-place") == page, 30)  # noqa: B023
    assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    view.shot("data-dark-420")
    view.page.set_viewport_size({"width": 900, "height": 900})
    view.shot("data-dark")
    assert view.page.evaluate("window.__pwned") is None
    assert view.errors == []
