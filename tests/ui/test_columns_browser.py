"""One prompt, several weights side by side."""

from __future__ import annotations

import pytest
from browser import DARK, LIGHT, Open
from playwright.sync_api import Browser
from small_run import SmallRun

from jupyter_ft.messages import Ask, ChatWaits, Refused, ReplyDone, ReplyPart, ReplyStarted
from jupyter_ft.ui.panel import Panel

pytestmark = pytest.mark.slow
PROMPT = "I haven't received my order yet."


def saved(run: SmallRun, *steps: int) -> None:
    for step in steps:
        run.take(step - run.step)
        run.score(2 - step / 1000, step)
        run.save()


def stamps(view: Open) -> list[str]:
    return view.page.get_by_test_id("reply-stamp").all_inner_texts()


def test_live_base_and_two_steps_answer_side_by_side(browser: Browser, run: SmallRun, panel: Panel) -> None:
    saved(run, 40, 80, 120)
    run.take(13)
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-chat").click()
    for at in ("120", "base", "40"):
        view.page.get_by_test_id(f"chat-{at}").check()
    assert "best" in view.page.locator(".jft-chip", has_text="step 120").inner_text()
    view.page.get_by_test_id("chat-input").fill(PROMPT)
    view.page.get_by_test_id("chat-input").press("Enter")
    view.turn()
    asks = [command for command in run.said if isinstance(command, Ask)]
    assert [ask.at for ask in asks] == ["live", "base", "40", "120"]
    assert len({ask.turn for ask in asks}) == 1
    live, base, gone, best = asks
    assert stamps(view) == ["waiting…", "base · waiting…", "step 40 · waiting…", "step 120 · waiting…"]
    for ask, text in ((live, "I am sorry"), (best, "I regret")):  # both at once
        run.start_reply(ask.id, PROMPT, ask.at, ask.turn)
        run.log.append(ReplyPart(command=ask.id, text=text))
    view.turn()
    bodies = view.page.locator("[data-testid=reply] .jft-body").all_inner_texts()
    assert (bodies[0].strip(), bodies[3].strip()) == ("I am sorry", "I regret")
    reason = "the checkpoint of step 40 is gone; there are 80 and 120"
    run.log.append(Refused(command=gone.id, verb="ask", step=133, reason=reason))
    run.reply(live.id, PROMPT, "I am sorry to hear that. What is your order number?", "live", live.turn)
    run.reply(base.id, PROMPT, "Orders are an important topic. Here is what I know of them.", "base", base.turn)
    run.reply(best.id, PROMPT, "I regret the delay. Could you tell me the **date** of the order?", "120", best.turn)
    view.turn()
    assert stamps(view) == [
        "step 133 · 21.4 tok/s",
        "base · 21.4 tok/s",
        "step 40 · refused",
        "step 120 · 21.4 tok/s",
    ]
    assert reason in view.page.locator("[data-testid=reply][data-at='40']").inner_text()
    tops = {round(reply.bounding_box()["y"]) for reply in view.page.get_by_test_id("reply").all()}  # type: ignore[index]
    assert len(tops) == 1  # side by side
    view.shot("columns-light")
    view.page.get_by_test_id("chat-input").fill("It is 4711.")
    view.page.get_by_test_id("chat-send").click()
    view.turn()
    again = {command.at: command for command in run.said[-4:] if isinstance(command, Ask)}
    assert [len(again[at].messages) for at in ("live", "base", "40", "120")] == [3, 3, 1, 3]
    assert "I regret" in again["120"].messages[1]["content"]  # each column goes on with its own words
    assert view.errors == []


