"""`%ft review` without a front end: it opens the review, and says how it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_a_review_in_a_terminal(
    shell: Any, refused: Any, tune: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    session = tune("support", max_steps=2)
    session.wait(timeout=120)
    (tmp_path / "cases.csv").write_text("prompt\nHow are you?\nAnd now?\n")
    line = '%ft review support --prompts cases.csv --at live,base --reviewer "Dr Ada" max_new_tokens=12 --out desk'
    capsys.readouterr()
    assert shell.run_cell(line).success
    desk = shell.user_ns["desk"]
    assert session.desk is desk
    assert (desk.reviewer, desk.at, desk.blind) == ("Dr Ada", ("live", "base"), True)
    assert desk.wait(60).question == "How are you?"
    told = capsys.readouterr().out
    assert told.startswith("review of support by Dr Ada · 0 judged; 2 to go")
    session.views.review(desk)
    told = capsys.readouterr().out
    assert "1. How are you?" in told
    assert "support.desk.judge('left')" in told
    assert "base" not in told  # it is blind
    desk.judge("left")
    shell.user_ns["asked"] = ["Only this?"]
    assert shell.run_cell("%ft review support --prompts asked --open --at base,live max_new_tokens=12").success
    assert session.desk.wait(60).question == "Only this?"
    session.views.review(session.desk)
    assert "(base):" in capsys.readouterr().out
    assert refused("%ft review support --prompts cases.tsv") == "cases.tsv does not exist; did you mean 'cases.csv'?"
    assert refused("%ft review support --prompts shell").startswith("data 'shell': there is no file and no variable")
    assert "unknown setting" in refused("%ft review support warmth=2")
    assert session.desk is not None


@pytest.mark.slow
def test_the_rows_of_judgements_before_anything_is_trained(
    shell: Any, refused: Any, tune: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.feedback.making import chosen

    session = tune("support", max_steps=1)
    session.wait(timeout=120)
    assert "has no judgement yet" in refused("%ft data feedback:support method=dpo")
    for number in range(10):
        session.feedback.add(chosen(f"Where is order {number}?"))
    capsys.readouterr()
    assert shell.run_cell(f"%ft data feedback:support method=dpo model={session.recipe.model}").success
    told = capsys.readouterr().out
    assert "choices between two answers from feedback:support" in told
    assert "more held out, by their prompts" in told
