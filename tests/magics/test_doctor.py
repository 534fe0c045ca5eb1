from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_ft.errors import RunFolderError
from jupyter_ft.magics import doctor
from jupyter_ft.magics.bundle import Private, write_bundle
from jupyter_ft.magics.doctor import Finding, as_text, floors
from jupyter_ft.messages import Crashed, Logged

CANARY = "the zebra-striped parcel of Mrs. Quillfeather"


def bad(findings: Any) -> list[tuple[str, str, str]]:
    return [(one.what, one.said, one.fix) for one in findings if one.level == "bad"]


def test_the_floors_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {one.name: str(one.specifier) for one in floors()}
    assert named["torch"] == ">=2.6"
    assert "pytest" not in named  # of an extra
    assert bad(doctor._packages()) == []
    monkeypatch.setattr(doctor, "requires", lambda _: ["trl>=99", "no-such-thing>=1", "gone; extra == 'dev'"])
    found = bad(doctor._packages())
    assert [(what, fix.partition(",")[0]) for what, _, fix in found] == [
        ("trl", 'pip install "trl>=99"'),
        ("no-such-thing", 'pip install "no-such-thing>=1"'),
    ]


def test_what_was_upgraded_under_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bad(doctor._stale()) == []
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(__version__="1.0.1"))
    [(what, said, fix)] = bad(doctor._stale())
    assert (what, fix) == ("pyarrow", "restart the kernel once")
    assert said.startswith("1.0.1 is loaded, ")


def test_a_runs_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_FT_RUNS", str(tmp_path / "not" / "yet"))
    assert bad([doctor._disk()]) == []
    assert not (tmp_path / "not").exists()
    monkeypatch.setenv("JUPYTER_FT_RUNS", "/proc/runs")
    [(_, _, fix)] = bad([doctor._disk()])
    assert "JUPYTER_FT_RUNS" in fix


def test_a_torch_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(doctor, "_PROBE", "raise ImportError('libcuda.so is\\nmissing')")
    [(_, said, fix)] = bad([doctor._device()])
    assert "missing" in said
    assert "pip install" in fix


def test_the_screen() -> None:
    text = as_text([Finding("ok", "a", "fine"), Finding("bad", "b", "not\x1b[31m\nfine", "do this")])
    assert text == "ok  a           fine\n!!  b           not [31m fine\n                → do this"


def test_the_bundle_holds_nothing_of_the_data(tune: Any, shell: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"Where is {CANARY}?", "completion": "CANARYCOMPLETION"}] * 8
    session = tune(max_steps=4, data=rows, system=f"You serve {CANARY}.", trainer={"run_name": "hf_secretsecret"})
    session.wait()
    session.chat(f"And {CANARY}, please?", max_new_tokens=2)
    for level in ("out", "info", "warning", "error"):
        session.log.append(
            Logged(level=level, text=f"{level}: could not read 'Zebra-striped parcel of Mrs quillfeather'")
        )
    session.log.append(Logged(level="out", text="a print of PRIVATEPRINT"))
    session.log.append(Logged(level="warning", text="api_key=abcdef and hf_abcdefghijk are known; the disk is slow"))
    session.log.append(Crashed(step=4, error=f"ValueError: {CANARY}", traceback=f"line one\nValueError: {CANARY}"))
    assert shell.run_cell("%ft doctor --bundle help.zip").success
    with zipfile.ZipFile(tmp_path / "help.zip") as bundle:
        told = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert set(told) == {"doctor.txt", "runs/support/recipe.yaml", "runs/support/events.jsonl"}
    everything = "\n".join(told.values()).lower()
    for secret in ("zebra", "quillfeather", "canarycompletion", "privateprint", "abcdef", "hf_"):
        assert secret not in everything, secret
    events = told["runs/support/events.jsonl"]
    assert events.count('"kind": "step"') == 4
    assert "the disk is slow" in events
    assert "line one" in events
    assert '"kind": "reply"' not in events
    assert "max_steps: 4" in told["runs/support/recipe.yaml"]
    with pytest.raises(RunFolderError, match="is there already"):
        write_bundle(tmp_path / "help.zip", "")


def test_without_the_rows_no_free_text_passes() -> None:
    unknown = Private([], complete=False)
    assert unknown.without({"kind": "log", "text": "anything", "level": "error"})["text"] == "(left out)"
    known = Private(["Hello"], complete=True)
    assert known.without({"kind": "log", "text": "anything"})["text"] == "anything"
    assert known.without("it says hello") == "it says hello"  # one short word is no secret
