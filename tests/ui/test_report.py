from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_run import XSS, SmallRun

from jupyter_ft.errors import RunFolderError
from jupyter_ft.messages import CheckpointSaved, Confusion, Crashed, EvalDone, Health, MemoryShort, Probed, StepRefused
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.ui.report import report_html, without_secrets, write_report


@pytest.fixture
def eventful(run: SmallRun) -> SmallRun:
    """A run in which everything has happened that a report tells of."""
    run.take(20)
    run.apply("a", learning_rate=5e-5, batch_size=4)
    run.take(20, bad=(25,))
    run.log.append(StepRefused(step=30, loss=float("nan"), grad_norm=float("inf"), rows=[7, 9]))
    for step, loss, best in ((10, 2.5, 10), (20, 2.0, 20), (40, 2.25, 20)):
        metrics = {"eval_loss": loss, "eval_token_f1": loss / 4}
        run.log.append(EvalDone(step=step, metrics=metrics, best_step=best, rows=12, seconds=0.25))
    run.log.append(Health(step=33, level="amber", said="the held-out loss rises"))
    run.log.append(MemoryShort(step=35, micro_batch=2, said="memory ran out"))
    run.log.append(
        CheckpointSaved(step=40, path="/home/me/runs/support/checkpoints/step-000040", bytes=10**6, seconds=1)
    )
    run.reply("c", "Where is it?", "On its **way**.")
    for step, at, text in ((0, "base", "Who knows <b>."), (40, "live", "By post.")):
        run.log.append(Probed(step=step, at=at, number=0, prompt="How?", text=text, tokens=1, ended="eos"))
    return run


def text_of(page: str) -> str:
    """What a page says outside of its scripts, cells separated by a bar."""
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", "|", body)


def test_the_page_tells_everything(eventful: SmallRun) -> None:
    page = report_html(eventful)
    said = re.sub(r"\|+", "|", text_of(page))
    for line in (
        "running · step 40 of 400",
        "held-out loss 2.5 → 2.25, lowest 2 at step 20",
        "25 s of training",
        "|21|learning_rate|2e-4|5e-5|",
        "|21|batch_size|8|4|",
        "|20|2|best|12|0.2|token_f1 0.5|",
        "|33|amber|the held-out loss rises|",
        "|35|amber|memory ran out|",
        "|25|not finite|",
        "|30|nan|inf|7, 9|",
        "|40|1.0|1.0|step-000040|",
        "|On its |way|.|",
        "|Probes|Probe|Base|Step 40|How?|Who knows &lt;b&gt;.|By post.|",
        "learning_rate: 0.0002",
    ):
        assert line in said, line
    assert "/home/me" not in said


def test_the_figure_on_the_page_is_the_whole_figure(eventful: SmallRun) -> None:
    page = report_html(eventful)
    drawn = re.search(r"Plotly\.newPlot\('figure', Object\.assign\((\{.*\}), \{config: ", page)
    assert drawn is not None
    figure = json.loads(drawn[1])
    assert [trace["name"] for trace in figure["data"]] == [
        *("loss", "eval loss", "learning rate", "not finite", "change"),
    ]
    assert 4_000_000 < len(page) < 6_000_000  # plotly.js is in it, once
    assert page.count("plotly.js v") == 1


def test_nothing_on_the_page_is_named_by_a_stranger(run: SmallRun) -> None:
    run.name = XSS[0]
    run.take(3)
    for number, payload in enumerate(XSS):
        run.reply(f"c{number}", payload, payload)
        run.log.append(Health(step=2, level="red", said=payload))
    run.log.append(Crashed(step=3, error=XSS[0] + "\x1b[31m", traceback=XSS[0]))
    run.recipe = parse_recipe({"system": XSS[0], "data": XSS[18]})
    page = report_html(run)
    assert page.count("<script") - page.count("<script nonce=") == len(re.findall(r"<script(?! nonce)", plotly()))
    assert "\x1b" not in text_of(page)
    assert "<img src=x" not in page


def plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def test_private_chats_stay_out_of_the_page() -> None:
    run = SmallRun(recipe=parse_recipe({"record_chats": False}))
    run.take(2)
    run.reply("c", "my secret", "is safe")
    run.log.append(Probed(step=2, at="live", number=0, prompt="my secret", text="is safe", tokens=1, ended="eos"))
    said = text_of(report_html(run))
    assert "secret" not in said
    assert "safe" not in said


def test_tokens_stay_out_of_the_page() -> None:
    asked = {"trainer": {"hub_token": "hf_abc", "tokens": 3, "x": [{"api_key": "k"}]}, "token": None}
    hidden = {"trainer": {"hub_token": "…", "tokens": 3, "x": [{"api_key": "…"}]}, "token": None}
    assert without_secrets(asked) == hidden


def test_a_place_that_cannot_be_written_is_one_line(run: SmallRun, tmp_path: Path) -> None:
    run.take(1)
    with pytest.raises(RunFolderError, match="nowhere") as caught:
        write_report(run, tmp_path / "nowhere" / "page.html")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert write_report(run, tmp_path) == tmp_path / "support.html"  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir() if file.name != "runs"] == ["support.html"]


@pytest.mark.slow
def test_a_real_run_live_over_and_opened_again(tune: Any, runs: Path) -> None:
    import jupyter_ft

    session = tune(max_steps=6)
    session.wait(step=2)
    live = session.report()
    assert live == runs / "support" / "report.html"
    session.wait()
    session.report()
    over = live.read_text()
    said = text_of(over)
    assert "finished · step 6 of 6" in said
    assert "transformers" in said
    assert "Where is order" not in over  # a row
    session.close()
    again = jupyter_ft.open("support")
    assert again.report(runs / "page.html") == runs / "page.html"
    assert "finished · step 6 of 6" in text_of((runs / "page.html").read_text())


def test_a_classifiers_matrix_is_that_of_the_best_step(run: SmallRun) -> None:
    labels = ["angry", "<b>glad"]
    for loss, counts in ((0.9, [[1, 3], [2, 6]]), (0.4, [[3, 1], [0, 8]]), (0.6, [[4, 0], [4, 4]])):
        run.take(10)
        scores = {"eval_accuracy": (counts[0][0] + counts[1][1]) / 12, "eval_f1_macro": 0.5}
        run.score(loss, 10 if run.step == 10 else 20, Confusion(labels=labels, counts=counts), **scores)
    page = report_html(run)
    said = re.sub(r"\|+", "|", text_of(page))
    assert "|Labels at step 20: accuracy 0.9167, macro F1 0.5|" in said
    assert "|angry|3|1|0.75|" in said
    assert "glad|0|8|1|" in said
    assert "<b>glad" not in page
    assert "Labels at step" not in text_of(report_html(SmallRun()))
