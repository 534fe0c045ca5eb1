from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_ft import data
from jupyter_ft.errors import RunFolderError
from jupyter_ft.event_log import EventLog
from jupyter_ft.magics import doctor
from jupyter_ft.magics.bundle import Private, write_bundle
from jupyter_ft.magics.doctor import Finding, as_text, floors
from jupyter_ft.messages import Confusion, Crashed, DataReady, EvalDone, Logged, Probed, ReplyDone
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.runs import RunFolder

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


@pytest.fixture
def past(runs: Path) -> RunFolder:
    """A past run whose rows, recipe, chats and log are full of what must not leave."""
    rows = [{"prompt": f"Where is {CANARY}, number {n}?", "completion": "Sent by walrus post today."} for n in range(8)]
    folder = RunFolder.create("support", runs)
    secret = {"system": f"You serve {CANARY}.", "trainer": {"run_name": "hf_secretsecret", "hub_token": "geheim"}}
    examples = data.load(rows, {})
    written = {"mine": {"source": "def mine(): return 'CANARYSOURCE'", "imports": []}}
    about = {"data": {"path": None}, "metrics": written, "rewards": written}
    folder.write_recipe(parse_recipe({"max_steps": 4, **secret}), about)
    folder.rows.parent.mkdir()
    data.save_rows(examples, folder.rows)
    log = EventLog(folder.events)
    for level in ("out", "info", "warning", "error"):
        text = f"{level}: could not read 'Zebra-striped parcel of Mrs quillfeather'"
        log.append(Logged(level=level, text=text))
    log.append(Logged(level="warning", text="cut off: sent by WALRUS post"))
    log.append(Logged(level="out", text="a print of PRIVATEPRINT"))
    log.append(Logged(level="warning", text="api_key=abcdef and hf_abcdefghijk are known; the disk is slow"))
    labels = ["PRIVATELABEL", "other"]
    log.append(DataReady(said="PRIVATELABEL 5", rows=8, dropped=0, tokens=9, trained_tokens=9, labels=labels))
    metrics = {"eval_loss": 0.25, "eval_recall_PRIVATELABEL": 0.5}
    matrix = Confusion(labels=labels, counts=[[17, 1], [0, 2]])
    log.append(EvalDone(step=4, metrics=metrics, best_step=4, rows=20, seconds=1, confusion=matrix))
    log.append(Crashed(step=4, error=f"ValueError: {CANARY}", traceback=f"line one\nValueError: {CANARY}"))
    asked = {"command": "c", "turn": "t", "thread": "panel", "at": "live", "step": 4, "prompt": "Hi CANARYQUESTION"}
    told = {"text": "CANARYANSWER", "tokens": 1, "tokens_per_second": 1.0, "first_token_seconds": 0.1, "ended": "eos"}
    log.append(ReplyDone(**asked, **told))
    log.append(Probed(step=4, at="live", number=0, prompt="PROBECANARY", text="MURMURCANARY", tokens=1, ended="eos"))
    log.append(Logged(level="warning", text="the probe MURMURCANARY"))
    log.append(Logged(level="warning", text="slow was the reply to CANARYQUESTION"))
    log.close()
    return folder


def test_the_bundle_holds_nothing_of_the_data(past: RunFolder, tmp_path: Path) -> None:
    write_bundle(tmp_path / "help.zip", "the screen")
    with zipfile.ZipFile(tmp_path / "help.zip") as bundle:
        told = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert set(told) == {"doctor.txt", "runs/support/recipe.yaml", "runs/support/events.jsonl"}
    everything = "\n".join(told.values()).lower()
    for secret in (
        "zebra",
        "quillfeather",
        "walrus",
        "canary",
        "privateprint",
        "privatelabel",
        "abcdef",
        "hf_",
        "geheim",
    ):
        assert secret not in everything, secret
    events = told["runs/support/events.jsonl"]
    assert "the disk is slow" in events
    assert "line one" in events
    assert '"eval_loss": 0.25' in events
    assert "[[17, 1], [0, 2]]" in events
    assert '"kind": "reply"' not in events
    assert '"kind": "probe"' not in events
    assert "max_steps: 4" in told["runs/support/recipe.yaml"]
    with pytest.raises(RunFolderError, match="is there already"):
        write_bundle(tmp_path / "help.zip", "")


def test_without_the_rows_no_free_text_passes() -> None:
    unknown = Private([], complete=False)
    assert unknown.without({"kind": "log", "text": "anything", "level": "error"})["text"] == "(left out)"
    known = Private(["Hello"], complete=True)
    assert known.without({"kind": "log", "text": "anything"})["text"] == "anything"
    assert known.without("it says hello") == "it says hello"  # one short word is no secret
