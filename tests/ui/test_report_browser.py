"""The report in a headless Chromium: it draws, it runs nothing that a stranger wrote, and it asks for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from small_run import XSS, SmallRun

from jupyter_ft.messages import EvalDone, Health, StepRefused
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.ui.report import write_report
from tests.chromium import ARGS, chromium

pytestmark = pytest.mark.slow
SHOTS = Path(__file__).parents[1] / "shots"


def test_it_draws_and_nothing_in_it_is_alive(run: SmallRun, tmp_path: Path) -> None:
    run.recipe = parse_recipe({"system": XSS[0], "data": XSS[18]})
    run.take(150, bad=(60,))
    run.log.append(StepRefused(step=90, loss=float("nan"), grad_norm=float("nan"), rows=[4]))
    for step, loss in ((50, 2.2), (100, 1.8), (150, 1.9)):
        run.log.append(EvalDone(step=step, metrics={"eval_loss": loss}, best_step=100, rows=20, seconds=0.5))
    run.apply("a", learning_rate=5e-5)
    run.name = XSS[1]
    for number, payload in enumerate(XSS):
        run.reply(f"c{number}", payload, payload)
        run.log.append(Health(step=2, level="red", said=payload))
    page_file = write_report(run, tmp_path / "report.html")  # type: ignore[arg-type]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGS)
        page = browser.new_page(viewport={"width": 1000, "height": 1400})
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        page.wait_for_selector("#figure .scatterlayer .trace", state="attached")
        legend = page.locator("#figure .legendtext").all_text_contents()
        page.evaluate("document.querySelectorAll('*:not(a)').forEach(e => { e.focus?.call(e); e.click?.call(e); })")
        page.evaluate("document.querySelectorAll('a:not([href^=http])').forEach(e => e.click?.call(e))")
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.url == page_file.as_uri()
        assert page.evaluate("window.__pwned") is None
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
        assert asked.count(page_file.as_uri()) == 1
        assert errors == []
        assert legend == ["loss", "eval loss", "learning rate", "not finite", "change"]
        page.reload()
        page.wait_for_selector("#figure .scatterlayer .trace", state="attached")
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / "report.png")
        still = browser.new_context(java_script_enabled=False).new_page()
        still.goto(page_file.as_uri())
        assert still.locator("noscript img.curve, img.curve").first.is_visible()
        browser.close()
