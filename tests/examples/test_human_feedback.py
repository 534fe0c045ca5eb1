"""A reviewer's choices: answers follow them."""

from __future__ import annotations

import pytest

from ._execute import Execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_reviewer_is_followed(execute: Execute) -> None:
    won, lost, usable, sorry = execute(
        "human_feedback.ipynb",
        "[better_says.wins('live', 'support').won, better_says.wins('live', 'support').lost,"
        " len(support_says.pairs(held_out=False)), answers.groupby('weights')['says sorry'].mean().to_dict()]",
    )
    assert usable >= 12
    assert won + lost >= 6
    assert won > lost
    assert sorry["live"] >= sorry["support"]
