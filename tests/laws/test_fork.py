"""A fork begins with exactly what its parent had at that step, and goes on as it did but for what is changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import CheckpointError, ModelError, RecipeError

from ._runs import final_hash, finish, losses

ASKED = {
    "epochs": 2,
    "snapshot_steps": 1000,
    "checkpoint_steps": 5,
    "adapter": {"r": 4, "dropout": 0.1},
    "batch_size": 4,
}


def test_a_fork_without_a_change_is_its_parent(tune: Any) -> None:
    parent = tune("parent", **ASKED)
    parent.set(step=3, learning_rate=3e-3)
    parent.set(step=8, weight_decay=0.1)
    parent.wait(step=6, timeout=60)
    parent.pause().wait()
    child = parent.fork("child", at=5)
    parent.resume()
    whole = finish(parent)
    assert finish(child) == whole
    assert child.metrics.loss.tolist() == parent.metrics.loss.tolist()
    assert [mark.step for mark in child.changes] == [3, 8]


@pytest.mark.slow
def test_a_changed_fork_equals_the_change_made_there(tune: Any) -> None:
    parent = tune("parent", **ASKED)
    finish(parent)
    child = parent.fork("child", at=parent.steps[0], learning_rate=1e-4, batch_size=2)
    got = finish(child)
    there = tune("there", **ASKED)
    there.set(step=parent.steps[0] + 1, learning_rate=1e-4, batch_size=2)
    assert finish(there) == got
    assert got[0] != losses(parent)
    assert child.changes[-1].step == parent.steps[0] + 1
    assert "forked from parent at step" in " ".join(e.text for e in child.events if e.kind == "log")


@pytest.mark.slow
def test_a_fork_whose_base_is_gone_is_refused_before_there_is_one(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    parent = jupyter_ft.finetune(str(base), rows, "parent", dtype="float32", adapter={"r": 4}, max_steps=3)
    finish(parent)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="base does not exist"):
        parent.fork("child", max_steps=5)
    assert not (parent.folder.parent / "child").exists()


@pytest.mark.slow
def test_a_finished_run_goes_on_in_a_fork(tune: Any) -> None:
    parent = tune("parent", batch_size=10, schedule="constant", adapter={"r": 4})
    ended = finish(parent)
    with pytest.raises(RecipeError, match=r"ended at step 5: say how far"):
        parent.fork("longer")
    longer = parent.fork("longer", epochs=2)
    assert finish(longer)[0][:5] == ended[0]
    assert longer.step == 10
    assert finish(longer) == finish(tune("whole", batch_size=10, schedule="constant", adapter={"r": 4}, epochs=2))


@pytest.mark.slow
def test_a_fork_is_a_run_like_any_other(tune: Any) -> None:
    parent = tune("parent", **ASKED | {"checkpoint_steps": 10})
    finish(parent)
    child = parent.fork("child", at=parent.steps[0], learning_rate=1e-4)
    child.wait(step=parent.steps[0] + 2, timeout=60)
    child.stop().wait()
    child.wait(timeout=60)
    child.close()
    again = jupyter_ft.open("child")
    again.resume().wait(60)
    assert finish(again) == finish(parent.fork("other", at=parent.steps[0], learning_rate=1e-4))
    assert again.run_folder.read_recipe()[1]["fork"]["run"] == "parent"


@pytest.mark.slow
def test_with_something_fixed_changed_it_starts_from_the_weights(tune: Any) -> None:
    parent = tune("parent", **ASKED)
    finish(parent)
    step = parent.steps[0]
    child = parent.fork("child", at=step, max_length=64, max_steps=3, learning_rate=1e-4)
    child.wait(timeout=60)
    assert (child.step, child.recipe.max_length, child.recipe.start_from) == (3, 64, f"parent@{step}")
    assert child.recipe.hyperparameters.batch_size == 4
    assert final_hash(child) != final_hash(parent)


@pytest.mark.slow
def test_what_cannot_be_forked_is_said(tune: Any, runs: Any) -> None:
    parent = tune("parent", **ASKED)
    finish(parent)
    there = ", ".join(map(str, parent.steps))
    with pytest.raises(CheckpointError, match=f"no weights of step 4; there are: {there}"):
        parent.fork("child", at=4)
    with pytest.raises(RecipeError, match=r"dtype: the weights of 'parent' fit its own alone"):
        parent.fork("child", dtype="bfloat16")
    with pytest.raises(RecipeError, match="learning_rte"):
        parent.fork("child", learning_rte=1)
    assert not (runs / "child").exists()


@pytest.mark.slow
def test_a_fork_that_is_refused_leaves_no_checkpoint_in_a_parent_that_has_none(
    tune: Any, tiny_model: Path, runs: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    parent = jupyter_ft.finetune(
        str(base), [{"prompt": "Where?", "completion": "Here."}] * 8, "parent",
        dtype="float32", adapter={"r": 4}, epochs=10_000, snapshot_steps=100_000, checkpoint_steps=100_000,
    )  # fmt: skip
    parent.wait(step=2, timeout=60)
    parent.set(alpha=12).wait(60)
    parent.pause().wait(60)
    for step in parent.steps:  # a pause leaves one
        shutil.rmtree(parent.run_folder.checkpoint(step))
    wrong = {
        "no_such_field": (1, "no_such_field"),
        "learning_rate": (-1, "learning_rate"),
        "max_steps": (1, "steps are done at the fork"),
        "dtype": ("bfloat16", "fit its own alone"),
        "adapter": ({"kind": "dora"}, "its weights do not fit"),
        "max_length": (-1, "max_length"),
        "method": ("superviced", "did you mean 'supervised'"),
    }
    for key, (value, said) in wrong.items():
        with pytest.raises(RecipeError, match=said):
            parent.fork("child", **{key: value})
    with pytest.raises(RecipeError, match="trained with another model"):
        jupyter_ft.finetune("demo", [{"prompt": "a", "completion": "b"}] * 4, "child", start_from="parent")
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="base does not exist"):
        parent.fork("child")
    assert (parent.run_folder.checkpoints(), (runs / "child").exists()) == ([], False)
    moved.rename(base)
    child = parent.fork("child", max_steps=parent.step + 2)
    child.wait(timeout=60)
    assert child.hyperparameters.alpha == 12
    assert len(parent.run_folder.checkpoints()) == 1


@pytest.mark.slow
def test_edits_that_were_taken_back_are_not_retold(tune: Any) -> None:
    parent = tune("parent", **ASKED)
    parent.set(step=8, learning_rate=1e-5)
    parent.wait(step=9, timeout=60)
    parent.rewind(5).wait(60)
    finish(parent)
    child = parent.fork("child", at=parent.steps[-2])
    assert child.changes == []
    assert finish(child) == finish(parent)


@pytest.mark.slow
def test_a_fork_with_something_fixed_changed_has_the_functions_of_its_open_parent(tune: Any) -> None:
    def length(prompts: Any, predictions: Any, references: Any, **_: Any) -> float:
        return float(sum(map(len, predictions)))

    asked = {**ASKED, "held_out": 6, "metrics": [length], "metric_rows": 2, "eval_steps": 13}
    parent = tune("parent", **asked)
    finish(parent)
    child = parent.fork("child", at=parent.steps[0], max_length=64, max_steps=2)
    child.wait(timeout=60)
    assert child.metrics["eval_length"].notna().any()


@pytest.mark.slow
def test_a_policy_is_forked_too(tune: Any) -> None:
    def brevity(completions: Any, **_: Any) -> list[float]:
        return [-float(len(str(one))) for one in completions]

    asked = {
        "method": "grpo", "rewards": [brevity], "num_generations": 2, "max_completion_length": 6, "checkpoint_steps": 2,
        "max_steps": 4, "adapter": {"r": 4}, "batch_size": 4,
    }  # fmt: skip
    parent = tune("parent", **asked)
    whole = finish(parent)
    assert finish(parent.fork("child", at=2)) == whole
    light = parent.fork("light", at=1, learning_rate=1e-3)  # of a snapshot
    parted = tune("parted", **asked, until=1)
    finish(parted)
    assert finish(parted.fork("left", at=1, fresh_optimizer=True, learning_rate=1e-3)) == finish(light)
    other = parent.fork("other", at=2, beta=0.0, max_steps=2)
    other.wait(timeout=60)
    assert other.recipe.start_from == "parent@2"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [{"learning_rte": 1}, {"learning_rate": -1}, {"adapter": "full"}])
def test_a_refused_fork_or_child_leaves_the_live_parent_alone(tune: Any, wrong: dict[str, Any]) -> None:
    parent = tune("parent", **ASKED, edits=[{"step": 7, "checkpoint_steps": 1000}])
    parent.wait(step=7, timeout=60)
    parent.pause().wait()
    kept = parent.steps
    assert parent.step not in kept
    with pytest.raises(RecipeError):
        parent.fork("child", **wrong)
    with pytest.raises(RecipeError):
        jupyter_ft.finetune(None, [{"prompt": "a", "completion": "b"}] * 8, "child", start_from="parent", **wrong)
    assert parent.steps == kept
    parent.stop()
    parent.wait(timeout=60)
