"""Stages on one base: a run starts from exactly the weights of another, which stay the reference of a dpo run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jupyter_ft.errors import AddressError, CheckpointError, RecipeError
from jupyter_ft.messages import Logged, Progress

from ._runs import final_hash, finish, hash_of
from .test_methods import ASKED, PAIRS

CHOICES = {key: value for key, value in ASKED.items() if key != "data"}
LONG = CHOICES | {"epochs": 10}  # to be stopped on the way


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{"r": 4}, "full"], ids=["lora", "full"])
def test_a_dpo_run_starts_from_and_refers_to_its_parent(tune: Any, adapter: Any) -> None:
    import jupyter_ft
    from jupyter_ft.weights import read_weights

    parent = tune("parent", epochs=2, adapter=adapter, system="Be short.")
    finish(parent)
    child = jupyter_ft.finetune(data=PAIRS, name="child", start_from="parent", **LONG)
    losses, final = finish(child)
    began = hash_of(read_weights(child.run_folder.start))
    assert began == final_hash(parent) != final
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # the policy is its own reference at the first step
    assert child.metrics["rewards/margins"].iloc[0] == pytest.approx(0, abs=1e-5)
    assert child.recipe.system == "Be short."
    assert (child.recipe.model, child.recipe.adapter) == (parent.recipe.model, parent.recipe.adapter)
    assert child.run_folder.read_recipe()[1]["parent"]["step"] == parent.step
    told = [event.text for event in child.events if isinstance(event, Logged)]
    assert f"starts from parent at step {parent.step} (sft)" in told
    loaded = [e for e in child.events if isinstance(e, Progress) and e.what.startswith("loading")]
    assert loaded == []  # one base for both

    again = jupyter_ft.finetune(data=PAIRS, name="again", start_from=f"parent@{parent.step}", **LONG)
    again.wait(step=3)
    again.stop().wait()
    again.wait_until_over(60)
    again.resume().wait()
    assert finish(again) == (losses, final)


@pytest.mark.slow
def test_before_its_first_step_a_child_says_what_its_parent_says(tune: Any) -> None:
    import jupyter_ft

    parent = tune("parent", epochs=6)
    finish(parent)
    question = "Where is order 3?"
    child = jupyter_ft.finetune(data=PAIRS, name="child", start_from="parent", **(CHOICES | {"learning_rate": 1e-12}))
    finish(child)
    assert str(child.chat(question, max_new_tokens=20)) == str(parent.chat(question, max_new_tokens=20))
    assert str(child.chat(question, max_new_tokens=20)) != str(child.chat(question, at="base", max_new_tokens=20))


@pytest.mark.slow
def test_what_cannot_be_started_from_is_said(tune: Any) -> None:
    import jupyter_ft

    finish(tune("parent"))
    start = {"data": PAIRS, "name": "child", **CHOICES}
    with pytest.raises(RecipeError, match=r"'parent' was trained with adapter.kind = lora, so its weights do not fit"):
        jupyter_ft.finetune(start_from="parent", adapter="full", **start)
    with pytest.raises(RecipeError, match="'parent' was trained with another model"):
        jupyter_ft.finetune("demo", start_from="parent", **start)
    with pytest.raises(CheckpointError, match="no weights of step 999; there are: "):
        jupyter_ft.finetune(start_from="parent@999", **start)
    with pytest.raises(CheckpointError, match="no best step"):
        jupyter_ft.finetune(start_from="parent@best", **start)
    with pytest.raises(AddressError, match="what every run starts from"):
        jupyter_ft.finetune(start_from="base", **start)
    assert "child" not in jupyter_ft.sessions


@pytest.mark.slow
def test_a_classifier_starts_from_a_run_that_speaks_and_the_other_way_round(tune: Any) -> None:
    import jupyter_ft

    finish(tune("speaks", system="Be short."))
    labelled = [{"text": f"text {n}", "label": "good" if n % 2 else "bad"} for n in range(24)]
    judge = jupyter_ft.finetune(data=labelled, name="judge", start_from="speaks", method="classification", epochs=1)
    finish(judge)
    assert judge.recipe.system is None
    back = jupyter_ft.finetune(data=PAIRS, name="back", start_from="judge", **CHOICES)
    assert finish(back)[0][0] == pytest.approx(math.log(2), abs=1e-6)

    others = [{"text": f"text {n}", "label": "new" if n % 2 else "old"} for n in range(24)]
    again = jupyter_ft.finetune(data=others, name="again", start_from="judge", method="classification", epochs=1)
    finish(again)
    assert again.chat("text 3").startswith(("new", "old"))  # the head of other labels is not taken over


@pytest.mark.slow
def test_a_child_has_the_alpha_that_its_parents_weights_were_trained_at_and_needs_the_parent_no_more(tune: Any) -> None:
    import shutil

    import jupyter_ft

    parent = tune("parent", epochs=4)
    parent.set(alpha=64, step=5)
    finish(parent)
    asked = {"data": PAIRS, "name": "child", "start_from": "parent", **LONG}
    child = jupyter_ft.finetune(**asked)
    assert child.recipe.hyperparameters.alpha == 64
    child.wait(step=3)
    child.stop().wait()
    child.wait_until_over(60)
    parent.close()
    shutil.rmtree(parent.folder)
    assert jupyter_ft.finetune(**asked, resume=True) is child
    finish(child)
    assert child.state == "finished"
