from __future__ import annotations

import pytest
from browser import DARK, INK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import XSS, SmallRun, until

from jupyter_ft.messages import Applied, Ask, CheckpointSaved, Crashed, Hush, Progress, Refused, ReplyDone, ReplyPart
from jupyter_ft.ui.panel import Panel

_SIX_TIMES = """slider => {
    for (let times = 0; times < 6; times++) {
        slider.stepUp();
        slider.dispatchEvent(new Event("input", { bubbles: true }));
    }
}"""

pytestmark = pytest.mark.slow


@pytest.fixture
def told(run: SmallRun) -> SmallRun:
    """A run in which things have happened."""
    run.take(90)
    run.log.append(CheckpointSaved(step=60, path="checkpoints/step-000060", bytes=1, seconds=0.1))
    run.apply("early", learning_rate=5e-5)
    run.take(60, bad=(120,))
    run.apply("later", batch_size=4, accumulation=2)
    run.take(50)
    run.log.append(CheckpointSaved(step=180, path="checkpoints/step-000180", bytes=1, seconds=0.1))
    return run


def test_the_curve_is_drawn_and_goes_on(browser: Browser, told: SmallRun, panel: Panel) -> None:
    view = Open(browser, told, panel, LIGHT)
    assert view.text("state") == "running"
    assert (view.text("step"), view.text("total")) == ("200", "400")
    ink = view.page.get_by_test_id("plot").evaluate(INK)
    assert ink[0] > 2000
    marks = view.page.get_by_test_id("mark").all_inner_texts()
    assert marks == ["step 91: learning_rate 2e-4 → 5e-5", "step 151: batch_size 8 → 4, accumulation 1 → 2"]
    assert "120" in view.text("bad-steps")
    view.shot("curves-light")
    told.take(20)
    view.turn()
    assert view.text("step") == "220"
    assert view.page.get_by_test_id("plot").evaluate(INK)[0] > 2000
    view.page.get_by_test_id("log-scale").check()
    view.page.get_by_test_id("other-column").select_option("mean_token_accuracy")
    view.page.get_by_test_id("mark").first.focus()
    box = view.page.locator(".u-over").first.bounding_box()
    assert box is not None
    view.page.mouse.move(box["x"] + box["width"] * 91 / 220, box["y"] + 90)
    view.turn()
    assert "learning_rate 2e-4 → 5e-5" in view.page.locator(".jft-tip").first.inner_text()
    view.shot("curves-hover")
    assert view.errors == []


def test_a_control_is_requested_then_applied(browser: Browser, told: SmallRun, panel: Panel) -> None:
    view = Open(browser, told, panel, LIGHT)
    view.page.get_by_test_id("tab-controls").click()
    field = view.page.get_by_test_id("control-learning_rate")
    assert field.input_value() == "5e-5"
    field.fill("1e-4")
    field.press("Enter")
    view.turn()
    [command] = told.said
    assert command.kind == "set"
    assert command.changes == {"learning_rate": 1e-4}
    assert view.text("control-status-learning_rate") == "requested 1e-4…"
    told.apply(command.id, learning_rate=1e-4)
    view.turn()
    assert view.text("control-status-learning_rate") == "applied at step 201"
    told.apply("from a cell", weight_decay=0.1)  # intent came from elsewhere: the control follows
    view.turn()
    assert view.page.get_by_test_id("control-weight_decay").input_value() == "0.1"
    batch = view.page.get_by_test_id("control-batch_size")
    batch.fill("0")
    batch.press("Enter")
    view.turn()
    reason = "batch_size = 0: should be at least 1"
    told.log.append(Refused(command=told.said[-1].id, verb="set", step=200, reason=reason))
    view.turn()
    view.page.get_by_test_id("tab-controls").focus()
    view.turn()
    assert view.text("control-status-batch_size") == reason
    assert batch.input_value() == "4"
    view.shot("controls-light")
    assert view.errors == []


def test_a_slider_speaks_once_and_a_choice_at_once(browser: Browser, told: SmallRun, panel: Panel) -> None:
    view = Open(browser, told, panel, LIGHT)
    view.page.get_by_test_id("tab-controls").click()
    slider = view.page.get_by_label("learning_rate, slider")
    slider.focus()
    slider.evaluate(_SIX_TIMES)
    until(lambda: view.turn() or told.said, 20)
    view.page.get_by_test_id("control-schedule").select_option("cosine")
    view.turn()
    assert [list(command.changes) for command in told.said] == [["learning_rate"], ["schedule"]]
    view.page.get_by_test_id("control-max_steps").fill("")
    view.page.get_by_test_id("control-max_steps").press("Enter")
    view.turn()
    assert len(told.said) == 2  # blank already


