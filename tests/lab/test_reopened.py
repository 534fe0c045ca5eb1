"""A notebook that was saved, and is opened again when its kernel is gone: the record is what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.lab._saving import save

SHOTS = Path(__file__).parents[1] / "shots"
MINUTE = 60_000
START = """%%finetune support --model {model} --data tickets.csv
columns: {{prompt: Customer message, completion: Agent reply}}
max_steps: 40
dtype: float32
learning_rate: 5e-3
batch_size: 4"""
CHANGE = "%ft set support learning_rate=5e-4 --step 20\n%ft wait support --step 25"
CHAT = "%%chat support max_new_tokens=8\nWhere is **my** order?"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Files:
    """The server's files and kernels, over its API."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/api/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def put(self, name: str, notebook: Any) -> None:
        self.ask("PUT", f"contents/{name}", {"type": "notebook", "content": notebook})

    def get(self, name: str) -> Any:
        return self.ask("GET", f"contents/{name}")["content"]

    def end_kernels(self) -> None:
        for session in self.ask("GET", "sessions"):
            self.ask("DELETE", f"sessions/{session['id']}")


def opened(page: Page, address: str, name: str) -> None:
    page.goto(f"{address}/lab/tree/{name}?reset", timeout=MINUTE)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=2 * MINUTE)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=2 * MINUTE)


def notebook_of(cells: list[str]) -> Any:
    import nbformat

    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}},
    )


def run_cell(page: Page, number: int) -> None:
    cell = page.locator(".jp-CodeCell").nth(number)
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]"), timeout=2 * MINUTE)


def finished(page: Page) -> None:
    """While the panel lives it stands alone; the record is kept behind it."""
    expect(page.get_by_test_id("state")).to_have_text("finished", timeout=2 * MINUTE)
    page.wait_for_function("() => document.querySelector('.jft-below')?.textContent.includes('· finished ·')")
    expect(page.locator(".jft-below")).not_to_be_visible()


def check_record(page: Page, shot: str) -> None:
    record = page.locator(".jft-below")
    record.scroll_into_view_if_needed(timeout=MINUTE)
    expect(record).to_be_visible()
    expect(record).to_contain_text("support · finished · step 40 of 40")
    expect(record).to_contain_text("→ 5e-4")
    expect(record).to_contain_text("Where is **my** order?")
    curve = record.locator("img.curve")
    expect(curve).to_be_visible()
    assert curve.evaluate("image => image.decode().then(() => image.naturalWidth > 100)")
    for said in page.get_by_text(re.compile("Error displaying widget|Loading widget")).all():
        expect(said).not_to_be_visible()
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{shot}.png")


def test_the_record_is_left(page: Page, lab: str, tiny_model: Path, tmp_path: Path) -> None:
    page.set_default_timeout(MINUTE)
    files = Files(lab)
    cells = ["%load_ext jupyter_ft", START.format(model=tiny_model), CHANGE, CHAT, "%ft wait support"]
    files.put("small.ipynb", notebook_of(cells))
    opened(page, lab, "small.ipynb")
    for number in range(len(cells)):
        run_cell(page, number)

    finished(page)
    page.get_by_test_id("panel").scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "lab-live-panel.png")
    save(page, "small.ipynb", "· finished ·")

    # on another day: another kernel, which knows nothing of the panel
    files.end_kernels()
    opened(page, lab, "small.ipynb")
    expect(page.get_by_text("Error displaying widget: model not found")).to_have_count(1, timeout=MINUTE)
    check_record(page, "lab-reopened")

    # on another machine: the notebook is not trusted, scripts, styles and SVG are taken out of it
    saved = files.get("small.ipynb")
    saved["cells"][0]["source"] += "\n# changed, so that its signature is another"
    for cell in saved["cells"]:
        cell["metadata"].pop("trusted", None)
    files.put("strange.ipynb", saved)
    opened(page, lab, "strange.ipynb")
    check_record(page, "lab-untrusted")

    # as a page
    (tmp_path / "small.ipynb").write_text(json.dumps(files.get("small.ipynb")))
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--log-level=ERROR", "small.ipynb"]
    subprocess.run(command, cwd=tmp_path, check=True)
    converted = (tmp_path / "small.html").read_text()
    assert len(re.findall(r"<details class=.jft-record jft-below", converted)) == 1
    assert "Error displaying widget" not in converted
    page.goto(f"file://{tmp_path}/small.html")
    check_record(page, "nbconvert")


def test_the_record_is_kept_after_the_page_was_loaded_anew(page: Page, lab: str, tiny_model: Path) -> None:
    page.set_default_timeout(MINUTE)
    files = Files(lab)
    pause = "%ft wait reloaded --step 10\n%ft pause reloaded"
    cells = [
        "%load_ext jupyter_ft",
        START.format(model=tiny_model).replace("support", "reloaded"),
        pause,
        "%ft resume reloaded\n%ft wait reloaded",
    ]
    files.put("again.ipynb", notebook_of(cells))
    opened(page, lab, "again.ipynb")
    for number in range(3):
        run_cell(page, number)
    page.wait_for_function("() => document.querySelector('.jft-below')?.textContent.includes('· paused ·')")
    save(page, "again.ipynb", "· paused ·")
    page.reload()
    page.get_by_test_id("panel").wait_for(timeout=2 * MINUTE)
    run_cell(page, 3)
    page.wait_for_function("() => document.querySelector('.jft-below')?.textContent.includes('· finished ·')")
    notebook = save(page, "again.ipynb", "· finished ·")
    [saved] = re.findall(r"<summary>.*?</summary>", json.dumps(notebook))
    assert "step 40 of 40" in saved


def test_notebook_7_shows_the_panel_the_replies_and_the_record(page: Page, notebook7: str, tiny_model: Path) -> None:
    page.set_default_timeout(MINUTE)
    files = Files(notebook7)
    beside = CHAT.replace("%%chat support", "%%chat support --at base,live")
    cells = ["%load_ext jupyter_ft", START.format(model=tiny_model), CHANGE, beside, "%ft wait support"]
    files.put("small.ipynb", notebook_of(cells))
    page.goto(f"{notebook7}/notebooks/small.ipynb", timeout=MINUTE)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.locator(
        ".jp-Notebook-ExecutionIndicator[data-status=idle]"
    ).wait_for()  # cells that are run earlier are dropped
    for number in range(len(cells)):
        run_cell(page, number)
    finished(page)
    base, live = (reply.bounding_box() for reply in page.locator(".jft-told section").all())
    assert base is not None
    assert live is not None
    assert base["y"] == live["y"]
    assert base["height"] < 120  # as high as what is said: the panel's stylesheet does not reach them
    page.get_by_test_id("tab-chat").click()
    page.get_by_test_id("chat-input").fill("And now?")
    page.get_by_test_id("chat-send").click()
    expect(page.get_by_test_id("reply-stamp").last).to_contain_text("step 40")
    page.get_by_test_id("panel").scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / "notebook7-panel.png")
    page.wait_for_function("() => document.querySelector('.jft-below')?.textContent.includes('And now?')")
    save(page, "small.ipynb", "And now?")
    files.end_kernels()
    page.goto(f"{notebook7}/notebooks/small.ipynb", timeout=MINUTE)
    check_record(page, "notebook7-reopened")
