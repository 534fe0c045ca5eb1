"""What the magics say of races, of runs that are over, and of policies."""

from __future__ import annotations

import re
from typing import Any

import pytest


def brief(completions: list[Any], **_: Any) -> list[float]:
    return [-float(len(str(one))) for one in completions]


@pytest.mark.slow
def test_a_race_is_called_one(shell: Any, tiny_model: Any, rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import jupyter_ft
    from jupyter_ft.errors import AddressError, CheckpointError, RunFolderError
    from jupyter_ft.magics.complete import _candidates
    from jupyter_ft.magics.verbs import help_text, run

    asked = {"dtype": "float32", "adapter": {"kind": "lora", "r": 4}, "max_steps": 2}
    race = jupyter_ft.race({"learning_rate": [1e-3, 2e-3]}, str(tiny_model), rows, "grid", **asked)
    race.wait(timeout=60)
    with pytest.raises(AddressError, match="'grid' is a race; name one of its runs: grid-1, grid-2"):
        run(shell, ["set", "grid", "learning_rate=1e-3"])
    run(shell, ["status", "grid"])
    said = capsys.readouterr().out
    assert "grid-1" in said
    assert "grid-2" in said
    assert "status" in help_text()
    with pytest.raises(CheckpointError, match="'grid-1' is finished at step 2: nothing after it to take back"):
        run(shell, ["rewind", "grid-1@2"])
    run(shell, ["stop", "grid"])
    assert "no run of grid is live" in capsys.readouterr().out
    assert {"grid", "grid-1"} <= set(_candidates("ft", ["stop"]))
    assert "grid" not in set(_candidates("ft", ["pause"]))
    with pytest.raises(RunFolderError, match="'' cannot name a run"):
        run(shell, ["fork", "grid-1@2", ""])
    run(shell, ["fork", "grid-1@2", "grid-2", "max_steps=3"])
    assert "there is a run grid-2 already: this one is grid-2-2" in capsys.readouterr().out
    jupyter_ft.sessions["grid-2-2"].wait(timeout=60)
    race.close()


@pytest.mark.slow
def test_a_headless_race_says_how_to_wait_for_it_and_one_is_promoted(
    shell: Any, tiny_model: Any, rows: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupyter_ft.magics.verbs import run

    monkeypatch.setenv("JUPYTER_FT_FRONTEND", "headless")
    shell.push({"kept": rows, "tiny": str(tiny_model)})
    cell = "%%finetune grid --model tiny --data kept --no-wait\nmax_steps: 900\nrace: {learning_rate: [1e-3, 2e-3]}"
    assert shell.run_cell(cell).success
    assert "grid-1 to grid-2 run in the background; %ft wait grid waits for them" in capsys.readouterr().out
    first, second = race = shell.user_ns["grid"]
    second.wait(1, timeout=60)
    run(shell, ["promote", "grid-1"])
    assert "grid-1 is promoted; these stop: grid-2" in capsys.readouterr().out
    second.wait(timeout=60)
    assert (second.state, first.state) == ("stopped", "running")
    race.close()


@pytest.mark.slow
def test_of_a_policy_the_reward_is_told_and_a_lacking_column_at_once(
    tune: Any, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from jupyter_ft.errors import RecipeError
    from jupyter_ft.magics.verbs import run

    def matches(completions: list[Any], answer: list[str]) -> list[float]:
        return [float(one == right) for one, right in zip(completions, answer, strict=True)]

    asked = {
        "data": [{"prompt": f"Where is order {number}?", "number": number} for number in range(4)],
        "method": "grpo", "num_generations": 2, "batch_size": 4, "accumulation": 1, "max_completion_length": 4,
    }  # fmt: skip
    with pytest.raises(RecipeError, match=r"matches wants 'answer', .*there are prompts, completions, number"):
        tune("policy", rewards=matches, **asked)
    session = tune("policy", rewards=brief, **asked)
    session.wait(timeout=60)
    run(shell, ["status", "policy"])
    first, *rest = capsys.readouterr().out.splitlines()
    assert "reward -" in first
    assert "loss" not in first
    assert not any("(1.0,)" in line for line in rest)


@pytest.mark.slow
def test_the_steps_that_are_kept_and_the_disk_that_they_take_are_told(
    tune: Any, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from jupyter_ft.magics.verbs import run

    tune("kept", adapter={"r": 4}, max_steps=6, snapshot_steps=2, disk_budget="3 MB").wait(timeout=60)
    run(shell, ["status", "kept"])
    told = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"  snapshots of 3 steps, 2 to 6: \d+\.\d MB of disk_budget 3.0 MB", told)
