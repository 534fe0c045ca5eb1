"""Steps that are asked, forked and gone back to: they are the steps that they were."""

from __future__ import annotations

import pytest

from ._execute import Execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_time_travel_comes_back_to_the_same_steps(execute: Execute) -> None:
    said, states, same, forked, together = execute(
        "time_travel.ipynb",
        "[grid.said, [run.state for run in grid], bool((before == grid[3].metrics['loss']).all()),"
        " [(grid[2].metrics['loss'] == calmer.metrics['loss']).to_list(), calmer.changes[-1].step],"
        " [event.together for run in (grid[2], calmer) for event in run.events if event.kind == 'reply']]",
    )
    assert {line.partition(":")[0] for line in said} == {"grid-1", "grid-2"}  # a tenth of the learning rate
    assert all("halving at step 4: eval_loss" in line for line in said)
    assert states == ["stopped", "stopped", "finished", "finished"]
    assert same
    assert forked[0][:4] == [True] * 4
    assert not any(forked[0][5:])
    assert forked[1] == 5
    assert together[:4] == [4] * 4  # of one run
    assert len(together) == 7
    assert min(together[:6]) > 1  # two of grid-3 among those of three runs: as many speak at once as are ready
