"""Questions on a text: form and reading are learned."""

from __future__ import annotations

import pytest

from ._execute import Execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_question_answering_gains_form_and_reading(execute: Execute) -> None:
    means, questions, told = execute(
        "question_answering.ipynb",
        "[replies.groupby('at')[['exact match', 'token F1', 'contained']].mean().to_dict(), len(test),"
        " reader.metrics[['eval_exact_match', 'eval_token_f1']].dropna().iloc[-1].to_list()]",
    )
    assert questions == 30
    assert told == [pytest.approx(means[name]["live"], abs=0.035) for name in ("exact match", "token F1")]
    assert means["exact match"]["live"] >= means["exact match"]["base"] + 0.3
    assert means["token F1"]["live"] >= means["token F1"]["base"] + 0.2
