"""What the run says for itself: the Log tab, the line of health with its advice, a pause that gives memory back."""

from __future__ import annotations

import pytest
from browser import DARK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import XSS, SmallRun

from jupyter_ft.messages import Advice, Applied, Crashed, Health, Logged, Pause, Refused, Set, StepRefused
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
CALMER = Advice(
    label="Halve the learning rate",
    command={"kind": "set", "changes": {"learning_rate": 1e-4}},
    cell="%ft set support learning_rate=1e-4",
)
WAIT = Advice(label="Pause", command={"kind": "pause"}, cell="%ft pause support")


def lines(view: Open) -> list[str]:
    return view.page.locator("[data-testid=log-line] .jft-said").all_inner_texts()


def at_end(view: Open) -> bool:
    return bool(view.page.get_by_test_id("log").evaluate("(e) => e.scrollHeight - e.scrollTop - e.clientHeight < 5"))


def test_the_log_tab_tells_what_the_run_said(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.become("running")
    run.take(40)
    run.log.append(Logged(level="info", text=XSS[1]))
    run.log.append(Logged(level="WARNING", text="the tokenizer has no pad token"))
    run.apply("c", learning_rate=5e-5)
    run.log.append(Refused(command="d", verb="set", step=40, reason="batch_size = 0: should be at least 1"))
    run.save()
    run.score(1.5, 40)
    run.log.append(StepRefused(step=41, loss=float("nan"), grad_norm=float("nan"), rows=[3, 9]))
    run.log.append(Crashed(step=41, error="RuntimeError: boom", traceback=f"Traceback\n  {XSS[1]}\nboom"))
    run.become("failed")
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-log").click()
    view.turn()
    said = "\n".join(lines(view))
    for words in (
        XSS[1],
        "no pad token",
        "set applied at step 41: learning_rate 2e-4 → 5e-5",
        "set refused: batch_size = 0",
        "Checkpoint saved at step 40.",
        "held-out loss 1.5; best is step 40",
        "not finite; the weights were left as they are (rows 3, 9).",
        "Crashed at step 41: RuntimeError: boom",
    ):
        assert words in said
    assert f"  {XSS[1]}" not in said  # the traceback is folded away
    view.shot("log-light")
    view.page.locator("[data-testid=log-line] summary").click()
    assert XSS[1] in view.page.locator("[data-testid=log-line] pre").inner_text()
    view.page.get_by_test_id("log-filter").select_option("warnings")
    levels = view.page.locator("[data-testid=log-line]").evaluate_all("(all) => all.map((e) => e.dataset.level)")
    assert levels == ["warning", "warning", "warning", "error"]
    view.page.get_by_test_id("log-filter").select_option("all")
    assert "\n".join(lines(view)) == said
    assert view.page.evaluate("window.__pwned") is None
    assert view.page.locator(".jft-log img").count() == 0
    assert view.errors == []


def test_the_log_follows_its_end_until_it_is_scrolled_and_stays_bounded(
    browser: Browser, run: SmallRun, panel: Panel
) -> None:
    for number in range(300):
        run.log.append(Logged(level="info", text=f"line {number}"))
    view = Open(browser, run, panel, DARK)
    view.page.get_by_test_id("tab-log").click()
    view.turn()
    assert (lines(view)[0], lines(view)[-1], len(lines(view))) == ("line 100", "line 299", 200)
    assert at_end(view)
    for begin in range(300, 800, 100):
        for number in range(begin, begin + 100):
            run.log.append(Logged(level="info", text=f"line {number}"))
        view.turn()
    assert (lines(view)[0], lines(view)[-1], len(lines(view))) == ("line 300", "line 799", 500)
    assert at_end(view)
    view.page.get_by_test_id("log").evaluate("(e) => { e.scrollTop = 3000; }")
    view.turn()
    top = "(e) => [...e.children].find((c) => c.offsetTop + c.offsetHeight > e.scrollTop + e.offsetTop).innerText"
    read = view.page.get_by_test_id("log").evaluate(top)
    run.log.append(Logged(level="info", text="line 800"))
    view.turn()
    assert not at_end(view)
    assert view.page.get_by_test_id("log").evaluate(top) == read
    view.page.get_by_text("↓ newest").click()
    assert at_end(view)
    assert lines(view)[-1] == "line 800"


def test_health_is_a_word_a_sentence_and_what_could_be_done(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.take(120)
    view = Open(browser, run, panel, LIGHT)
    assert not view.page.get_by_test_id("health").is_visible()
    sentence = f"The loss rose from 1.2 to 4.8 in ten steps. {XSS[1]}"
    run.log.append(Health(step=118, level="amber", said=sentence, rows=[17, 44], advice=[CALMER, WAIT]))
    view.turn()
    assert view.text("health-word") == "watch"
    assert view.text("health-said") == f"Step 118: {sentence}"
    assert "(rows 17, 44)" in view.text("health")
    calmer, wait = view.page.get_by_test_id("advice").all()
    assert calmer.get_attribute("title") == CALMER.cell
    view.shot("health-amber-light")
    calmer.click()
    view.turn()
    [command] = run.said
    assert command == Set(id=command.id, changes={"learning_rate": 1e-4})
    assert calmer.is_disabled()
    assert view.text("advice-note") == "requested…"
    view.page.get_by_test_id("tab-controls").click()
    view.turn()
    assert view.text("control-status-learning_rate") == "requested 1e-4…"
    run.apply(command.id, learning_rate=1e-4)
    view.turn()
    assert view.text("advice-note") == "applied at step 121"
    assert view.text("control-status-learning_rate") == "applied at step 121"
    wait.click()
    view.page.wait_for_function("document.querySelector('[data-testid=pause]').innerText === 'Pausing…'")
    view.turn()
    run.log.append(Refused(command=run.said[-1].id, verb="pause", step=120, reason="it is paused already"))
    view.turn()
    assert "it is paused already" in view.text("advice-note")
    assert wait.is_enabled()
    run.log.append(Health(step=140, level="green", said="The loss is falling again."))
    view.turn()
    assert (view.text("health-word"), view.text("advice-note")) == ("healthy", "")
    assert view.page.get_by_test_id("advice").count() == 0
    assert view.page.evaluate("window.__pwned") is None
    view.shot("health-green-light")
    assert view.errors == []


def test_a_latecomer_sees_the_health_of_now(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.take(20)
    run.log.append(Health(step=10, level="green", said="All is well."))
    bad = "step 19 was not finite (loss nan); it was kept from the weights"
    run.log.append(Health(step=19, level="red", said=bad, rows=[8], advice=[CALMER, WAIT]))
    for width in (900, 400):
        view = Open(browser, run, panel, DARK, width=width)
        assert view.text("health-word") == "trouble"
        assert view.text("health-said") == f"S{bad[1:]}"  # it says itself at which step
        assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        view.shot(f"health-red-dark-{width}")
        view.page.close()


def test_a_pause_can_give_the_memory_back(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.take(5)
    view = Open(browser, run, panel, LIGHT)
    assert not view.page.get_by_test_id("pause-free").is_visible()
    view.page.get_by_test_id("pause-more").click()
    assert view.page.get_by_test_id("pause-more").get_attribute("aria-expanded") == "true"
    view.shot("pause-menu-light")
    view.page.keyboard.press("Escape")
    assert not view.page.get_by_test_id("pause-free").is_visible()
    view.page.keyboard.press("Enter")  # the focus went back to the button
    view.page.get_by_test_id("pause-free").click()
    view.turn()
    [command] = run.said
    assert command == Pause(id=command.id, free_memory=True)
    assert view.text("pause") == "Pausing…"
    run.log.append(Applied(command=command.id, verb="pause", step=5))
    run.become("paused", "its memory is given back until it resumes")
    view.turn()
    assert not view.page.get_by_test_id("pause-more").is_visible()
    assert "its memory is given back" in view.text("line")
    assert view.errors == []
