"""How soon the panel is painted in a real JupyterLab, from the keys that start its cell; on a warm kernel."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from .figures import report
from .kernel import CELL

WINDOWS, MINUTE = 5, 60_000
PLAIN = "from IPython.display import HTML, display\ndisplay(HTML('<div data-testid=plain>here</div>'))"
WATCH = """name => { window.painted = new Promise((done, fail) => addEventListener('keydown', () => {
  setTimeout(() => fail(new Error(`no ${name} was painted within two minutes`)), 120000);
  const began = performance.now(), all = () => [...document.querySelectorAll(`[data-testid=${name}]`)];
  const before = new Set(all());
  const look = () => all().some(one => !before.has(one) && one.getBoundingClientRect().height > 0)
    ? requestAnimationFrame(() => done((performance.now() - began) / 1000)) : requestAnimationFrame(look);
  look(); }, {once: true, capture: true})); }"""


def measure(data: Path) -> None:
    """Print the figure of this module."""
    with tempfile.TemporaryDirectory() as folder, _lab(Path(folder)) as address, sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(3 * MINUTE)
        page.goto(f"{address}/lab/tree/paint.ipynb?reset")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        _seconds(page, f"%load_ext jupyter_ft\n{PLAIN}", "plain")
        panels, plain = [], []
        for turn in range(WINDOWS + 1):
            name = f"paint{turn}"
            seconds = _seconds(page, CELL.format(name=name, data=data), "panel")
            _seconds(page, f"{name}.stop(); {name}.close(); " + PLAIN, "plain")
            if turn:  # the first imports torch and the widgets
                panels.append(seconds)
                plain.append(_seconds(page, PLAIN, "plain"))
        browser.close()
    report("first paint of the panel against that of plain HTML", panels, plain, "s", "aim 1 s or less")


def _seconds(page: Page, code: str, test_id: str) -> float:
    """Run `code` in a new cell at the end; seconds from the keys to the first frame with something of that id."""
    page.locator(".jp-CodeCell").last.locator(".cm-content").click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.keyboard.insert_text(code)
    page.evaluate(WATCH, test_id)
    page.keyboard.press("Shift+Enter")
    seconds = float(page.evaluate("window.painted"))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    return seconds


@contextmanager
def _lab(folder: Path) -> Iterator[str]:
    cell = {"cell_type": "code", "id": "load", "source": "# figures", "metadata": {}, "outputs": []}
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook = {"cells": [cell | {"execution_count": None}], "metadata": {"kernelspec": kernel}}
    (folder / "paint.ipynb").write_text(json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5}))
    settings = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", f"--port={port}", "--no-browser", "--IdentityProvider.token=",
         "--ServerApp.disable_check_xsrf=True", "--allow-root", f"--ServerApp.root_dir={folder}"],
        env=os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), "JUPYTER_PREFER_ENV_PATH": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
