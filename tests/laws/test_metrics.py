"""Metrics of answers at each evaluation: by the weights of that step, touching nothing, and best by any of them."""

from __future__ import annotations

import math
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import RecipeError

from ._runs import finish

HELD = {"held_out": 8, "epochs": 5, "learning_rate": 5e-3, "batch_size": 4, "eval_steps": 10, "seed": 7}
COLOURS = ["red", "blue", "green", "white"]
QUESTIONS = [
    {
        "context": f"The door {number} is {COLOURS[number % 4]}.",
        "question": "Which colour?",
        "answers": {"text": [COLOURS[number % 4], f"It is {COLOURS[number % 4]}"], "answer_start": [0, 0]},
    }
    for number in range(40)
]


def evaluations(session: Any) -> list[Any]:
    return [event for event in session.events if event.kind == "eval"]


def warnings(session: Any) -> list[str]:
    return [e.text for e in session.events if e.kind == "log" and e.level == "warning" and e.text.startswith("metric")]


@pytest.mark.slow
def test_metrics_leave_losses_and_weights_alone_and_see_what_the_weights_say(tune: Any) -> None:
    calls: list[tuple[list[str], list[str], list[str], list[list[str]]]] = []

    def seen(prompts: list[str], predictions: list[str], references: list[str], answers: list[list[str]]) -> float:
        calls.append((prompts, predictions, references, answers))
        return sum(map(len, predictions))

    adapter = {"r": 4, "dropout": 0.1}
    alone = finish(tune("alone", data=QUESTIONS, adapter=adapter, **HELD))
    asked = {"metrics": ["exact_match", "token_f1", seen], "metric_rows": 4, "checkpoint_steps": 10}
    session = tune("measured", data=QUESTIONS, adapter=adapter, **HELD, **asked)
    assert finish(session) == alone
    assert session.recipe.metrics == ("exact_match", "token_f1", "seen")
    measured = session.metrics[["eval_exact_match", "eval_token_f1", "eval_seen"]].dropna()
    assert measured.index.tolist() == [e.step for e in evaluations(session)] == [10, 20, 30, 40]
    assert len(calls) == 4
    prompts, predictions, references, answers = calls[-1]
    assert [prompt.endswith("\n\nWhich colour?") for prompt in prompts] == [True] * 4
    assert answers == [[right, f"It is {right}"] for right in references]
    spoken = [session.chat(prompt, at=40, max_new_tokens=26) for prompt in prompts]  # 2 * 5 letters + 16
    assert [text[:20] for text in predictions] == [text[:20] for text in spoken]
    assert len(set(calls[0][1]) | set(predictions)) > 1  # else this proves nothing
    assert measured["eval_seen"].iloc[-1] == sum(map(len, predictions))
    right = [
        text.strip(" .").lower() in (one, f"it is {one}") for text, one in zip(predictions, references, strict=True)
    ]
    assert measured["eval_exact_match"].iloc[-1] == sum(right) / 4
    last = evaluations(session)[-1].metrics
    assert last["eval_perplexity"] == pytest.approx(math.exp(last["eval_loss"]))


@pytest.mark.slow
def test_a_function_that_fails_is_one_line_and_the_run_goes_on(tune: Any) -> None:
    def broken(prompts: list[str], predictions: list[str], references: list[str]) -> float:
        raise KeyError("colour")

    def empty(prompts: list[str], predictions: list[str], references: list[str], **columns: Any) -> dict[str, float]:
        return {"nothing": math.nan, "rows": len(columns["answers"])}

    asked = {**HELD, "eval_steps": 20, "metrics": [broken, empty], "best_metric": "rows"}
    session = tune(data=QUESTIONS, **asked)
    session.wait(timeout=120)
    assert session.state == "finished"
    line = broken.__code__.co_firstlineno + 1
    assert warnings(session) == [
        f"metric broken failed: KeyError: 'colour' (line {line} of broken); it is left out",
        "metric empty gave nan as eval_nothing; it is left out",
    ]
    assert [e.metrics["eval_rows"] for e in evaluations(session)] == [8, 8]
    assert not {"eval_broken", "eval_nothing"} & set(session.metrics.columns)


