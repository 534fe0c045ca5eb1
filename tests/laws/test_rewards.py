"""Rewards: functions of the notebook whatever they do, and reward models of earlier runs on the same base."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import RecipeError, Refused, TrainingFailed
from jupyter_ft.messages import Logged

from ._runs import finish
from .test_grpo import ASKED, letters
from .test_methods import PAIRS

GRPO = ASKED | {"method": "grpo", "accumulation": 1, "epochs": 1}
broken: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _mended() -> Iterator[None]:
    broken.clear()
    yield
    broken.clear()


def fragile(completions: list[str], number: list[int], **_: Any) -> Any:
    """`letters`, or what is `broken` in the third generation."""
    print("judging", len(completions))  # noqa: T201
    if "gives" in broken and fragile.calls == 2:  # type: ignore[attr-defined]
        return broken["gives"]
    if "raises" in broken and fragile.calls == 2:  # type: ignore[attr-defined]
        raise broken["raises"]
    fragile.calls += 1  # type: ignore[attr-defined]
    return letters([], completions, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"raises": KeyError("answer")}, r"raised KeyError: 'answer' \(line \d+ of its cell or file\); mend it"),
        ({"gives": None}, "gave nothing; give a list of 4 numbers"),
        ({"gives": [1.0]}, "gave 1 rewards for 4 answers"),
        ({"gives": [1.0, float("nan"), 1.0, 1.0]}, "gave nan for answer 2"),
        ({"gives": [1.0, 1.0, None, 1.0]}, "gave None for answer 3"),
        ({"gives": ["good"] * 4}, "gave a str for answer 1"),
        ({"gives": 3.0}, "gave a float"),
    ],
    ids=["raises", "nothing", "count", "nan", "none", "text", "number"],
)
def test_a_function_that_fails_costs_nothing(tune: Any, wrong: dict[str, Any], said: str) -> None:
    """The run waits before the step, says why in one line, and goes on as if nothing had been."""
    fragile.calls = 0  # type: ignore[attr-defined]
    broken.update(wrong)
    session = tune("policy", rewards=fragile, **GRPO)
    with pytest.raises(TrainingFailed, match=f"step 3 has no reward: the reward function 'fragile' {said}"):
        session.wait(timeout=60)
    assert (session.state, session.step) == ("paused", 2)
    broken.clear()
    session.resume().wait()
    got = finish(session)
    assert session.state == "finished"
    assert any(event.text == "judging 4" for event in session.events if isinstance(event, Logged))
    if "raises" in wrong:
        assert got == finish(tune("whole", rewards=letters, **GRPO))


@pytest.mark.slow
def test_one_that_fails_in_an_evaluation_leaves_that_out(tune: Any, tmp_path: Path) -> None:
    def judged(completions: list[str], number: list[int]) -> list[float]:
        if 3 in number and "now" in broken:
            raise ValueError("no such order")
        return letters([], completions, number)

    rows = [row | {"number": 3 if at < 4 else 0} for at, row in enumerate(ASKED["data"])]
    apart = [row for row in rows if row["number"] == 3]
    file = tmp_path / "apart.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in apart))
    asked = GRPO | {"data": rows[4:], "held_out": str(file), "eval_steps": 2}
    whole = finish(tune("whole", rewards=judged, **asked))
    broken["now"] = True
    session = tune("policy", rewards=judged, **asked)
    with pytest.raises(TrainingFailed, match=r"no evaluation at step 2: .* 'judged' raised ValueError: no such order"):
        session.wait(timeout=60)
    broken.clear()
    session.resume().wait()
    assert finish(session) == whole
    assert [event.step for event in session.events if event.kind == "eval"] == [4, 5]


@pytest.mark.slow
def test_one_that_hangs_is_left_and_stop_works(tune: Any) -> None:
    gate = threading.Event()

    def slow(completions: list[str], **_: Any) -> list[float]:
        gate.wait(60)
        return [float(len(text)) for text in completions]

    try:
        session = tune("slow", rewards=slow, reward_timeout=0.4, **GRPO)
        with pytest.raises(TrainingFailed, match=r"'slow' has not returned in 0.4 s and was left"):
            session.wait(timeout=60)
        assert any(
            "waiting for the reward function 'slow'" in event.text
            for event in session.events
            if isinstance(event, Logged)
        )
        session.set(reward_timeout=60).wait()
        session.resume().wait()
        session.stop().wait(20)
        session.wait_until_over(20)
        assert (session.state, session.step) == ("stopped", 0)
    finally:
        gate.set()
    session.resume().wait()
    finish(session)
    assert session.state == "finished"


@pytest.mark.slow
def test_a_function_is_needed_again_and_may_be_another(tune: Any) -> None:
    asked = GRPO | {"epochs": 3}  # long enough to be stopped on the way
    session = tune("policy", rewards=letters, **asked)
    session.wait(step=2)
    session.stop().wait()
    session.wait_until_over(30)
    assert "letters" in session.run_folder.read_recipe()[1]["rewards"]["letters"]["source"]
    session.close()
    again = jupyter_ft.open("policy")
    with pytest.raises(Refused, match="the reward function letters cannot be read from the run folder"):
        again.resume().wait()
    with pytest.raises(RecipeError, match="has no reward 'fragile'; it has: letters"):
        again.resume(rewards=[fragile])
    again.resume(rewards=[letters]).wait()
    assert finish(again) == finish(tune("whole", rewards=letters, **asked))


@pytest.mark.slow
def test_a_reward_model_judges_beside_functions_on_one_base(tune: Any) -> None:
    from jupyter_ft.messages import Progress

    judge = tune("judge", data=PAIRS, method="reward", epochs=2, max_length=128)
    finish(judge)
    parent = tune("talker", epochs=1, max_length=64)
    finish(parent)
    rows = [{"prompt": f"Where is order {number}?"} for number in range(4)]
    asked = {key: value for key, value in GRPO.items() if key != "data"} | {"epochs": 6, "num_generations": 4}

    def brief(completions: list[str]) -> list[float]:
        return [-float(len(text)) for text in completions]

    policy = jupyter_ft.finetune(
        data=rows,
        name="policy",
        start_from="talker",
        rewards={brief: 0.5, "judge": 1.0},
        **asked,
    )
    losses = finish(policy)
    assert policy.recipe.rewards == ("brief", "judge")
    assert policy.hyperparameters.reward_weights == (0.5, 1.0)
    loaded = [e for e in policy.events if isinstance(e, Progress) and e.what.startswith("loading")]
    assert loaded == []  # one base for all three
    assert policy.metrics["kl"].iloc[0] == pytest.approx(0, abs=1e-5)  # its parent's weights are the reference

    (first, *_) = policy.completions.to_dict("records")
    turns = [{"role": "user", "content": first["prompt"]}, {"role": "assistant", "content": first["completion"]}]
    score = judge.chat(turns).scores["score"]
    assert first["rewards/judge"] == pytest.approx(score, abs=1e-5)
    assert first["rewards/brief"] == -len(first["completion"])
    weighed = 0.5 * policy.metrics["rewards/brief/mean"] + policy.metrics["rewards/judge/mean"]
    assert policy.metrics["reward"].tolist() == pytest.approx(weighed.tolist(), rel=1e-5)

    judge.close()
    again = jupyter_ft.finetune(
        data=rows,
        name="again",
        start_from="talker",
        rewards={brief: 0.5, "judge": 1.0},
        **asked,
    )
    again.wait(step=2)
    again.stop().wait()
    again.wait_until_over(30)
    again.resume().wait()
    assert finish(again) == losses


@pytest.mark.slow
def test_what_is_no_reward_is_said_before_anything_is_loaded(tune: Any) -> None:
    finish(tune("talker", epochs=1))
    for rewards, said in [
        (None, "method grpo needs rewards"),
        ("brevity", "there is no function 'brevity' in the notebook and no run of that name"),
        ("talker", "'talker' learned by sft, so it gives no scores"),
        ([letters, letters], "letters is there twice"),
        ([lambda completions: [0.0]], "a function needs a name"),
        (3, "3 is no function and no run"),
    ]:
        with pytest.raises(RecipeError, match=said):
            tune("policy", rewards=rewards, **GRPO)
    with pytest.raises(RecipeError, match="sft learns from no rewards"):
        tune("policy", rewards=letters)
    assert "policy" not in jupyter_ft.sessions
