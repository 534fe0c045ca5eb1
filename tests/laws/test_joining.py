"""Pairs judged while a preference run trains join it at its next epoch, the same ones whenever it is resumed."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.feedback import is_held_out
from tests.feedback.making import chosen

from ._runs import finish

PROMPTS = [f"What about case {number}?" for number in range(40)]
TRAIN = [prompt for prompt in PROMPTS if not is_held_out([{"role": "user", "content": prompt}])]
EPOCH = 6  # steps of twelve pairs, two a step


@pytest.fixture
def begun(tune: Any) -> Any:
    """Start a run of three epochs on twelve judged pairs; it waits in the first one, where more may be judged."""
    source = tune("support", max_steps=1)
    source.wait(timeout=120)
    for prompt in TRAIN[:12]:
        source.feedback.add(chosen(prompt, left=f"Good: {prompt}"))

    def start(name: str, method: str = "dpo", **more: Any) -> Any:
        for one in source.feedback:
            if one.id not in first:
                source.feedback.undo(one)
        settings = {"batch_size": 2, "epochs": 3, "learning_rate": 1e-2, "start_from": "support"} | more
        session = jupyter_ft.finetune(None, "feedback:support", name, method=method, **settings)
        session.pause().wait(120)
        assert session.step < EPOCH
        return session

    first = {one.id for one in source.feedback}
    return start


def _judge(session: Any, *prompts: str) -> None:
    for prompt in prompts:
        session.feedback.add(chosen(prompt, "right", left=f"Bad: {prompt}", right="Right."))


def _taken(session: Any) -> list[int]:
    """Rows that each step took, by its share of an epoch."""
    return [round(epoch, 6) for epoch in session.log.read()[0].steps["epoch"]]


def _joins(session: Any) -> list[str]:
    return [e.text for e in session.events if e.kind == "log" and "judged meanwhile" in e.text]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_they_join_at_the_next_epoch_and_are_named(begun: Any, method: str) -> None:
    session = begun("joined", method)
    held = next(prompt for prompt in PROMPTS if prompt not in TRAIN)
    _judge(jupyter_ft.sessions["support"], *TRAIN[12:14], held)
    _judge(session, TRAIN[14])  # from its current weights
    session.resume()
    finish(session)
    assert session.total_steps == session.step == EPOCH + 2 * 8  # fifteen pairs take eight steps
    (said,) = _joins(session)
    assert said.startswith("3 pairs judged meanwhile join at epoch 2, from step 7 on (named in data/joined.jsonl)")
    lines = [json.loads(line) for line in (session.folder / "data" / "joined.jsonl").read_text().splitlines()]
    assert [row["prompt"][-1]["content"] for row in lines[0]["examples"]] == TRAIN[12:15]
    assert [(line["epoch"], line["step"], len(line["rows"])) for line in lines] == [(1, 6, 3), (2, 14, 0)]
    assert _taken(session)[EPOCH - 1] == 1.0
    assert _taken(session)[EPOCH : EPOCH + 8] == [round(1 + min(2 * n, 15) / 15, 6) for n in range(1, 9)]


def _stopped_in_the_second_epoch(session: Any) -> Any:
    _judge(jupyter_ft.sessions["support"], *TRAIN[12:15])
    session.resume()
    session.wait(step=EPOCH + 2, timeout=120)
    session.stop()
    session.wait_until_over(120)
    assert EPOCH + 2 <= session.step < EPOCH + 8
    session.close()
    return session.folder


@pytest.mark.slow
def test_resumed_with_them_it_is_as_if_never_stopped(begun: Any) -> None:
    session = begun("whole")
    _judge(jupyter_ft.sessions["support"], *TRAIN[12:15])
    session.resume()
    whole = finish(session)
    folder = _stopped_in_the_second_epoch(begun("stopped"))
    session = jupyter_ft.open(folder)
    session.resume().wait(120)
    assert finish(session) == whole


@pytest.mark.slow
def test_killed_before_they_came_it_is_given_the_same_again(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ft import runs

    monkeypatch.setattr(runs, "KEEP", 10**6)
    session = begun("whole")
    _judge(jupyter_ft.sessions["support"], *TRAIN[12:15])
    session.resume()
    whole = finish(session)
    folder = _stopped_in_the_second_epoch(begun("killed", checkpoint_steps=2))
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name.rpartition("-")[2]) > EPOCH - 2:
            shutil.rmtree(checkpoint)
    jupyter_ft.sessions["support"].feedback.add(chosen(TRAIN[15]))  # too late for the second epoch
    session = jupyter_ft.open(folder)
    session.resume().wait(120)
    found = finish(session)
    assert found[0][: EPOCH + 8] == whole[0][: EPOCH + 8]
    assert session.total_steps == EPOCH + 8 + 8
    assert [said.partition(" from")[0] for said in _joins(session)][-1] == "1 pair judged meanwhile joins at epoch 3,"


@pytest.mark.slow
def test_taken_back_and_forked_it_has_the_rows_of_that_step(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ft import runs

    monkeypatch.setattr(runs, "KEEP", 10**6)
    session = begun("whole", checkpoint_steps=2)
    _judge(jupyter_ft.sessions["support"], *TRAIN[12:15])
    session.resume()
    whole = finish(session)
    forked = session.fork("forked", at=EPOCH + 2)  # after they came
    assert finish(forked)[1] == whole[1]
    session = begun("back", checkpoint_steps=2)
    _judge(jupyter_ft.sessions["support"], *TRAIN[12:15])
    session.resume()
    session.wait(step=EPOCH + 4, timeout=120)
    session.rewind(EPOCH - 2).wait(120)  # before they came
    assert finish(session) == whole


@pytest.mark.slow
def test_replayed_they_join_where_they_did(begun: Any, tmp_path: Path) -> None:
    session = begun("whole")
    _judge(jupyter_ft.sessions["support"], *TRAIN[12:15])
    session.resume()
    whole = finish(session)
    script = session.replay(tmp_path / "whole.py")
    jupyter_ft.sessions["support"].feedback.add(chosen(TRAIN[15]))  # no more than joined then joins now
    assert "Before step 7 3 rows joined, judged meanwhile" in script.read_text()
    assert finish(runpy.run_path(str(script))["session"]) == whole
