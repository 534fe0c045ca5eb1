"""A shell with the magics loaded, in a folder with tickets.csv; nothing here loads torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from jupyter_ft.magics import load, unload

TICKETS = "Customer message,Agent reply\nWhere is it?,On its way.\nAnd mine?,Here.\n"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("JUPYTER_FT_FRONTEND", "terminal")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.csv").write_text(TICKETS)
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    load(shell)
    yield shell
    unload(shell)


@pytest.fixture
def refused(shell: Any) -> Callable[..., str]:
    """Run a cell that must fail; the one line that it says."""

    def run(cell: str) -> str:
        result = shell.run_cell(cell)
        error = result.error_in_exec or result.error_before_exec
        assert type(error) is UsageError, repr(error)
        said = str(error)
        assert "\n" not in said
        assert said.isprintable()
        return said

    return run
