"""Cells that learn from rewards: names of functions and runs resolve where rewards are meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PROMPTS = [{"prompt": f"Where is order {number}?", "answer": number} for number in range(20)]
START = "%%finetune policy --data prompts --dry-run\nmethod: grpo\n"


@pytest.fixture
def notebook(shell: Any) -> Any:
    shell.user_ns["prompts"] = PROMPTS
    assert shell.run_cell(
        "def brevity(completions, **rest):\n    return [-float(len(text)) for text in completions]"
    ).success
    return shell


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ("brevity", "rewards: ('brevity',)"),
        ("[brevity]", "reward_weights: (1.0,)"),
        ("{brevity: 0.5}", "reward_weights: (0.5,)"),
    ],
)
def test_a_function_is_found_by_its_name(
    notebook: Any, capsys: pytest.CaptureFixture[str], rewards: str, said: str
) -> None:
    assert notebook.run_cell(f"{START}rewards: {rewards}").success
    told = capsys.readouterr().out
    assert said in told
    assert "passed on to the rewards: 'answer'" in told
    assert "steps   10 (10 an epoch, 8 answers to each of 2 prompts at once)" in told


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "method grpo needs rewards: a function of the notebook"),
        (
            "rewards: brevty",
            "body line 2: rewards: there is no function 'brevty' in the notebook and no run of that name",
        ),
        ("rewards: [brevity, brevity]", "body line 2: rewards: brevity is there twice"),
        ("rewards: {brevity: heavy}", "reward_weights"),
        ("rewards: nobody@best", "nobody"),
        ("rewards: brevity\nbatch_size: 6", "body line 3: batch_size 6 x 2 micro-batches are 12 answers"),
        (
            "rewards: brevity\nnum_generations: 1",
            "body line 3: num_generations = 1: should be greater than or equal to 2",
        ),
        ("rewards: brevity\naccumulation: 40", "40 prompts are answered at once"),
        ("rewards: brevity\ntrainer: {use_vllm: true}", "trainer.use_vllm"),
        ("rewards: brevity\nreward_weights: 1, 2", "reward_weights: one for each of the 1 rewards"),
    ],
)
def test_what_is_wrong_is_one_line(notebook: Any, refused: Callable[..., str], body: str, said: str) -> None:
    assert said in refused(START + body)