def test_chat_streams_remembers_and_can_be_stopped(browser: Browser, told: SmallRun, panel: Panel) -> None:
    view = Open(browser, told, panel, LIGHT)
    told.reply("cell", "Is this from a cell?", "Yes, it is.", turn="x", thread="support")
    view.page.get_by_test_id("tab-chat").click()
    view.page.get_by_test_id("chat-base").check()
    view.page.get_by_test_id("chat-input").fill("I haven't received my order yet.")
    view.page.get_by_test_id("chat-input").press("Enter")
    view.turn()
    live, base = told.said
    assert isinstance(live, Ask)
    assert isinstance(base, Ask)
    assert (live.at, base.at, live.turn == base.turn, live.thread) == ("live", "base", True, "panel")
    assert view.text("chat-send") == "Send"
    assert "waiting…" in view.page.get_by_test_id("reply-stamp").all_inner_texts()
    told.start_reply(live.id, live.messages[-1]["content"], "live", live.turn)
    for part in ("I am **sorry** to hear that. ", "1. Your order number?\n2. The date?"):
        told.log.append(ReplyPart(command=live.id, text=part))
        view.turn()
    assert view.page.locator("[data-testid=reply] strong").inner_text() == "sorry"
    emoji = "😊 Great question! Orders are an important topic."
    told.reply(base.id, live.messages[-1]["content"], emoji, "base", live.turn)
    view.turn()
    view.page.get_by_test_id("reply-stop").first.click()
    view.turn()
    assert told.said[-1] == Hush(id=told.said[-1].id, target=live.id)
    done = {"command": live.id, "turn": live.turn, "thread": "panel", "at": "live", "step": 200, "ended": "stopped"}
    text = "I am **sorry** to hear that. Could you tell me\n\n1. your order number\n2. the date of your order?"
    more = {"prompt": "?", "text": text, "tokens": 20, "tokens_per_second": 31.27, "first_token_seconds": 0.2}
    told.log.append(ReplyDone(**done, **more))
    view.turn()
    stamps = view.page.get_by_test_id("reply-stamp").all_inner_texts()
    assert "step 200 · 31.3 tok/s · stopped" in stamps
    assert "base · 21.4 tok/s" in stamps
    view.page.get_by_test_id("chat-input").fill("It is 4711.")
    view.page.get_by_test_id("chat-send").click()
    view.turn()
    second, second_base = told.said[-2:]
    assert isinstance(second, Ask)
    assert isinstance(second_base, Ask)
    assert [message["content"] for message in second.messages] == [
        "I haven't received my order yet.",
        text,
        "It is 4711.",
    ]
    assert second_base.messages[1]["content"] == emoji  # each column remembers its own words
    view.shot("chat-light")
    told.reply(second.id, "It is 4711.", "Thank you.", turn=second.turn)
    view.page.reload()  # a page that is loaded again goes on with the same conversation
    view.page.wait_for_function("window.ready")
    view.turn()
    view.page.get_by_test_id("tab-chat").click()
    view.page.get_by_test_id("chat-input").fill("Thanks!")
    view.page.get_by_test_id("chat-input").press("Enter")
    view.turn()
    assert len(told.said[-1].messages) == 5
    view.page.get_by_test_id("chat-new").click()
    view.page.get_by_test_id("chat-input").fill("Who are you?")
    view.page.get_by_test_id("chat-input").press("Enter")
    view.turn()
    assert len(told.said[-1].messages) == 1
    assert view.page.locator(".jft-divider").count() == 1
    assert view.errors == []


def test_nothing_that_a_model_says_is_alive(browser: Browser, run: SmallRun, panel: Panel) -> None:
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-chat").click()
    for number, payload in enumerate(XSS):
        run.reply(f"c{number}", payload, payload, turn=f"t.{number}")
    run.log.append(Progress(what=XSS[1], done=1, total=2))
    run.log.append(Refused(command="x", verb="set", step=1, reason=XSS[1]))
    run.log.append(Applied(command="y", verb="set", step=1, changes={XSS[1]: (XSS[1], XSS[1])}))
    run.log.append(Crashed(step=1, error=XSS[1], traceback=""))
    view.turn()
    view.page.wait_for_timeout(300)
    assert view.page.evaluate("window.__pwned") is None
    assert view.foreign == []
    alive = "img, iframe, style, form:not(.jft-composer), svg, math, script, object, embed, video, link, base"
    assert view.page.locator(f".jft :is({alive})").count() == 0
    for link in view.page.locator(".jft-body a").all():
        assert (link.get_attribute("href") or "https:").startswith("http")
        assert link.get_attribute("rel") == "noopener noreferrer"


