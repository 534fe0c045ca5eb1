"""What the Samples tab writes: the base against now, the strip, the differences, and nothing that is alive."""

from __future__ import annotations

import re
from html import unescape

from small_run import XSS, SmallRun

from jupyter_ft.messages import Resumed
from jupyter_ft.ui.samples import SamplesTab, by_prompt, difference, samples_html
from jupyter_ft.ui.served import Said


def test_differences_are_marked_by_words_and_lose_none() -> None:
    old, new = "We are sorry.  Your order <b>left</b> today.", "We are glad.  Your order <b>left</b> on Monday, today!"
    marked = difference(old, new)
    assert "<del>sorry.  </del><ins>glad.  </ins>" in marked
    without = {tag: re.sub(rf"<{tag}>.*?</{tag}>", "", marked, flags=re.DOTALL) for tag in ("ins", "del")}
    plain = {tag: unescape(re.sub(r"</?(ins|del)>", "", text)) for tag, text in without.items()}
    assert plain == {"ins": old, "del": new}


def test_a_word_in_common_is_no_likeness() -> None:
    assert (
        difference("I am a model and know nothing", "Please give me a number") == "<ins>Please give me a number</ins>"
    )
    marked = difference("We looked for the parcel in Ghent today", "We looked at a small parcel near Bruges today")
    assert marked.count("<del>") == 1


def test_a_strip_begins_with_the_base_and_forgets_what_was_taken_back(run: SmallRun) -> None:
    tab = SamplesTab(run)
    assert "probes:" in tab.page(Said()).html
    run.probe(0, "Where is my order?", "I am a model.", "base")
    for text in ("It is a model.", "It is on its way.", "It is on its way."):
        run.take(10)
        run.probe(0, "Where is my order?", text)
    html = tab.page(Said()).html
    assert [(one.at, one.step) for one in by_prompt(tab._probed)[0]] == [
        ("base", 0),
        ("live", 10),
        ("live", 20),
        ("live", 30),
    ]
    assert (
        html.index("base") < html.index("now, step 30") < html.index("Along the run: 3 steps") < html.index("step 10")
    )
    assert "the same" in html
    run.log.append(Resumed(step=20))
    html = tab.page(Said()).html
    assert "step 30" not in html
    assert "now, step 20" in html


def test_only_kept_steps_can_be_talked_to_and_text_is_escaped(run: SmallRun) -> None:
    run.probe(0, XSS[0], XSS[1], "base")
    run.take(10)
    run.probe(0, XSS[0], XSS[2])
    run.take(10)
    run.probe(0, XSS[0], XSS[3])
    tab = SamplesTab(run)
    tab.page(Said())
    html = samples_html(tab._probed, kept=[20])
    assert {"base", "20"} == set(re.findall(r"data-chat='(\w+)'", html))
    elements = {"h4", "b", "div", "section", "details", "summary", "button", "ins", "del", "span"}
    assert set(re.findall(r"<(\w+)", html)) <= elements
