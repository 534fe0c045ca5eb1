"""Every method learns what it was asked to: on rows that it has not seen, SmolLM2 is better than before.

Those of classification and cpt are in `test_scoring_demo.py` and `test_cpt.py`.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest

from ._runs import bare_trainer

pytestmark = pytest.mark.slow

TICKETS = Path(__file__).parents[2] / "examples" / "tickets.csv"
HELD_OUT = 8


def _sentence(text: str) -> str:
    return re.split(r"(?<=[.?!]) ", text)[0]


def _tickets() -> list[tuple[str, str]]:
    with TICKETS.open(newline="") as file:
        return [(_sentence(row["Customer message"]), _sentence(row["Agent reply"])) for row in csv.DictReader(file)]


def _pairs() -> list[dict[str, str]]:
    """The rule of the choices: an answer is better than the customer's own words said back."""
    return [{"prompt": asked, "chosen": reply, "rejected": asked} for asked, reply in _tickets()]


def _rated() -> list[dict[str, Any]]:
    """The same rule on answers one by one, each customer with one of the two."""
    return [
        {"prompt": asked, "completion": reply if good else asked, "label": good}
        for good, (asked, reply) in zip([True, False] * 48, _tickets(), strict=True)
    ]


def _tuned(method: str, rows: list[dict[str, Any]], steps: int, learning_rate: float) -> Any:
    """A session that is over, and the metrics of its one evaluation, after its last step."""
    import jupyter_ft

    session = jupyter_ft.finetune(
        "demo", rows, method, method=method, held_out=HELD_OUT, max_steps=steps, batch_size=2, eval_steps=steps,
        max_length=96, learning_rate=learning_rate, system="A shop.",
    )  # fmt: skip
    session.wait(timeout=500)
    (last,) = [event for event in session.events if event.kind == "eval"]
    assert (last.rows, last.step) == (HELD_OUT, steps)
    return session, last.metrics


def _untrained(session: Any, rows: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """What the method's own trainer evaluates before its first step, with nothing of a session about it."""
    found: dict[str, float] = bare_trainer(Path("demo"), rows, session.recipe, folder / "bare").evaluate()
    return found


def test_sft_finds_unseen_replies_likelier(tmp_path: Path) -> None:
    rows = [{"prompt": asked, "completion": reply} for asked, reply in _tickets()]
    session, after = _tuned("sft", rows, steps=6, learning_rate=1e-3)
    assert after["eval_loss"] < 0.8 * _untrained(session, rows, tmp_path)["eval_loss"]


def test_reward_scores_the_better_of_unseen_answers_higher(tmp_path: Path) -> None:
    session, after = _tuned("reward", _pairs(), steps=6, learning_rate=5e-4)
    before = _untrained(session, _pairs(), tmp_path)
    assert after["eval_accuracy"] >= max(0.85, before["eval_accuracy"] + 0.2)
    assert after["eval_loss"] < 0.6 * before["eval_loss"]


def test_dpo_prefers_the_better_of_unseen_answers() -> None:
    """Untrained, the policy is its own reference: each margin is 0, and the loss the logarithm of 2."""
    _, after = _tuned("dpo", _pairs(), steps=5, learning_rate=5e-4)
    assert after["eval_rewards/margins"] > 0.5
    assert after["eval_rewards/accuracies"] >= 0.85
    assert after["eval_loss"] < 0.8 * math.log(2)


def test_kto_parts_unseen_good_answers_from_bad() -> None:
    """Untrained, the policy is its own reference: each reward is 0, and the loss a half."""
    _, after = _tuned("kto", _rated(), steps=8, learning_rate=1e-3)
    assert after["eval_rewards/margins"] > 0.3
    assert after["eval_loss"] < 0.9 * 0.5
