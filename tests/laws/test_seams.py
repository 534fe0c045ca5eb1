"""Where queue, races, forks, saved steps and columns meet: nothing is lost between them, and nobody holds too much."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft import queue
from jupyter_ft.errors import Refused
from jupyter_ft.messages import Ask
from jupyter_ft.sampling.columns import Columns
from jupyter_ft.sampling.round import Round
from jupyter_ft.session.fork import again

from ._runs import finish, losses


@pytest.fixture(autouse=True)
def unbounded() -> Iterator[None]:
    yield
    queue.at_once = None


def _queued(session: Any) -> None:
    assert session.log.wait_for(lambda: session.name in queue or session.state == "running", 60)
    assert session.state == "queued"


@pytest.fixture
def held(tune: Any) -> Any:
    """One run is live and paused, and no other may begin beside it."""

    def hold() -> Any:
        holder = tune("holder", epochs=50)
        holder.pause().wait(60)
        queue.at_once = 1
        return holder

    return hold


@pytest.mark.slow
def test_a_fork_that_is_stopped_in_the_queue_has_its_changes_when_it_goes_on(tune: Any, held: Any) -> None:
    parent = tune("parent", epochs=1, checkpoint_steps=4).wait(timeout=60)
    wanted = finish(parent.fork("through", 8, learning_rate=1e-3))
    held()
    fork = parent.fork("waits", 8, learning_rate=1e-3)
    _queued(fork)
    fork.stop().wait(60)
    fork.wait(timeout=60)
    fork.close()
    queue.at_once = None
    fork = jupyter_ft.open("waits")
    fork.resume().wait(60)
    assert finish(fork) == wanted
    assert wanted[0] != losses(parent)
    assert len(fork.changes) == 1


@pytest.mark.slow
def test_steps_that_are_taken_back_do_not_speak_while_the_run_waits(tune: Any, held: Any) -> None:
    run = tune("run", epochs=1, checkpoint_steps=4).wait(timeout=60)
    assert run.chat("hi", max_new_tokens=1).step == run.step
    held()
    receipt = run.rewind(8)
    _queued(run)
    with pytest.raises(Refused, match="the run waits for holder to end"):
        run.chat("hi", max_new_tokens=1)
    queue.at_once = None
    receipt.wait(60)
    run.wait(timeout=60)
    assert run.chat("hi", max_new_tokens=1).step == run.step


@pytest.mark.slow
def test_what_a_person_saves_stays_and_what_a_fork_needs_does_not(tune: Any) -> None:
    run = tune("run", epochs=50)
    run.wait(step=1, timeout=60)
    run.pause().wait(60)
    run.fork("fork", max_steps=run.step + 1).wait(timeout=60)
    assert (run.steps, run.saved) == ([run.step], [])
    run.resume().wait(60)
    at = run.pause(free_memory=True).wait(60)
    assert run.saved == []
    assert run.save().wait(60) == at
    assert run.saved == [at]


@pytest.mark.slow
def test_a_clone_of_a_stage_begins_with_what_the_stage_began_with(tune: Any, rows: Any) -> None:
    parent = tune("parent", epochs=1, until=4).wait(timeout=60)
    asked = {"start_from": "parent", "max_steps": 3, "batch_size": 4, "learning_rate": 5e-3}
    stage = jupyter_ft.finetune(data=rows, name="stage", **asked)
    wanted = finish(stage)
    parent.resume().wait(60)
    parent.wait(timeout=60)
    assert finish(again(stage, "clone", {})) == wanted


@pytest.mark.slow
def test_who_is_promoted_is_not_halved(tiny_model: Any, rows: Any) -> None:
    runs = [{"learning_rate": 1e-9, "max_steps": 60}, {"learning_rate": 2e-2, "max_steps": 2}]
    race = jupyter_ft.race(
        {"runs": runs, "halve": {"every": 2, "by": "min loss"}}, str(tiny_model), rows, "grid", batch_size=4
    )
    race[0].pause().wait(60)
    race[1].wait(timeout=60)
    race.promote("grid-1")
    race[0].resume().wait(60)
    assert race[0].wait(timeout=60).state == "finished"
    assert race.said == []


@pytest.mark.slow
def test_who_leads_a_question_holds_no_base_of_others_and_live_is_one_step(tune: Any) -> None:
    a, b = tune("a", epochs=50), tune("b", epochs=50, dtype="bfloat16")
    for run in (a, b):
        run.wait(step=1, timeout=60)
        run.pause().wait(60)
        run.chat("hi", max_new_tokens=1)
    meeting = Round("turn", 4)
    mine, theirs = (Columns(run._chat._voices, run.log, meeting) for run in (a, b))
    seen: list[dict[str, Any]] = []
    for columns, at in ((mine, "live"), (theirs, "live"), (theirs, "base"), (mine, "live")):
        asked = Ask(messages=[{"role": "user", "content": "hi"}], at=at, turn="turn", max_new_tokens=2)
        columns.join((asked, 0.0), [1, 50, 60], lambda: False)
        if columns is mine:
            twin = mine.voices
            own = {name: p for name, p in twin.live.named_parameters() if name in twin.trained}
            seen.append({name: p.clone() for name, p in own.items()})
            twin.publish(1000, {name: p + 1 for name, p in own.items()}, 8.0)
    assert [told["step"] for _, told, _ in mine._joined] == [a.step, a.step]
    assert all(p.equal(seen[0][name]) for name, p in seen[1].items())  # the second has left the weights as they were
    del mine._joined[1:]
    meeting.less(1)
    leads = threading.Thread(target=lambda: mine.speak(beside=False))
    leads.start()
    with meeting._changed:
        assert meeting._changed.wait_for(lambda: meeting._parts, 60)
    theirs.speak(beside=False)
    leads.join(60)
    assert [part.together for columns in (mine, theirs) for _, _, part in columns._joined] == [1, 2, 2]
    assert twin.stage is None
    assert meeting._parts == []


@pytest.mark.slow
def test_the_runs_of_a_race_begin_with_one_step_of_a_live_parent(tune: Any, rows: Any) -> None:
    parent = tune("parent", epochs=50)
    parent.wait(step=1, timeout=60)
    rates = {"learning_rate": [1e-3, 5e-3, 2e-2]}
    race = jupyter_ft.race(rates, None, rows, "grid", start_from="parent", max_steps=1, batch_size=4)
    assert len({run.run_folder.read_recipe()[1]["parent"]["step"] for run in race}) == 1
    race.wait(timeout=60)
    assert len({losses(run)[0] for run in race}) == 1
