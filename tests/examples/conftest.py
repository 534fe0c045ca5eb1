"""The example notebooks, executed as they are: what each of them shows is so. A file each, for they take minutes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.sets import NEWEST, write_spec

from ._execute import Execute

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Execute a notebook in a copy of `examples/`; gives what an expression is at its end, as JSON has it."""
    name = write_spec(NEWEST, tmp_path / "jupyter")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.delenv("JUPYTER_FT_RUNS", raising=False)
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("runs", "*.executed.ipynb", ".*"))

    def run(notebook: str, expression: str) -> Any:
        import nbformat  # late: it takes seconds, and the fast tests collect this file too
        from nbclient import NotebookClient

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
