"""What users install: the wheel holds the built panel, and building it again from the sdist's files needs no node."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_and_sdist_carry_the_panel_and_need_no_node(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    without_node = os.environ | {"PATH": str(tmp_path / "bin")}
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
    subprocess.run([*build, str(tmp_path), str(ROOT)], env=without_node, check=True, capture_output=True, timeout=300)
    wheel, sdist = next(tmp_path.glob("*.whl")), next(tmp_path.glob("*.tar.gz"))
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"jupyter_ft/ui/static/panel.js", "jupyter_ft/ui/static/panel.css", "jupyter_ft/__init__.py"} <= names
    assert not {name for name in names if name.split("/")[0] in ("tests", "bench", "labextension", "examples")}
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"jupyter_ft/ui/static/panel.js", "labextension/package-lock.json", "pyproject.toml", "LICENSE"} <= inside
    assert not {name for name in inside if "node_modules" in name or name.startswith(("runs/", ".venv"))}