def test_it_is_said_where_the_run_waits_for_a_reply(browser: Browser, run: SmallRun, panel: Panel) -> None:
    run.log.append(ChatWaits(said="no copy of the weights for chat (none fits)"))
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-chat").click()
    hint = view.page.get_by_test_id("chat-hint")
    assert hint.inner_text() == "Each reply is spoken between two steps, and the run waits for it."
    assert hint.get_attribute("title") == "no copy of the weights for chat (none fits)"
    said = {"command": "c", "turn": "t.0", "thread": "panel", "at": "live", "step": run.step, "prompt": PROMPT}
    run.log.append(ReplyStarted(**said, between_steps=True))
    view.turn()
    assert stamps(view) == [f"step {run.step} · speaking, the run waits…"]
    spoken = {"text": "I am sorry.", "tokens": 3, "tokens_per_second": 2.0, "first_token_seconds": 1.0, "ended": "eos"}
    run.log.append(ReplyDone(**said, **spoken, between_steps=True))
    view.turn()
    assert stamps(view) == [f"step {run.step} · 2.0 tok/s · the run waited"]
    run.become("finished")
    view.turn()
    assert hint.inner_text() == ""


def test_narrow_columns_are_stacked(browser: Browser, run: SmallRun, panel: Panel) -> None:
    saved(run, 40, 80)
    for number, at in enumerate(("live", "base", "40")):
        run.reply(f"c{number}", PROMPT, "Your order is on its way, and it will be there soon.", at, turn="k.0")
    view = Open(browser, run, panel, DARK, width=680)
    view.page.get_by_test_id("tab-chat").click()
    view.turn()
    boxes = [reply.bounding_box() for reply in view.page.get_by_test_id("reply").all()]
    assert len({round(box["x"]) for box in boxes if box}) == 1
    assert len({round(box["y"]) for box in boxes if box}) == 3
    view.shot("columns-dark-680")
    view.page.set_viewport_size({"width": 960, "height": 900})
    view.turn()
    view.shot("columns-dark-960")
    boxes = [reply.bounding_box() for reply in view.page.get_by_test_id("reply").all()]
    assert len({round(box["y"]) for box in boxes if box}) == 1


def test_a_checkpoint_that_made_room_is_not_offered_any_more(browser: Browser, run: SmallRun, panel: Panel) -> None:
    saved(run, 40, 80)
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-chat").click()
    view.page.get_by_test_id("chat-40").check()
    view.page.get_by_test_id("chat-40").uncheck()
    run.take(80)
    run.save(kept=[80, 160])
    view.turn()
    names = [" ".join(chip.inner_text().split()) for chip in view.page.locator(".jft-chip").all()]
    assert names == ["live", "base", "step 80 best", "step 160"]
    assert view.errors == []


def test_six_columns_at_most_out_of_many_checkpoints(browser: Browser, run: SmallRun, panel: Panel) -> None:
    saved(run, *range(10, 210, 10))
    run.score(2.5, 30)  # an old step is the best
    view = Open(browser, run, panel, LIGHT)
    view.page.get_by_test_id("tab-chat").click()
    names = [" ".join(chip.inner_text().split()) for chip in view.page.locator(".jft-chip").all()]
    assert names == ["live", "base", "step 30 best", "step 170", "step 180", "step 190", "step 200"]
    view.page.get_by_test_id("chat-other").select_option("50")
    for at in ("30", "170", "180", "200"):
        view.page.get_by_test_id(f"chat-{at}").check()
    assert view.page.get_by_test_id("chat-base").is_disabled()
    assert view.page.get_by_test_id("chat-other").is_disabled()
    view.page.get_by_test_id("chat-input").fill("Hi")
    view.page.get_by_test_id("chat-input").press("Enter")
    view.turn()
    assert [command.at for command in run.said] == ["live", "30", "50", "170", "180", "200"]
    for command in run.said:
        assert isinstance(command, Ask)
        run.reply(command.id, "Hi", "Hello, how can I help you today?", command.at, command.turn)
    view.turn()
    view.shot("columns-six-light")
    for at in ("live", "30", "50", "170", "180", "200"):
        view.page.get_by_test_id(f"chat-{at}").uncheck()
    assert view.page.get_by_test_id("chat-send").is_disabled()
