"""The example notebooks, executed as they are: what each of them shows is so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from .sets import NEWEST, write_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EXAMPLES = Path(__file__).parents[2] / "examples"
Execute = Callable[[str, str], Any]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Execute a notebook in a copy of `examples/`; gives what an expression is at its end, as JSON has it."""
    name = write_spec(NEWEST, tmp_path / "jupyter")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.delenv("JUPYTER_FT_RUNS", raising=False)
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("runs", "*.executed.ipynb", ".*"))

    def run(notebook: str, expression: str) -> Any:
        read = nbformat.read(folder / notebook, as_version=4)
        assert not [cell for cell in read.cells if cell.get("outputs")], "it is committed without outputs"
        read.cells.append(nbformat.v4.new_code_cell(f"import json; print(json.dumps({expression}))"))
        client = NotebookClient(read, timeout=1100, kernel_name=name, resources={"metadata": {"path": str(folder)}})
        try:
            client.execute()
        finally:
            nbformat.write(read, folder / "executed.ipynb")  # to be looked at
        return json.loads(read.cells[-1].outputs[0]["text"])

    return run


def test_sentiment_beats_tfidf_on_the_same_reviews(execute: Execute) -> None:
    found = execute(
        "sentiment.ipynb", "[accuracy, [against(smollm, same), against(smollm, everything)], last.confusion.counts]"
    )
    (majority, same, everything, ours), verdicts, counts = [*found[0].values()], *found[1:]
    assert counts[0][0] + counts[1][1] == round(300 * ours)
    assert sum(map(sum, counts)) == 300
    assert majority < 0.6 < same < everything
    assert ours > same + 0.1
    assert verdicts[0].startswith("SmolLM2, 400 reviews wins against TF-IDF, 400 reviews by ")
    assert ("wins against SmolLM2" in verdicts[1]) == (everything > ours)


def test_question_answering_gains_form_and_reading(execute: Execute) -> None:
    means, questions, told = execute(
        "question_answering.ipynb",
        "[replies.groupby('at')[['exact match', 'token F1', 'contained']].mean().to_dict(), len(test),"
        " reader.metrics[['eval_exact_match', 'eval_token_f1']].dropna().iloc[-1].to_list()]",
    )
    assert questions == 30
    assert told == [pytest.approx(means[name]["live"], abs=0.035) for name in ("exact match", "token F1")]
    assert means["exact match"]["live"] >= means["exact match"]["base"] + 0.3
    assert means["token F1"]["live"] >= means["token F1"]["base"] + 0.2


def test_triage_tells_recall_calibration_and_costs(execute: Execute) -> None:
    found = execute(
        "medical_triage.ipynb",
        "[float((said == true).mean()), float((true == 'routine').mean()), counts.to_numpy().sum().item(), len(test),"
        " float(chosen), [float(surprise(t, half[True])) for t in (1.0, temperature)],"
        " [float(outcome(t, half[True])['cost']) for t in (0.5, chosen)]]",
    )
    accuracy, majority, counted, messages, chosen, (loss, scaled), (even, cheapest) = found
    assert counted == messages > 200
    assert accuracy > majority + 0.15
    assert scaled <= loss
    assert 0 < chosen < 0.9
    assert cheapest <= even


def test_a_reviewer_is_followed(execute: Execute) -> None:
    won, lost, usable, sorry = execute(
        "human_feedback.ipynb",
        "[better_says.wins('live', 'support').won, better_says.wins('live', 'support').lost,"
        " len(support_says.pairs(held_out=False)), answers.groupby('weights')['says sorry'].mean().to_dict()]",
    )
    assert usable >= 12
    assert won + lost >= 6
    assert won > lost
    assert sorry["live"] >= sorry["support"]


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
    assert together == [4] * 7  # those of grid-4 are in its own log