@pytest.mark.slow
def test_best_is_told_by_the_metric_that_is_asked_for(tune: Any) -> None:
    told = iter([0.1, 0.9, 0.3, 0.2, 0.2, 0.1])

    def quality(prompts: list[str], predictions: list[str], references: list[str]) -> float:
        return next(told)

    asked = {**HELD, "metrics": quality, "early_stopping_patience": 2, "checkpoint_steps": 5}
    session = tune(data=QUESTIONS, best_metric="quality", **{**asked, "epochs": 20})
    session.wait(timeout=120)
    assert session.step == 40
    assert session.best_step == 20
    assert 20 in session.steps
    assert session.events[-1].note == "stopped early: no better eval_quality in 2 evaluations; the best is step 20"
    assert {e.best_metric for e in evaluations(session)} == {"eval_quality"}
    told = iter([0.5, 0.9, 0.3, 0.4])
    session = tune("lower", data=QUESTIONS, best_metric="min eval_quality", **{**HELD, "metrics": quality})
    session.wait(timeout=120)
    assert session.best_step == 30


@pytest.mark.slow
def test_a_best_metric_that_nothing_tells_is_said_and_the_loss_decides(tune: Any) -> None:
    session = tune(best_metric="eval_f2", **HELD)
    session.wait(timeout=120)
    by_loss = min(evaluations(session), key=lambda e: e.metrics["eval_loss"])
    assert session.best_step == by_loss.step
    said = [e.text for e in session.events if e.kind == "log" and "eval_f2" in e.text]
    assert len(said) == 1
    assert "eval_f2 is not told here, so eval_loss decides; there are eval_" in said[0]


@pytest.mark.slow
def test_a_resumed_run_says_that_the_function_is_not_here(tune: Any) -> None:
    def length(prompts: list[str], predictions: list[str], references: list[str]) -> float:
        return 1.0

    asked = {**HELD, "metrics": [length, "token_f1"]}

    def stopped(name: str) -> None:
        session = tune(name, data=QUESTIONS, **asked)
        session.wait(step=12, timeout=60)
        session.stop().wait(60)
        session.close()

    stopped("opened")
    session = jupyter_ft.open("opened")
    session.resume().wait(60)
    session.wait(timeout=60)
    assert warnings(session) == [
        "metric length: this kernel does not have the function; resume from the cell that names it"
    ]
    assert "eval_token_f1" in evaluations(session)[-1].metrics
    stopped("again")
    session = tune("again", data=QUESTIONS, resume=True, **asked)
    session.wait(timeout=60)
    assert evaluations(session)[-1].metrics["eval_length"] == 1.0


def test_what_cannot_be_measured_is_said_before_anything_starts(tune: Any) -> None:
    labelled = [{"text": f"t{i}", "label": str(i % 2)} for i in range(9)]
    texts = [{"text": f"t{i}"} for i in range(9)]
    f1 = {"metrics": ["token_f1"], "held_out": 3}
    for asked, said in (
        ({"metrics": "token_f2", "held_out": 3}, "metrics: 'token_f2' is no function here; did you mean 'token_f1'?"),
        ({"metrics": ["token_f1"]}, "add held_out: 10%"),
        ({"metrics": [len, len], "held_out": 3}, "metrics: len is there twice"),
        ({**f1, "method": "classification", "data": labelled}, "classification has none"),
        ({**f1, "data": texts}, "these rows are texts without any"),
        ({"best_metric": "better eval_x", "held_out": 3}, "a metric's name, like eval_token_f1 or: min eval_wer"),
        ({"best_metric": "token_f1"}, "add held_out: 10%"),
    ):
        with pytest.raises(RecipeError, match=r"^[^\n]+$") as raised:
            tune(**asked)
        assert said in str(raised.value)


@pytest.mark.slow
def test_a_metric_that_hangs_is_left_and_the_run_and_others_go_on(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from jupyter_ft.sampling import metrics

    monkeypatch.setattr(metrics, "MOST_SECONDS", 0.3)
    ends = threading.Event()

    def hangs(prompts: Any, predictions: Any, references: Any, **_: Any) -> float:
        ends.wait(60)
        return 1.0

    session = tune("hung", held_out=4, metrics=[hangs], metric_rows=1, eval_steps=2, max_steps=4)
    beside = tune("beside", max_steps=2)
    session.wait(timeout=50)
    beside.wait(timeout=50)
    ends.set()
    said = [event.text for event in session.events if event.kind == "log" and "metric hangs" in event.text]
    assert len(said) == 1
    assert said[0].endswith("and was left; it is left out from here on")
    assert (session.state, beside.state) == ("finished", "finished")


@pytest.mark.slow
def test_a_stop_ends_the_wait_for_a_metric(tune: Any) -> None:
    import threading

    began, ends = threading.Event(), threading.Event()

    def hangs(prompts: Any, predictions: Any, references: Any, **_: Any) -> float:
        began.set()
        ends.wait(60)
        return 1.0

    session = tune("hung", held_out=4, metrics=[hangs], metric_rows=1, eval_steps=1, max_steps=40)
    assert began.wait(50)
    session.stop().wait(20)
    session.wait(timeout=20)
    ends.set()
    assert session.state == "stopped"
