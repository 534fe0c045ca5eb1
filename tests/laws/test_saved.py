"""What a person saves stays, however many checkpoints come after it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.slow
def test_a_saved_step_is_not_pushed_out(tune: Any) -> None:
    import jupyter_ft
    from jupyter_ft.runs import KEEP

    session = tune("support", checkpoint_steps=1)
    session.set(max_steps=9, step=1)
    session.wait(step=1)
    session.pause().wait(30)
    kept = session.save().wait(30)
    session.resume().wait(30)
    session.wait(timeout=60)
    newest = list(range(session.step - KEEP + 1, session.step + 1))
    assert kept < newest[0]
    assert session.steps == [kept, *newest]
    assert session.saved == [kept]
    asked = [event.step for event in session.events if event.kind == "checkpoint" and event.asked]
    assert asked == [kept]
    session.close()
    assert jupyter_ft.open("support").saved == [kept]
