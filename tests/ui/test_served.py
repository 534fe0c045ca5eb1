"""Tabs whose page the kernel writes: asked for, answered beside the run, and told of when there is a newer one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_run import SmallRun, say, until

from jupyter_ft.errors import FineTuneError
from jupyter_ft.ui.panel import Panel
from jupyter_ft.ui.served import Page, Said, Served


class Rows:
    """A tab with a version, which refuses some things and stumbles over others."""

    version = 3

    def page(self, said: Said) -> Page:
        if said("row") == "none":
            raise FineTuneError("there is no row <b>9</b>")
        return Page(f"<p>{int(said('row'))}</p>", again="row=1", version=self.version)


def answered(served: Served, **asked: Any) -> tuple[dict[str, Any], dict[str, int]]:
    found: list[dict[str, Any]] = []
    versions: dict[str, int] = {}
    assert served.ask(asked, versions, found.append).wait(10)
    return found[0], versions


def test_what_was_said_is_read_with_care() -> None:
    said = Said("do=judge&tags=a&tags=b+c&comment=&n=12&big=99999999999999999999&minus=-1&half=%C2%BD")
    assert (said("do"), said.all("tags"), said("comment"), said("absent")) == ("judge", ["a", "b c"], "", "")
    assert ("comment" in said, "absent" in said) == (True, False)
    assert [said.whole(name) for name in ("n", "big", "minus", "half", "do", "absent")] == [12, *[None] * 5]
    for odd in (None, 7, {"a": 1}, ["b"], "%zz&&=&;"):
        assert Said(odd)("do") == ""


def test_a_page_an_error_and_an_accident_each_are_an_answer() -> None:
    served = Served("support", {"rows": Rows()})
    page, versions = answered(served, tab="rows", asked="a1", say="row=7")
    assert (page["html"], page["again"], page["asked"], page["tab"]) == ("<p>7</p>", "row=1", "a1", "rows")
    assert versions == {"rows": 3}
    refused, _ = answered(served, tab="rows", say="row=none")
    assert "there is no row &lt;b&gt;9&lt;/b&gt;" in refused["html"]
    odd, _ = answered(served, tab="rows", say="row=<i>")
    assert "ValueError" in odd["html"]
    assert "<i>" not in odd["html"]
    for tab in ("absent", None, ["rows"]):
        found: list[object] = []
        assert served.ask({"tab": tab}, {}, found.append).wait(10)
        assert found == []


def test_of_a_newer_page_is_told_once_and_only_who_has_looked() -> None:
    rows = Rows()
    served = Served("support", {"rows": rows})
    seen, unseen = {"rows": 3}, {}
    assert served.news(seen) == []
    rows.version = 5
    assert served.news(seen) == [{"tab": "rows"}]
    assert served.news(seen) == served.news(unseen) == []


@pytest.mark.parametrize("pulls", [False, True])
def test_a_view_hears_that_the_review_has_moved(run: SmallRun, panel: Panel, tmp_path: Path, *, pulls: bool) -> None:
    run.folder = tmp_path
    say(panel, t="hello", view="v")
    if pulls:
        say(panel, t="poll", view="v", seq=-1)

    def news() -> list[dict[str, Any]]:
        """What arrives, pushed or as an answer, of the tabs."""
        now = panel._views["v"].told + 1
        sent = panel.comm.taken()
        say(panel, t="poll", view="v", seq=panel._views["v"].seq) if pulls else panel.tell(now)
        return [content for content, _ in (*sent, *panel.comm.taken()) if content["t"] == "page"]

    say(panel, t="page", view="v", tab="review", asked="q", say="")
    pages: list[dict[str, Any]] = []
    assert until(lambda: pages.extend(news()) or pages)
    assert (pages[0]["asked"], "Two answers to a prompt" in pages[0]["html"]) == ("q", True)
    assert news() == []
    desk = run.review_desk(["Where is my order?", "And now?"], ("live", "base"))
    try:
        pages.clear()
        assert until(lambda: pages.extend(news()) or pages)
        assert (pages[0]["tab"], "html" in pages[0]) == ("review", False)
    finally:
        desk.close()


@pytest.mark.parametrize(
    "said",
    [
        {"t": "page", "view": "v"},
        {"t": "page", "view": "v", "tab": ["x"], "asked": {"a": 1}, "say": 3},
        {"t": "page", "view": "v", "tab": "review", "say": "do=judge&choice=left"},
        {"t": "page", "view": "v", "tab": "review", "say": "do=begin&at=%00"},
        {"t": "rate", "view": "v"},
        {"t": "rate", "view": "v", "command": ["x"], "thumb": ["y"]},
    ],
)
def test_what_is_malformed_ends_no_tab(run: SmallRun, panel: Panel, tmp_path: Path, said: dict[str, Any]) -> None:
    run.folder = tmp_path
    say(panel, t="hello", view="v")
    say(panel, **said)
    say(panel, t="page", view="v", tab="review", asked="later", say="")
    sent: list[str] = []

    def heard() -> bool:
        panel.tell(panel._views["v"].told + 1)
        sent.extend(str(content.get("asked")) for content, _ in panel.comm.taken())
        return "later" in sent

    assert until(heard)
    assert list(run.feedback) == []
