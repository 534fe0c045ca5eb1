"""The kernels under which the cells are run: the environment's own, and older ones laid over it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEWEST = "newest"
OLDER = ("ipykernel630", "colab")
"""Each is a folder of packages under `.kernels`, made by `make env` from the file of that name beside this one."""


def pinned(name: str) -> dict[str, str]:
    """The packages that a set is to hold, with their versions; none for the environment's own."""
    if name == NEWEST:
        return {}
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


def write_spec(name: str, jupyter: Path) -> str:
    """Write the kernel specification of a set under `jupyter`, a folder for JUPYTER_PATH; gives its name."""
    env = {}
    if name != NEWEST:
        packages = ROOT / ".kernels" / name
        assert packages.is_dir(), f"{packages} is missing: make env"
        env["PYTHONPATH"] = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "env": env,
    }
    folder = jupyter / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return name
