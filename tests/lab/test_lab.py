"""The main job as a newcomer does it: real JupyterLab, real Chromium, real SmolLM2, the notebook of the examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.lab._saving import save

SHOTS = Path(__file__).parents[1] / "shots"
MINUTE = 60_000
_MORE_CHIPS = """known => [...document.querySelectorAll(".jft-chip input")].some(
    (chip) => !known.includes(chip.dataset.testid)
)"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Notebook:
    """The open notebook and the panel in it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address

    def open(self) -> None:
        self.page.goto(f"{self.address}/lab/tree/support_chatbot.ipynb?reset", timeout=MINUTE)
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=2 * MINUTE)
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=2 * MINUTE)

    def run(self, cell_with: str) -> None:
        cell = self.page.locator(".jp-CodeCell", has_text=cell_with).first
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        expect(cell.locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]"), timeout=MINUTE)

    def restart_kernel(self) -> None:
        self.page.locator("[data-command='notebook:restart-kernel'], [data-command='kernelmenu:restart']").first.click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=2 * MINUTE)

    def say_or_notice(self, text: str) -> None:
        """Ask where the panel has not noticed yet that nobody is there."""
        if self.find("banner").is_hidden() and self.find("chat-input").is_enabled():
            self.find("chat-input").fill(text)
            self.find("chat-send").click()

    def new_cell(self, code: str) -> None:
        """Run `code` in a new cell at the end."""
        self.page.locator(".jp-CodeCell").last.locator(".cm-content").click()
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("b")
        self.page.keyboard.press("Enter")
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Shift+Enter")

    def find(self, name: str) -> Locator:
        return self.page.get_by_test_id(name).first

    @property
    def step(self) -> int:
        return int(re.sub(r"\D", "", self.find("step").inner_text()) or 0)

    def at_least(self, step: int) -> None:
        self.page.wait_for_function(
            "n => Number(document.querySelector('[data-testid=step]')?.innerText.replace(/\\D/g, '')) >= n",
            arg=step,
            timeout=4 * MINUTE,
        )

    def tab(self, name: str) -> None:
        self.find(f"tab-{name}").click()

    def ask(self, text: str) -> Locator:
        """Send a chat message; the first reply to it, once it is whole."""
        before = self.page.get_by_test_id("reply").count()
        self.find("chat-input").fill(text)
        self.find("chat-send").click()
        expect(self.page.get_by_test_id("reply")).not_to_have_count(before, timeout=MINUTE)
        expect(self.page.locator("[data-testid=reply-stop]:visible")).to_have_count(0, timeout=4 * MINUTE)
        return self.page.get_by_test_id("reply").nth(before)

    def shot(self, name: str) -> None:
        SHOTS.mkdir(exist_ok=True)
        self.find("panel").scroll_into_view_if_needed()
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def drawn(self) -> int:
        """How many pixels of the loss plot are painted in a strong colour."""
        return int(
            self.page.evaluate(
                """() => { const c = document.querySelector('[data-testid=plot] canvas');
                const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
                for (let i = 0; i < d.length; i += 4)
                  if (d[i + 3] > 200 && Math.max(d[i], d[i+1], d[i+2]) - Math.min(d[i], d[i+1], d[i+2]) > 60) n++;
                return n; }"""
            )
        )


def test_a_newcomer_talks_to_the_model_while_it_learns(page: Page, lab: str) -> None:
    page.set_default_timeout(MINUTE)
    book = Notebook(page, lab)
    book.open()
    book.run("%load_ext jupyter_ft")
    book.run("%%finetune support")

    # the curve grows
    book.find("panel").wait_for(timeout=MINUTE)
    expect(book.find("state")).to_have_text(re.compile("running"), timeout=4 * MINUTE)
    book.at_least(3)
    early = book.drawn()
    assert early > 0

    # the learning rate of the very next step
    book.tab("controls")
    book.find("control-learning_rate").fill("5e-5")
    book.find("control-learning_rate").press("Enter")
    status = book.find("control-status-learning_rate")
    expect(status).to_have_text(re.compile(r"applied at step \d+"), timeout=2 * MINUTE)
    applied = int(re.search(r"\d+", status.inner_text())[0])  # type: ignore[index]
    book.shot("lab-controls")

    # and its length: a machine may be fast, and there is much to say yet
    book.find("control-max_steps").fill("400")
    book.find("control-max_steps").press("Enter")
    expect(book.find("control-status-max_steps")).to_have_text(re.compile(r"applied at step \d+"), timeout=2 * MINUTE)
    book.tab("curves")
    mark = page.get_by_test_id("mark").filter(has_text="learning_rate")
    expect(mark.first).to_contain_text(f"step {applied}")
    book.at_least(applied + 2)
    assert book.drawn() > early

    # the run's own words
    book.tab("log")
    expect(book.find("log")).to_contain_text(re.compile(rf"set applied at step {applied}: learning_rate \S+ → 5e-5"))
    book.shot("lab-log")

    # a reply while the step counter goes on
    book.tab("chat")
    page.locator(".jft-sampling summary").click()
    book.find("chat-max_new_tokens").fill("80")  # some steps long, also on one busy core
    reply = book.ask("I haven't received my order yet.")
    assert len(reply.inner_text().strip()) > 10
    before = book.step
    book.find("chat-base").check()
    book.ask("Tell me a long story about a parcel that was lost and found again.")
    assert page.get_by_test_id("reply").count() == 3
    expect(book.find("state")).to_have_text(re.compile("running"))
    assert book.step > before
    book.shot("lab-chat")

    # three columns: this moment, the base, and a checkpoint, each stamped with the step that spoke
    chips = page.locator(".jft-chip input")
    offered = {chip.get_attribute("data-testid") for chip in chips.all()}
    book.find("save").click()
    page.wait_for_function(_MORE_CHIPS, arg=[*offered], timeout=2 * MINUTE)
    name = next(name for chip in chips.all() if (name := chip.get_attribute("data-testid")) not in offered)
    chip, step = page.get_by_test_id(name), name.removeprefix("chat-")
    chip.check()
    before = page.get_by_test_id("reply").count()
    book.ask("My laptop will not start.")
    assert page.get_by_test_id("reply").count() == before + 3
    stamp = page.locator(f"[data-testid=reply][data-at='{step}'] [data-testid=reply-stamp]").last
    expect(stamp).to_contain_text(f"step {step}")
    book.shot("lab-columns")
    chip.uncheck()
    book.find("chat-base").uncheck()

    # pause, chat, resume
    book.find("pause").click()
    expect(book.find("state")).to_have_text(re.compile("paused"), timeout=MINUTE)
    held = book.step
    assert len(book.ask("Can I still change the address?").inner_text().strip()) > 10
    assert book.step == held
    book.find("resume").click()
    expect(book.find("state")).to_have_text(re.compile("running"))
    book.at_least(held + 2)
    book.tab("curves")
    book.shot("lab-curves")
    painted = book.drawn()

    # reload: the whole curve and the chat are back
    save(page, "support_chatbot.ipynb")
    replies = page.get_by_test_id("reply").count()
    page.reload()
    book.find("panel").wait_for(timeout=2 * MINUTE)
    book.at_least(held + 2)
    page.wait_for_function("() => document.querySelector('[data-testid=plot] canvas')")
    expect(page.get_by_test_id("mark").filter(has_text="learning_rate").first).to_be_visible()
    assert book.drawn() > 0.7 * painted
    book.tab("chat")
    expect(page.get_by_test_id("reply")).to_have_count(replies)
    expect(page.get_by_test_id("turns").first).to_contain_text("I haven't received my order yet.")
    book.shot("lab-reloaded")

    # the kernel is restarted: the panel says that nobody answers, and the run goes on from its newest checkpoint
    book.restart_kernel()
    book.say_or_notice("Are you there?")
    expect(book.find("banner")).to_contain_text("jupyter_ft.open", timeout=MINUTE)
    book.shot("lab-kernel-gone")
    book.new_cell("import jupyter_ft\nagain = jupyter_ft.open('support')\nat = again.resume().wait(240)\nagain.show()")
    panels = page.get_by_test_id("panel")
    expect(panels).to_have_count(2, timeout=4 * MINUTE)
    expect(page.get_by_test_id("state").last).to_have_text(re.compile("running|finished"), timeout=MINUTE)
    step = page.get_by_test_id("step").last
    resumed_at = int(re.sub(r"\D", "", step.inner_text()))
    expect(step).not_to_have_text(str(resumed_at), timeout=2 * MINUTE)
    expect(page.get_by_test_id("mark").filter(has_text="learning_rate").last).to_contain_text(f"step {applied}")
    page.get_by_test_id("panel").last.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "lab-resumed.png")
    assert resumed_at > 0
