"""A real JupyterLab on a free port of the loopback, and a real Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.chromium import ARGS, chromium

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        yield page
        page.screenshot(
            path=Path(__file__).parents[1] / "shots" / "lab-last.png"
        )  # what was seen last, also after a failure
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab over a copy of the examples."""
    yield from _served("jupyterlab", tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def notebook7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Jupyter Notebook 7 over a copy of the examples."""
    yield from _served("notebook", tmp_path_factory.mktemp("notebook7"))


def _served(application: str, folder: Path) -> Iterator[str]:
    for name in ("support_chatbot.ipynb", "tickets.csv"):
        shutil.copy(EXAMPLES / name, folder / name)
    settings = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "JUPYTER_FT_RUNS"}
    quiet = ["--no-browser", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--allow-root"]
    server = subprocess.Popen(
        [sys.executable, "-m", application, f"--port={port}", *quiet, f"--ServerApp.root_dir={folder}"],
        env=environment | {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), "JUPYTER_PREFER_ENV_PATH": "1"},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "lab.log").open("w"),
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api/status", server)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the server did not start")
