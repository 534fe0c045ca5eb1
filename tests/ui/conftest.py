from __future__ import annotations

from collections.abc import Iterator

import comm
import pytest
from playwright.sync_api import Browser, sync_playwright
from small_run import SmallRun, Wire

from jupyter_ft.ui.panel import Panel
from jupyter_ft.ui.pump import PUMP
from tests.chromium import ARGS, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def run() -> SmallRun:
    return SmallRun()


@pytest.fixture
def panel(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panel]:
    """A real panel whose comm is a `Wire`; the pump's thread is left out, tests turn it by hand."""
    monkeypatch.setattr(comm, "create_comm", Wire)
    monkeypatch.setattr(PUMP, "watch", lambda panel: None)
    panel = Panel(run)
    yield panel
    panel.close()
