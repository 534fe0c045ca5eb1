"""Runs that do not fit wait in a queue that is seen and can be changed, and begin by themselves as soon as they fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft import queue
from jupyter_ft.errors import AddressError, RecipeError, Refused
from jupyter_ft.launch.admission import claim_of
from jupyter_ft.memory.waiting import Claim, Queue, Room, together
from jupyter_ft.ui.record import record_text

from ._runs import finish


@pytest.fixture(autouse=True)
def unbounded() -> Iterator[None]:
    yield
    queue.limit = queue.at_once = None


def _waits(session: Any) -> str:
    assert session.log.wait_for(lambda: session.name in queue or session.state in ("running", "failed"), 60)
    assert session.state == "queued"
    return str(session.said)


def _notes(session: Any) -> list[str]:
    return [event.note for event in session.events if event.kind == "state" and event.state == "queued"]


@pytest.mark.slow
def test_a_run_that_does_not_fit_waits_for_another_and_its_losses_are_its_own(
    tune: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from IPython.core.error import UsageError
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_ft.magics import load, unload

    solo = tune("solo", max_steps=6, adapter={"r": 32})
    one = together([claim_of(solo.recipe, solo.examples)])
    solo.wait(timeout=60)
    holder = tune("holder", epochs=50, adapter={"r": 32})
    holder.wait(step=2, timeout=60)
    holder.pause().wait(60)
    monkeypatch.setenv("JUPYTER_FT_MEMORY", f"{one // 1000 * 1000 + 1000}")
    late = tune("late", max_steps=6, adapter={"r": 32})
    assert _waits(late).startswith("waits for ")
    assert "on cpu" in late.said
    assert late.said.endswith(f": holder holds {late.said.rpartition('holds ')[2]}")
    third = tune("third", max_steps=2, adapter={"r": 32})
    assert _waits(third) == "waits behind late, number 2 in the queue"
    assert list(queue) == ["late", "third"]
    assert "late: queued, step 0: waits for" in repr(late)
    assert f"late · queued · step 0\n  {late.said}" in record_text(late)
    with pytest.raises(Refused, match="the run waits for"):
        late.chat("Where is order 3?")

    shell = InteractiveShell.instance()
    load(shell)
    try:
        for line in ("queue", "status late", "queue third first"):
            shell.run_line_magic("ft", line)
        with pytest.raises(UsageError, match="'nobody' does not wait for memory; those that do: third, late"):
            shell.run_line_magic("ft", "queue nobody first")
        with pytest.raises(UsageError, match="where to put late"):
            shell.run_line_magic("ft", "queue late")
        told = capsys.readouterr().out
    finally:
        unload(shell)
    assert "2. third: waits behind late" in told
    assert "\n  waits for" in told
    assert "1. third: waits" in told

    assert late.stop().wait(60) == 0  # out of the queue, and to be started again
    assert (late.wait(timeout=60).state, late.said) == ("stopped", "stopped while it was queued")
    again = late.resume()
    _waits(late)
    queue.now("third")
    third.wait(timeout=60)
    assert (third.state, late.state) == ("finished", "queued")
    at = holder.pause(free_memory=True).wait(60)
    assert again.wait(60) == 0
    assert finish(late) == finish(solo)

    queue.at_once = 1  # the resumption of a run whose memory was given back waits, too
    other = tune("other", epochs=50)
    other.wait(step=1, timeout=60)
    back = holder.resume()
    assert _waits(holder) == "waits for other to end: 1 at once is allowed"
    assert (holder.step, back.answer) == (at, None)
    other.close()
    assert back.wait(60) == at


@pytest.mark.slow
def test_a_freed_run_that_waits_can_be_stopped_and_keeps_its_result(tune: Any) -> None:
    freed = tune("freed", epochs=50)
    freed.wait(step=2, timeout=60)
    at = freed.pause(free_memory=True).wait(60)
    queue.at_once = 1
    other = tune("other", epochs=50)
    other.wait(step=1, timeout=60)
    receipt = freed.resume()
    _waits(freed)
    assert freed.stop().wait(60) == at
    with pytest.raises(Refused):
        receipt.wait(60)
    assert freed.wait(timeout=60).state == "stopped"
    assert (freed.folder / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_a_race_that_fits_counts_its_base_once_and_waits_for_nothing(tune: Any, tiny_model: Any, rows: Any) -> None:
    settings = {"adapter.r": [2] * 4, "dtype": ["float32"], "batch_size": [4]}
    solo = tune("solo", max_steps=1, adapter={"r": 2}).wait(timeout=60)
    mine = claim_of(solo.recipe, solo.examples)
    assert together([mine] * 4) < 1.3 * together([mine])
    queue.limit = together([mine] * 4)
    race = jupyter_ft.race(settings, str(tiny_model), rows, "grid", max_steps=2).wait(timeout=60)
    assert [run.state for run in race] == ["finished"] * 4
    assert [_notes(run) for run in race] == [[""]] * 4
    queue.limit = together([mine] * 2)
    more = jupyter_ft.race(settings, str(tiny_model), rows, "more", max_steps=8).wait(timeout=60)
    assert [run.state for run in more] == ["finished"] * 4
    assert [len(_notes(run)) > 1 for run in more] == [False, False, True, True]


# --- the sums, without runs ---

MB = 10**6
BIG, SMALL = Claim("base", 50 * MB, 10 * MB, 20 * MB), Claim("base", 50 * MB, 5 * MB, 10 * MB)


def _room(free: int, taken: int = 0, **loaded: int) -> Any:
    return lambda: Room("cuda:0", free * MB, taken * MB, {name: size * MB for name, size in loaded.items()})


def test_bases_are_counted_once_and_the_largest_step_alone() -> None:
    assert together([BIG, SMALL]) == (50 + 10 + 5 + 20) * MB
    assert (
        together([BIG, Claim("other", 7 * MB, 1, 0)], {"base": 51 * MB, "idle": MB}) == (51 + 1 + 7 + 10 + 20) * MB + 1
    )
    assert together([]) == 0


def test_what_fits_begins_at_once_and_in_order() -> None:
    line, woken = Queue(), []
    first, second, third = (line.join(name, lambda name=name: woken.append(name)) for name in ("a", "b", "c"))
    second.tell(SMALL)
    assert not second.begins(_room(100))
    assert (second.why, list(line)) == ("", [])  # a moment: what goes before it has not been asked
    first.tell(BIG)
    assert first.begins(_room(10))  # alone: there is nothing to wait for
    assert woken[-2:] == ["b", "c"]
    assert second.begins(_room(30, 70, base=50))
    third.tell(Claim("other", 40 * MB, MB, MB))
    assert not third.begins(_room(25, 75, base=50))
    assert third.why == "waits for 41.0 MB on cuda:0, where 15.0 MB is left: a and b hold 85.0 MB"
    assert not third.begins(_room(30, 80, base=50, idle=2))
    assert third.why.endswith("a and b hold 85.0 MB, open runs that are over hold 2.0 MB")
    assert third.begins(_room(90, 75, base=50))
    first.leave()
    assert repr(line).count("live") == 2
    line.join("new", lambda: None)
    assert "   starting: new" in repr(line)  # not yet known to wait


def test_what_others_take_counts_too() -> None:
    line = Queue()
    first, second = line.join("a", lambda: None), line.join("b", lambda: None)
    first.tell(BIG)
    assert first.begins(_room(100))
    second.tell(SMALL)
    assert not second.begins(_room(4, 60, base=50))  # somebody else has taken 36 since
    assert not second.begins(_room(4, 100, base=50))  # a cell of this kernel, or a run that is not estimated
    assert second.begins(_room(25, 60, base=50))


def test_the_order_is_changed_by_name_and_wrong_words_are_told() -> None:
    line = Queue()
    line.at_once = 1
    live, *waiting = [line.join(name, lambda: None) for name in "abcd"]
    live.tell(BIG)
    assert live.begins(_room(100))
    for ticket in waiting:
        ticket.tell(SMALL)
        assert not ticket.begins(_room(100))
    line.move("d", "first")
    line.move("b", 2)
    assert list(line) == ["d", "b", "c"]
    assert (line.why("d"), line.why("b")) == ("waits for room, and is next", "waits behind d, number 2 in the queue")
    line.move("d", "last")
    assert list(line) == ["b", "c", "d"]
    line.now("c")
    assert waiting[1].begins(_room(1))
    for wrong in ("zero", "0", "-1"):
        with pytest.raises(RecipeError, match="is no place in the queue"):
            line.move("b", wrong)
    with pytest.raises(AddressError, match="'c' does not wait for memory; those that do: b, d"):
        line.why("c")
    with pytest.raises(RecipeError, match="limit = 'much': should be bytes, or a size like 80 GB"):
        line.limit = "much"
    with pytest.raises(RecipeError, match="at_once = 0"):
        line.at_once = 0


def test_a_limit_that_is_no_size_is_said_before_anything_starts(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_FT_MEMORY", "plenty")
    with pytest.raises(RecipeError, match="JUPYTER_FT_MEMORY = 'plenty': should be bytes, or a size like 80 GB"):
        tune("never")
    assert not jupyter_ft.sessions
