"""A notebook that nobody looks at: nbclient runs it, and it keeps what it needs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import write_tickets
from .sets import NEWEST, OLDER, write_spec

pytestmark = pytest.mark.slow

ISSUE_CELL = """%%finetune support --model {model} --data tickets.csv{more}
method: supervised
adapter: lora
system: You are the support desk of an online shop.
columns: {{prompt: Customer message, completion: Agent reply}}
learning_rate: 2e-4
"""


@pytest.fixture
def kernel_set() -> str:
    return NEWEST


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_set: str) -> object:
    write_tickets(tmp_path / "tickets.csv", 100)
    kernel_name = write_spec(kernel_set, tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("JUPYTER_FT_FRONTEND", raising=False)

    def run(*cells: str) -> list[list[Any]]:
        import nbformat
        from nbclient import NotebookClient

        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        NotebookClient(
            notebook, timeout=300, kernel_name=kernel_name, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
        return [cell.outputs for cell in notebook.cells]

    return run


def text(outputs: list[Any]) -> str:
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


def test_it_waits_in_the_cell_and_leaves_the_record(  # type: ignore[no-untyped-def]
    execute, tiny_model: Path, runs: Path
) -> None:
    outputs = execute("%load_ext jupyter_ft", ISSUE_CELL.format(model=tiny_model, more=" max_steps=6 dtype=float32"))
    record = outputs[1][-1]["data"]
    assert "<img class='curve'" in record["text/html"]
    assert record["text/plain"].startswith("support · finished · step 6 of 6")
    assert "finished · step 6 of 6" in (runs / "support" / "report.html").read_text()
    assert [file.name for file in (runs / "support").glob(".*")] == []


@pytest.mark.parametrize("kernel_set", [NEWEST, *OLDER])
def test_the_cells_of_the_issue(execute, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    outputs = execute(
        "%load_ext jupyter_ft",
        ISSUE_CELL.format(model=tiny_model, more=" --no-wait"),
        "%ft set support learning_rate=5e-5 --step 6\n%ft wait support --step 8",
        "%%chat support --at base,live\nI haven't received my order yet.",
        "%ft wait support",
        "support.changes[0].step, support.state",
    )
    assert "%ft wait support" in text(outputs[1])
    assert "step 6" in text(outputs[2])
    assert "support is " in text(outputs[2])
    assert "base · " in text(outputs[3])
    assert "live · step " in text(outputs[3])
    assert "jft-told" in outputs[3][-1]["data"]["text/html"]
    assert "→ 5e-5" in text(outputs[4])
    assert text(outputs[5]) == "(6, 'finished')"


def test_a_wrong_recipe_ends_the_notebook(execute, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError, match="did you mean 'batch_size'"):
        execute("%load_ext jupyter_ft", "%%finetune support --data tickets.csv\nbatchsize: 2")


def test_waiting_for_a_paused_run_is_refused(execute, tiny_model: Path) -> None:  # type: ignore[no-untyped-def]
    from nbclient.exceptions import CellExecutionError

    cell = ISSUE_CELL.format(model=tiny_model, more=" --no-wait max_steps=100000 dtype=float32")
    with pytest.raises(CellExecutionError, match="%ft resume support comes first"):
        execute("%load_ext jupyter_ft", cell, "%ft wait support --step 1", "%ft pause\n%ft status", "%ft wait support")
