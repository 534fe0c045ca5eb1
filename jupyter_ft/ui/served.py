"""Tabs whose page the kernel writes as HTML, when a view asks for it: made beside the run, on threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol
from urllib.parse import parse_qs

from jupyter_ft.errors import FineTuneError
from jupyter_ft.launch.thread import aside

PATIENCE = 2.0  # seconds that a view is kept waiting which hears only what is said in answer (Colab)
MOST_SAID = 200_000  # characters


class Said:
    """What a view said: the words of the button, and the fields that stand with it."""

    def __init__(self, words: object = "") -> None:
        text = words if isinstance(words, str) else ""
        self._said = parse_qs(text[:MOST_SAID], keep_blank_values=True)

    def __call__(self, name: str) -> str:
        """The last value of `name`; empty where there is none."""
        return self._said.get(name, [""])[-1]

    def __contains__(self, name: str) -> bool:
        return name in self._said

    def all(self, name: str) -> list[str]:
        """Every value of `name`."""
        return self._said.get(name, [])

    def whole(self, name: str) -> int | None:
        """A whole number from 0; None for anything else."""
        text = self(name)
        return min(int(text), 2**53) if text.isascii() and text.isdigit() and len(text) < 20 else None


@dataclass
class Page:
    """A page of a tab: `html` with all foreign text escaped, and the words (`again`) that ask for the same one.

    `told` is read out to those who cannot see it; `more`: a newer page will come soon, whether the run lives or not.
    """

    html: str
    style: str = ""
    again: str = ""
    told: str = ""
    more: bool = False
    version: int = 0
    """The tab's, when the page was written."""

    def content(self) -> dict[str, Any]:
        """As a message has it."""
        return {name: value for name, value in vars(self).items() if name != "version"}


class ServedTab(Protocol):
    """Writes the pages of one tab; is never asked twice at once."""

    @property
    def version(self) -> int:
        """Grows when the page that is shown is no longer the newest; of what its log says a view hears anyway."""

    def page(self, said: Said) -> Page:
        """Do what was said, and give the page that is to be shown then. Raises `FineTuneError`, which is shown."""


class Served:
    """The served tabs of one panel."""

    def __init__(self, name: str, tabs: Mapping[str, ServedTab]) -> None:
        self._name = name
        self._tabs = tabs
        self._locks = {tab: threading.Lock() for tab in tabs}

    def ask(
        self, asked: dict[str, Any], versions: dict[str, int], answer: Callable[[dict[str, Any]], None]
    ) -> threading.Event:
        """Call `answer` with the page, soon and on another thread; the event is set when that is done.

        `versions` are those that the view has of each tab.
        """
        done = threading.Event()
        name = str(asked.get("tab"))
        tab = self._tabs.get(name)

        def work() -> None:
            assert tab is not None
            with self._locks[name]:
                page = self._page(tab, name, Said(asked.get("say")))
                versions[name] = page.version
                answer({"tab": name, "asked": str(asked.get("asked", ""))[:64], **page.content()})
            done.set()

        if tab is None:
            done.set()
        else:
            aside(work, f"{name} of {self._name}")
        return done

    def _page(self, tab: ServedTab, name: str, said: Said) -> Page:
        try:
            return tab.page(said)
        except FineTuneError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - a folder that went away must not leave a tab that waits for ever
            reason = f"the {name} cannot be shown ({type(error).__name__}: {error})"[:300]
        return Page(f"<p class='jft-dim'>{escape(reason)}</p>", told=reason)

    def news(self, versions: dict[str, int]) -> list[dict[str, Any]]:
        """That there is a newer page, of each tab that the view has looked at; said once."""
        newer = [name for name in versions if self._tabs[name].version > versions[name]]
        versions.update({name: self._tabs[name].version for name in newer})
        return [{"tab": name} for name in newer]
