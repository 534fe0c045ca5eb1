"""Steps worth keeping are kept: a snapshot says what the run said at its step, and taking it leaves the run alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import AddressError, CheckpointError, RecipeError
from jupyter_ft.runs import RunFolder

from ._runs import finish, finish_taken_back

ASKED = {"epochs": 2, "batch_size": 4, "adapter": {"r": 4, "dropout": 0.1}, "learning_rate": 5e-2}
QUESTION = "Where is order 7?"


def settled(session: Any) -> None:
    """The thread that writes a snapshot is done."""
    for thread in threading.enumerate():
        if thread.name == f"{session.name} snapshot":
            thread.join(30)


def test_a_snapshot_is_the_adapter_of_its_step_and_leaves_the_run_alone(tune: Any) -> None:
    session = tune("kept", **ASKED, snapshot_steps=1, checkpoint_steps=100)
    said = {}
    for step in (3, 6):
        session.wait(step=step, timeout=60)
        session.pause().wait()
        settled(session)
        live = session.chat(QUESTION, max_new_tokens=8)
        said[live.step] = str(live)
        session.resume().wait()
    got = finish(session)
    assert got == finish(tune("plain", **ASKED, snapshot_steps=1000, checkpoint_steps=100))
    assert len(set(said.values())) == 2
    for step, text in said.items():
        reply = session.chat(QUESTION, at=step, max_new_tokens=8)
        assert (reply.step, str(reply)) == (step, text)


@pytest.mark.slow
def test_a_step_that_was_waited_for_can_be_talked_to_and_forked_at_once(
    tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, asked = RunFolder.keep, threading.Event()

    def slowly(self: RunFolder, step: int, write: Any) -> int:
        asked.wait(1)
        return own(self, step, write)

    monkeypatch.setattr(RunFolder, "keep", slowly)
    session = tune("kept", **ASKED | {"epochs": 10}, snapshot_steps=4, checkpoint_steps=1000)
    session.wait(step=4, timeout=60)
    assert session.fork("child", at=4).run_folder.name == "child"
    session.wait(step=8, timeout=60)
    assert session.chat(QUESTION, at=8, max_new_tokens=2).step == 8
    asked.set()
    with pytest.raises(AddressError, match="step 9 is not kept"):
        session.chat(QUESTION, at=9)


@pytest.mark.slow
def test_about_fifty_are_kept_of_a_run_spread_over_it(tune: Any) -> None:
    session = tune("long", batch_size=1, epochs=5, checkpoint_steps=1000, disk_budget="10MB")
    finish(session)
    snapshots = session.run_folder.snapshots()
    assert session.total_steps == 250
    assert snapshots[-1] == 250
    assert len({step // 5 for step in snapshots}) == len(snapshots) <= 50  # of a slow disk fewer, or a step later
    assert session.visitable == sorted({*snapshots, *session.steps})
    last = [event for event in session.events if event.kind == "snapshot"][-1]
    assert set(snapshots) <= set(last.kept)


@pytest.mark.slow
def test_a_budget_of_the_disk_is_kept_by_thinning(tune: Any) -> None:
    session = tune("small", batch_size=2, snapshot_steps=1, disk_budget=400_000, held_out=6, eval_steps=4)
    finish(session)
    folder = session.run_folder
    sizes = [sum(f.stat().st_size for f in folder.snapshot(step).iterdir()) for step in folder.snapshots()]
    assert len(sizes) > 1
    assert sum(sizes) <= 400_000
    last = [event for event in session.events if event.kind == "snapshot"][-1]
    assert (last.taken, last.budget) == (sum(sizes), 400_000)
    gone = next(step for step in range(1, session.step) if step not in session.visitable)
    with pytest.raises(AddressError, match=rf"step {gone} is not kept; here are: live, base, "):
        session.chat(QUESTION, at=gone)


@pytest.mark.slow
def test_a_budget_too_small_for_one_snapshot_keeps_none_and_says_so(tune: Any) -> None:
    session = tune("kept", adapter={"r": 4}, snapshot_steps=2, max_steps=5, disk_budget="0.01 MB")
    session.wait(timeout=60)
    assert session.run_folder.snapshots() == []
    (said,) = [event.text for event in session.events if event.kind == "log" and event.heed]
    assert said.startswith("no snapshot of step 2: it takes 0.0")
    assert "disk_budget is 0.01 MB" in said


@pytest.mark.slow
def test_a_snapshot_is_forked_at_its_step_with_a_fresh_optimizer_that_warms_up(tune: Any) -> None:
    asked = ASKED | {"adapter": {"r": 4}, "schedule": "constant"}  # no dropout: what it draws is not kept
    session = tune("kept", **asked, snapshot_steps=4, checkpoint_steps=1000)
    parent = finish(session)
    child = session.fork("child", at=8)
    got = finish(child)
    assert (got[0][:9], child.step) == (parent[0][:9], session.step)  # step 9 sees the weights of step 8
    assert got[0][9:] != parent[0][9:]
    rates = child.metrics.learning_rate.tolist()
    assert rates[:8] == [5e-2] * 8
    assert rates[8:14] == pytest.approx([5e-2 * part / 6 for part in (1, 2, 3, 4, 5, 6)])
    assert any("a snapshot: with a fresh optimizer" in e.text for e in child.events if e.kind == "log")
    rows_seen = [event.rows for event in child.events if event.kind == "data"]
    assert rows_seen == [event.rows for event in session.events if event.kind == "data"]
    assert child.metrics.epoch.tolist() == session.metrics.epoch.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "rate"), [({"learning_rate": 1e-2}, 1e-2), ({"batch_size": 5}, 5e-2)])
def test_a_changed_fork_of_a_snapshot_warms_up_too(tune: Any, changes: dict[str, Any], rate: float) -> None:
    session = tune("kept", **ASKED | {"schedule": "constant"}, snapshot_steps=4, checkpoint_steps=1000)
    finish(session)
    child = session.fork("child", at=8, **changes)
    finish(child)
    rates = child.metrics.learning_rate.tolist()
    assert rates[8:15] == pytest.approx([rate * part / 6 for part in (1, 2, 3, 4, 5, 6, 6)])
    (mark,) = child.changes
    assert mark.changes.get("learning_rate", (5e-2,))[0] == pytest.approx(5e-2)  # not that of the warm-up


@pytest.mark.slow
def test_a_fork_of_a_snapshot_resumes_to_the_bit(tune: Any) -> None:
    session = tune("kept", **ASKED, snapshot_steps=4, checkpoint_steps=1000)
    finish(session)
    whole = finish(session.fork("whole", at=8))
    broken = session.fork("broken", at=8, checkpoint_steps=2)
    broken.wait(step=11, timeout=60)
    broken.stop()
    broken.wait(timeout=60)
    broken.close()
    again = jupyter_ft.open("broken")
    again.resume().wait(60)
    assert finish(again) == whole


@pytest.mark.slow
def test_a_fork_that_leaves_the_optimizer_behind_is_that_of_a_snapshot(tune: Any) -> None:
    asked = ASKED | {"held_out": 6, "eval_steps": 3, "edits": [{"step": 5, "batch_size": 3}, {"step": 15, "alpha": 20}]}
    session = tune("kept", **asked, snapshot_steps=4, checkpoint_steps=1000)
    finish(session)
    ended = tune("ended", **asked, snapshot_steps=1000, until=8)
    finish(ended)
    assert (8 in session.steps, ended.steps[-1]) == (False, 8)
    light = session.fork("light", at=8, weight_decay=0.1)
    left = ended.fork("left", at=8, fresh_optimizer=True, weight_decay=0.1)
    got = finish(light)
    assert finish(left) == got
    assert finish(ended.fork("whole", at=8, weight_decay=0.1)) != got
    for child in (light, left):
        assert [mark.step for mark in child.changes] == [5, 9, 15]  # what was ordered of the parent is done
    for name in ("optimizer.safetensors", "random.safetensors"):
        assert not (left.run_folder.checkpoint(8) / name).exists()
    assert any("the weights alone: with a fresh optimizer" in e.text for e in left.events if e.kind == "log")


@pytest.mark.slow
def test_a_fork_of_a_snapshot_taken_back_to_its_beginning_begins_again(tune: Any) -> None:
    session = tune("kept", **ASKED, snapshot_steps=4, checkpoint_steps=1000)
    finish(session)
    whole = finish(session.fork("whole", at=8))
    assert finish_taken_back(session.fork("child", at=8), 8) == whole


@pytest.mark.slow
def test_an_altered_snapshot_is_named_and_a_rewind_takes_later_ones_back(tune: Any) -> None:
    session = tune("kept", **ASKED, snapshot_steps=2, checkpoint_steps=5)
    session.wait(step=9, timeout=60)
    session.pause().wait()
    settled(session)
    (session.run_folder.snapshot(4) / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"step-000004: adapter_config.json is truncated or altered"):
        session.fork("child", at=4)
    session.rewind(5).wait(60)
    assert session.visitable == [2, 4, 5]
    session.stop()
    session.wait(timeout=60)


@pytest.mark.slow
def test_a_killed_runs_half_written_snapshot_is_swept(tune: Any) -> None:
    session = tune("kept", **ASKED, snapshot_steps=2)
    session.wait(step=4, timeout=60)
    session.stop()
    session.wait(timeout=60)
    left = session.run_folder.path / "snapshots" / ".staging-0123abcd"
    left.mkdir()
    session.close()
    again = jupyter_ft.open("kept")
    again.resume().wait(60)
    assert not left.exists()
    finish(again)


@pytest.mark.parametrize(("asked", "bytes_"), [("2 GB", 2 * 10**9), ("500MB", 5 * 10**8), ("1.5 G", 15 * 10**8)])
def test_a_budget_is_read(asked: str, bytes_: int) -> None:
    from jupyter_ft.recipe import parse_recipe

    assert parse_recipe({"disk_budget": asked}).disk_budget == bytes_
    with pytest.raises(RecipeError, match=r"disk_budget.*a size like 2 GB"):
        parse_recipe({"disk_budget": "much"})


@pytest.mark.slow
def test_a_question_to_a_run_at_work_is_answered_by_the_weights_of_its_step(tune: Any) -> None:
    session = tune("busy", batch_size=1, epochs=8, learning_rate=1e-2, snapshot_steps=1, checkpoint_steps=1000)
    session.wait(step=1, timeout=60)
    said: dict[int, str] = {}
    while session.state == "running":
        reply = session.chat(QUESTION, max_new_tokens=8)
        said[reply.step] = str(reply)
    session.wait(timeout=60)
    kept = [step for step in said if step in session.visitable]
    assert len(kept) > 1
    assert len({said[step] for step in kept}) > 1
    for step in kept:
        assert str(session.chat(QUESTION, at=step, max_new_tokens=8)) == said[step]
