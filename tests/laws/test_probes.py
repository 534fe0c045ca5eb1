"""Probes: looking that does not touch, answers spoken by the step that they name, one strip however often resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import DataError, RecipeError

from ._runs import finish, replies

PROMPTS = ["Where is order 3?", "Where is order 77?"]
ASKED = {"epochs": 3, "learning_rate": 5e-3, "batch_size": 4, "seed": 7}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ft.sampling import probes

    monkeypatch.setattr(probes, "MOST_TOKENS", 24)


def probed(session: Any) -> list[Any]:
    return [event for event in session.events if event.kind == "probe"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_probes_leave_losses_and_weights_alone_and_name_their_step(
    tune: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from jupyter_ft import runs
    from jupyter_ft.data import chat_ids
    from jupyter_ft.launch.voices import voices_of
    from jupyter_ft.sampling.generate import Manner, speak

    monkeypatch.setattr(runs, "KEEP", 10**6)
    adapter = {"kind": "lora", "r": 4, "dropout": 0.1} if kind == "lora" else "full"
    alone = finish(tune("alone", adapter=adapter, **ASKED))
    session = tune("watched", adapter=adapter, checkpoint_steps=9, probes=PROMPTS, probe_steps=9, **ASKED)
    assert finish(session) == alone
    assert session.probes.columns.tolist() == ["base", 9, 18, 27, 36, 39]  # all there when the run is over
    assert session.probes.index.tolist() == PROMPTS
    assert replies(session) == []

    def idle(step: int, prompt: str) -> str:
        twin = voices_of(session.run_folder, step or 9, session.recipe, "prompt-completion", session.log)
        model, _ = twin.voice("live" if step else "base")
        ids = chat_ids(twin.tokenizer, [{"role": "user", "content": prompt}])
        return speak(model, twin.tokenizer, ids, Manner(max_new_tokens=24)).text

    for event in probed(session):
        assert event.text == idle(event.step, event.prompt)
    assert session.probes.iloc[0].nunique() >= 3  # else this proves nothing


@pytest.mark.slow
def test_a_resumed_run_has_the_same_strip_and_asks_the_base_once(tune: Any) -> None:
    asked = {**ASKED, "probes": 2, "held_out": 6, "probe_steps": 5}
    whole = tune("whole", **asked)
    whole.wait(timeout=200)
    parted = tune("parted", **asked)
    parted.wait(step=8, timeout=100)
    for number in range(8):  # they go first, so that answers are owed
        parted.ask([{"role": "user", "content": f"Where is order {number}?"}], max_new_tokens=300)
    parted.wait(step=16, timeout=100)
    parted.stop().wait(60)
    parted.close()
    owed = len(list((parted.folder / "probes").iterdir()))
    parted = jupyter_ft.open("parted")
    parted.resume().wait(60)
    parted.wait(timeout=200)
    assert owed >= 1
    assert parted.probes.equals(whole.probes)
    assert not list((parted.folder / "probes").iterdir())
    assert whole.probes.shape == (2, 1 + 6 + 1)
    assert len([event for event in probed(parted) if event.at == "base"]) == 2


@pytest.mark.slow
def test_a_question_of_a_person_is_answered_first(tune: Any) -> None:
    session = tune(probes=[f"Where is order {number}?" for number in range(8)], probe_steps=5, max_steps=6, **ASKED)
    session.wait(step=5, timeout=100)
    asked = session.ask([{"role": "user", "content": "Where is order 3?"}], max_new_tokens=5)
    before = len(probed(session))
    asked.wait(60)
    kinds = [event.kind for event in session.events if event.kind in ("probe", "reply")]
    assert kinds.index("reply") <= before + 1  # the one that was being answered may have been done
    session.wait(timeout=200)
    assert session.probes.notna().all(axis=None)
    assert session.probes.size > before + 2  # there was more to answer


@pytest.mark.slow
def test_probe_steps_are_live_and_a_classifier_gives_labels(tune: Any) -> None:
    data = [{"text": f"{'good' if i % 2 else 'bad'} {i}", "label": "yes" if i % 2 else "no"} for i in range(40)]
    session = tune(data=data, method="classification", probes=["good 1", "bad 2"], epochs=2)
    session.set(probe_steps=7, step=5).wait(60)
    session.wait(timeout=100)
    assert session.probes.columns.tolist() == [2, 4, 7, 14, 20]  # the head is new: there is nothing to ask of the base
    assert all(text.startswith(("yes 0.", "no 0.", "yes 1.", "no 1.")) for text in session.probes.to_numpy().ravel())


@pytest.mark.slow
def test_a_run_that_starts_from_another_shows_where_it_started(tune: Any) -> None:
    first = tune("first", epochs=1, learning_rate=5e-3)
    first.wait(timeout=60)
    second = tune("second", start_from="first", epochs=1, probes=PROMPTS, metrics=[min_length], held_out=5)
    second.wait(timeout=60)
    assert second.probes.columns.tolist()[:3] == ["base", 0, 2]
    assert second.probes[0].tolist() == [first.chat(prompt, max_new_tokens=24) for prompt in PROMPTS]
    assert "eval_min_length" in second.metrics.columns


def min_length(prompts: list[str], predictions: list[str], references: list[str]) -> int:
    return min(map(len, predictions))


def test_prompts_of_a_file_are_kept_with_the_run(tune: Any, tmp_path: Path) -> None:
    lines, table = tmp_path / "cases.txt", tmp_path / "cases.csv"
    lines.write_text("Where is it?\n\nWhy?\n")
    table.write_text("number,question\n1,Where is it?\n2,Why?\n")
    for file in (lines, table):
        session = tune("filed", probes=str(file), epochs=1)
        assert session.recipe.probes == ("Where is it?", "Why?")
        session.close()


def test_what_cannot_be_probed_is_said_before_anything_starts(tune: Any, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("a,b\n1,2\n")
    for asked, error, said in (
        ({"probes": 3}, RecipeError, "held_out: 10%"),
        ({"probes": ["a", " "]}, RecipeError, "a list of prompts, a file, or a number of held-out rows, 20 at most"),
        ({"probes": True}, RecipeError, "a list of prompts"),
        ({"probes": 21, "held_out": 25}, RecipeError, "20 at most"),
        ({"probe_steps": 3}, RecipeError, "add probes"),
        ({"probes": "Where is it?"}, DataError, "there is no file 'Where is it?'; write prompts as a list"),
        ({"probes": str(tmp_path / "none.csv")}, DataError, "has no column prompt (columns: 'a', 'b')"),
    ):
        with pytest.raises(error, match=r"^[^\n]+$") as raised:
            tune(**asked)
        assert said in str(raised.value)
    session = tune(epochs=1)
    refused = session.submit(jupyter_ft.messages.Set(changes={"probe_steps": 2}))
    assert session.log.wait_for(lambda: refused.answer is not None, 60)
    assert "start a run with probes" in refused.answer.reason
