"""The Samples tab in a browser: a film strip of answers to fixed prompts."""

from __future__ import annotations

import pytest
from browser import DARK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import XSS, SmallRun, until

from jupyter_ft.runs import RunFolder
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
ORDER = "I haven't received my order yet."
SAID = [
    "I'm sorry to hear that. I am a language model and have no access to orders.",
    "I'm sorry to hear that. Please give me your order number.",
    "I'm sorry that it is late. Please give me your order number, and I will look where it is.",
]


@pytest.fixture
def probed(run: SmallRun, tmp_path: object) -> SmallRun:
    run.folder = tmp_path  # type: ignore[assignment]
    for number, prompt in enumerate((ORDER, XSS[1])):
        run.probe(number, prompt, "I am happy to help! 😊 " + XSS[0], "base")
    for text in SAID:
        run.take(20)
        run.probe(0, ORDER, text)
        run.probe(1, XSS[1], f"{text}\n\n{XSS[run.step // 20]}")
    return run


def seen(view: Open, words: str) -> None:
    assert until(lambda: view.turn() or words in view.text("page-samples"), 20), view.text("page-samples")


def test_the_base_and_now_then_each_step(browser: Browser, probed: SmallRun, panel: Panel) -> None:
    checkpoint = RunFolder(probed.folder).path / "checkpoints" / "step-000040"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    probed.save(kept=[40])
    view = Open(browser, probed, panel, LIGHT)
    view.page.get_by_test_id("tab-samples").click()
    seen(view, "now, step 60")
    section = view.page.locator(".jft-samples section").first
    assert section.locator("h4").inner_text() == ORDER
    assert section.locator(".pair .frame").count() == 2
    assert section.locator(".film .frame").count() == 4
    assert "Please" in section.locator(".film .frame").nth(2).locator("ins").all_inner_texts()[0]
    view.shot("samples-light")
    probed.take(20)
    probed.probe(0, ORDER, "It is on its way.")
    seen(view, "now, step 80")
    view.page.get_by_test_id("frame-40").first.click()
    assert view.page.get_by_test_id("tab-chat").get_attribute("aria-selected") == "true"
    assert view.page.get_by_test_id("chat-40").is_checked()
    assert view.page.evaluate("window.__pwned") is None
    assert view.foreign == []
    assert view.errors == []


def test_in_the_dark_and_narrow(browser: Browser, probed: SmallRun, panel: Panel) -> None:
    view = Open(browser, probed, panel, DARK, width=400, pushes=False)
    assert until(lambda: view.turn() or view.text("state") == "running", 20)
    view.page.get_by_test_id("tab-samples").click()
    seen(view, "now, step 60")
    view.shot("samples-dark-400")
    assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    view.page.set_viewport_size({"width": 900, "height": 900})
    view.shot("samples-dark")
    assert view.errors == []
