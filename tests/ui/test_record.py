from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from small_run import XSS, SmallRun

from jupyter_ft.messages import (
    Crashed,
    EvalDone,
    Health,
    Logged,
    MemoryShort,
    Probed,
    Resumed,
    StateChanged,
    StepRefused,
)
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.ui.below import Below
from jupyter_ft.ui.figure import figure
from jupyter_ft.ui.record import record_html, record_text
from jupyter_ft.ui.watched import shown

ALIVE = {"script", "svg", "iframe", "form", "input", "object", "embed", "base", "link", "math", "video"}


def curve_of(page: str) -> str:
    """The SVG inside the record's only picture."""
    [source] = re.findall(r"<img class='curve' [^>]*src='data:image/svg\+xml;base64,([^']+)'", page)
    return base64.b64decode(source).decode()


class Tags(HTMLParser):
    """Every element and attribute of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_nothing_from_a_model_or_a_person_is_alive_in_the_record(run: SmallRun) -> None:
    run.name = XSS[1]
    run.take(5)
    for number, payload in enumerate(XSS):
        run.log.read()
        run.reply(f"c{number}", payload, payload, turn=f"t.{number}")
        run.log.append(Probed(step=5, at="live", number=number, prompt=payload, text=payload, tokens=1, ended="eos"))
        page = record_html(run)
        for tag, attributes in Tags(page).found:
            assert tag not in ALIVE
            assert tag != "img" or attributes["class"] == "curve"
            assert not any(name.startswith("on") for name in attributes), (payload, tag, attributes)
            assert re.match(r"https?:", attributes.get("href") or "https:"), (payload, attributes)
    run.log.append(Crashed(step=5, error=XSS[0], traceback=XSS[0]))
    assert "<script" not in record_html(run)
    assert record_html(run).count("<style>") == 1


def test_the_first_thing_that_is_left_out_stands_under_the_cell(run: SmallRun) -> None:
    run.take(5)
    below = Below(run)
    below.show()
    run.log.append(Logged(level="warning", text="a library warns of something"))
    assert not below._news()
    assert "a library" not in record_text(run) + record_html(run)
    for text in ("metric <b>mine</b> failed", "metric <b>mine</b> failed", "probe 2 at step 4: no"):
        run.log.append(Logged(level="warning", text=text, heed=True))
    assert below._news()
    more = f"(and 1 more: %ft logs {run.name} --level warning)"
    assert f"  metric <b>mine</b> failed {more}\n" in record_text(run) + "\n"
    assert f"<p class='amber'>metric &lt;b&gt;mine&lt;/b&gt; failed {more}</p>" in record_html(run)


def test_why_a_run_waits_or_has_ended_stands_under_its_headline(run: SmallRun) -> None:
    run.take(5)
    run.log.append(StateChanged(state="queued", step=5, note="waits for <2 GB> on cpu"))
    assert record_text(run).splitlines()[1] == "  waits for <2 GB> on cpu"
    assert "<p>Waits for &lt;2 GB&gt; on cpu</p>" in record_html(run)
    run.log.append(StateChanged(state="running", step=5))
    assert "aits for" not in record_text(run) + record_html(run)
    run.log.append(StateChanged(state="finished", step=6, note="stopped early: no lower eval_loss in 2 evaluations"))
    assert record_text(run).splitlines()[1] == "  stopped early: no lower eval_loss in 2 evaluations"
    said = "the loss is not finite at step 7"
    run.log.append(Health(step=7, level="red", said=said))
    run.log.append(StateChanged(state="paused", step=7, note=said))
    assert (record_text(run) + record_html(run)).lower().count(said) == 2  # once each


def test_a_step_that_is_not_finite_is_a_red_tick_and_a_gap_never_a_zero(run: SmallRun) -> None:
    run.take(40, bad=(17, 18))
    run.log.append(StepRefused(step=30, loss=float("nan"), grad_norm=float("inf")))
    page = record_html(run)
    assert "Not finite at steps 17, 18, 30." in page
    drawn = curve_of(page)
    assert drawn.count("class='bad' x1=") == 3
    path = re.search(r"d='(M[^']+)' fill='none' stroke='#3b82d6'", drawn)
    assert path is not None
    assert path[1].count("M") == 2
    assert "nan" not in path[1]
    assert "not finite at steps 17, 18, 30" in record_text(run)


def test_a_record_before_the_first_step_and_with_only_bad_steps() -> None:
    run = SmallRun()
    assert "No step yet" in record_html(run)
    assert record_text(run) == "support · running · step 0 of 400"
    run.take(3, bad=(1, 2, 3))
    assert "Not finite at steps 1, 2, 3" in record_html(run)
    figure(run)


def test_changes_are_marks_and_rows_and_what_was_taken_back_is_gone(run: SmallRun) -> None:
    run.take(20)
    run.apply("a", learning_rate=5e-5)
    run.take(20)
    run.apply("b", batch_size=4)
    assert "<td>21</td><td>learning_rate 2e-4 → 5e-5</td>" in record_html(run)
    assert "step 41: batch_size 8 → 4" in record_text(run)
    run.log.append(Resumed(step=30))
    assert "batch_size" not in record_html(run)


def test_what_was_held_out_and_the_last_notice_are_told(run: SmallRun) -> None:
    run.take(20)
    for step, loss, best in ((5, 2.5, 5), (10, 2.0, 10), (20, 2.25, 10)):
        run.log.append(EvalDone(step=step, metrics={"eval_loss": loss}, best_step=best, rows=12, seconds=0.2))
    run.log.append(Health(step=12, level="green", said="all is well"))
    assert "all is well" not in record_html(run)
    run.log.append(MemoryShort(step=15, micro_batch=2, said="<b>short</b> of memory"))
    page = record_html(run)
    assert "<p>Held-out loss 2.5 → 2.25, lowest 2 at step 10</p>" in page
    assert "<p class='amber'>Step 15: &lt;b&gt;short&lt;/b&gt; of memory</p>" in page
    assert curve_of(page).count("<circle") == 3
    assert "held-out loss 2.5 → 2.25, lowest 2 at step 10" in record_text(run)
    jump = "the loss jumped to 9 at step 16, 3.1 times what is usual"
    run.log.append(Health(step=16, level="amber", said=jump))
    assert "<p class='amber'>The loss jumped to 9 at step 16, 3.1 times" in record_html(run)  # the step once
    run.log.append(Resumed(step=10))
    assert "Held-out loss 2.5 → 2, lowest 2 at step 10" in record_html(run)
    assert "short" not in record_html(run)


def test_the_probes_are_the_base_against_the_last_step_that_counts(run: SmallRun) -> None:
    run.take(4)
    for step, at, text in ((0, "base", "Who knows."), (2, "live", "On it."), (4, "live", "On its way.")):
        run.log.append(Probed(step=step, at=at, number=0, prompt="Where?", text=text, tokens=1, ended="eos"))
    head = "<thead><tr><th>Probe</th><th>Base</th><th>Step 4</th></tr></thead>"
    cells = "<td>Where?</td><td>Who knows.</td><td>On its way.</td>"
    assert f"{head}<tbody><tr>{cells}</tr></tbody>" in record_html(run)
    assert "  > Where?\n  base: Who knows.\n  step 4: On its way." in record_text(run)
    run.log.append(Resumed(step=3))
    assert "On its way." not in record_html(run)
    assert "<td>Who knows.</td><td>On it.</td>" in record_html(run)


def test_private_chats_stay_out() -> None:
    run = SmallRun(recipe=parse_recipe({"record_chats": False}))
    run.take(2)
    run.log.append(Probed(step=2, at="live", number=0, prompt="my secret", text="is safe", tokens=1, ended="eos"))
    run.reply("c", "my secret", "is safe")
    assert "secret" not in record_html(run) + record_text(run)
    assert "safe" not in record_html(run) + record_text(run)


@pytest.mark.slow
def test_a_long_run_is_a_small_record() -> None:
    run = SmallRun(total_steps=50_000)
    run.take(50_000)
    assert len(record_html(run)) < 40_000


def test_the_figure_has_small_arrays_marks_and_red_where_not_finite(run: SmallRun) -> None:
    run.total_steps = 12_000
    run.take(12_000, bad=(500,))
    run.apply("a", learning_rate=5e-5)
    drawn = figure(run)
    by_name = {trace.name: trace for trace in drawn.data}
    assert set(by_name) == {"loss", "learning rate", "not finite", "change"}
    for trace in drawn.data:
        assert len(trace.x) <= 5000
        assert trace.x.dtype == np.int32
        assert trace.y.dtype == np.float32
    assert by_name["not finite"].x.tolist() == [500]
    assert by_name["change"].text[0] == "step 12001: learning_rate 2e-4 → 5e-5"
    assert drawn.layout.shapes[0].x0 == 12_001
    assert by_name["learning rate"].yaxis == "y2"


def test_values_are_written_as_people_write_them() -> None:
    assert [shown(value) for value in (2e-4, 5e-5, 0.1, 8, None, "linear", 1.23456, 0.0)] == [
        *("2e-4", "5e-5", "0.1", "8", "none", "linear", "1.235", "0"),
    ]


def test_what_a_model_says_does_not_steer_the_terminal(run: SmallRun) -> None:
    run.take(2)
    run.reply("c", "hi", "a\x1b]0;owned\x07b\x08\u202ec", turn="t.1")
    text = record_text(run)
    assert "a]0;ownedbc" in text
    assert not {"\x1b", "\x07", "\x08", "\u202e"} & set(text)