def test_buttons_banner_and_crash(browser: Browser, told: SmallRun, panel: Panel) -> None:
    view = Open(browser, told, panel, LIGHT)
    view.page.get_by_test_id("pause").click()
    view.turn()
    assert told.said[-1].kind == "pause"
    assert view.text("pause") == "Pausing…"
    told.log.append(Applied(command=told.said[-1].id, verb="pause", step=200))
    told.become("paused")
    view.turn()
    view.page.get_by_test_id("resume").click()
    view.page.get_by_test_id("save").click()
    view.page.get_by_test_id("stop").click()
    view.turn()
    assert [command.kind for command in told.said] == ["pause", "resume", "save"]  # a stop is asked for twice
    view.page.get_by_test_id("stop-confirm").click()
    view.turn()
    assert told.said[-1].kind == "stop"
    view.page.evaluate("trigger('comm:close')")
    view.turn()
    view.mute = True
    view.page.evaluate("trigger('comm:close')")
    view.page.wait_for_timeout(100)
    assert "The kernel is gone" in view.text("banner")
    assert "jupyter_ft.open('support')" in view.text("banner")
    assert view.page.get_by_test_id("stop").is_disabled()
    assert view.text("state") == "lost"
    view.shot("gone-light")
    view.mute = False
    told.log.append(Crashed(step=200, error="RuntimeError: out of memory", traceback="…"))
    told.become("failed")
    view.turn()
    assert not view.page.get_by_test_id("banner").is_visible()
    assert view.text("line") == "Crashed at step 200: RuntimeError: out of memory"
    view.shot("crash-light")


def test_a_kernel_that_does_not_answer_is_noticed(browser: Browser, told: SmallRun, panel: Panel) -> None:
    view = Open(browser, told, panel, LIGHT)
    view.page.wait_for_function("document.querySelector('[data-testid=banner]').innerText.includes('kernel is gone')")
    view.turn()
    assert not view.page.get_by_test_id("banner").is_visible()


def test_where_pushes_are_lost_the_panel_asks(browser: Browser, told: SmallRun, panel: Panel) -> None:
    view = Open(browser, told, panel, LIGHT, pushes=False)
    assert view.text("step") == "0"

    def after(seconds: float) -> str:
        for _ in range(int(seconds / 0.5)):
            view.page.wait_for_timeout(400)
            view.turn()
        return view.text("step")

    assert after(3.5) == "200"
    told.take(7)
    assert after(4.5) == "207"  # the second chance for pushing was in vain
    told.take(3)
    assert after(2.0) == "210"
    assert not view.page.get_by_test_id("banner").is_visible()
    view.pushes = True


def test_loading_and_keys(browser: Browser, panel: Panel, run: SmallRun) -> None:
    run.become("loading")
    run.total_steps = 0
    run.log.append(Progress(what="Reading the weights of SmolLM2-135M", done=120, total=272))
    view = Open(browser, run, panel, DARK, width=400)
    assert view.text("loading") == "Reading the weights of SmolLM2-135M 44 %"
    view.shot("loading-dark-400")
    view.page.get_by_test_id("tab-curves").focus()
    view.page.keyboard.press("ArrowRight")
    assert view.page.get_by_test_id("tab-chat").get_attribute("aria-selected") == "true"
    assert view.page.get_by_test_id("chat-input").is_enabled()
    view.page.keyboard.press("End")
    assert view.page.get_by_test_id("log").is_visible()
    for tab in ("lineage", "review", "samples", "data"):
        view.page.keyboard.press("ArrowLeft")
        assert view.page.get_by_test_id(f"page-{tab}").is_visible()
    view.page.keyboard.press("ArrowLeft")
    assert view.page.get_by_test_id("control-epochs").is_visible()
    body_of = "(tabs) => tabs.map((tab) => document.getElementById(tab.getAttribute('aria-controls'))?.role)"
    assert view.page.get_by_role("tab").evaluate_all(body_of) == ["tabpanel"] * 8
    fields = "[...document.querySelectorAll('.jft :is(input,select,textarea)')]"
    assert (
        view.page.evaluate(f"{fields}.filter((e) => !e.labels?.length && !e.ariaLabel).map((e) => e.outerHTML)") == []
    )


def test_dark_and_narrow(browser: Browser, told: SmallRun, panel: Panel) -> None:
    told.reply(
        "cell", "My laptop will not start.", "Hold the power button for **ten seconds**.", turn="x", thread="support"
    )
    told.reply("a", "Where is my order?", "It is on its way:\n\n```\nORDER 4711\n```\n", turn="k.0")
    told.reply("b", "Where is my order?", "I am an AI and have no orders 😊", at="base", turn="k.0")
    for width in (900, 400):
        view = Open(browser, told, panel, DARK, width=width)
        assert view.page.get_by_test_id("panel").get_attribute("data-theme") == "dark"
        for tab in ("curves", "chat", "controls", "log"):
            view.page.get_by_test_id(f"tab-{tab}").click()
            view.turn()
            view.shot(f"{tab}-dark-{width}")
            assert view.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        view.page.get_by_test_id("tab-curves").click()
        light = "color-scheme:light;background:#fff;--jp-layout-color0:#fff;--jp-ui-font-color1:#222"
        view.page.evaluate("(style) => (document.body.style.cssText = style)", light)
        view.turn()
        assert view.page.get_by_test_id("panel").get_attribute("data-theme") == "light"
        assert view.errors == []
        view.page.close()
