"""The process is left as it was: cheap import, no sockets, no files elsewhere, nothing of the user's changed."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import dill
import pytest

from jupyter_ft.demo import cache_folder

PACKAGE = Path(__file__).parents[2] / "jupyter_ft"

WATCHED = """
import json, os, sys, tempfile
model, rows = json.loads(sys.stdin.readline())
opened, sockets = [], []
def audit(event, args):
    if event in ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto"):
        sockets.append([event, repr(args[1:])])
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event == "open" and isinstance(args[0], str) and isinstance(args[2], int) and args[2] & writing:
        opened.append(os.path.realpath(args[0]))
    if event == "os.mkdir":
        opened.append(os.path.realpath(args[0]))
sys.addaudithook(audit)
os.environ.pop("CI", None)  # TRL is silent there
os.environ.pop("HF_HUB_OFFLINE", None)  # nothing may be asked for, not even where asking is allowed
import jupyter_ft
session = jupyter_ft.finetune(model, rows, "quiet", batch_size=4, dtype="float32", checkpoint_steps=4)
session.ask([{"role": "user", "content": "hi"}], max_new_tokens=5).wait(100)
session.wait(timeout=200)
session.close()
print(json.dumps([session.state, sockets, opened]))
"""


@pytest.mark.slow
def test_no_socket_and_no_file_outside_the_run_folder(tiny_model: Path, rows: Any, runs: Path, tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps([str(tiny_model), rows]) + "\n",
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    state, sockets, opened = json.loads(child.stdout.splitlines()[-1])
    assert state == "finished"
    assert sockets == []
    allowed = (str(runs.resolve()), str(cache_folder()), "/dev/null", "/dev/shm", "/proc")
    caches = ("__pycache__", "torchinductor", "triton", "/modules")
    elsewhere = {p for p in opened if not p.startswith(allowed) and not any(c in p for c in caches)}
    assert {p for p in elsewhere if not _is_probe(p)} == set()


def _is_probe(path: str) -> bool:
    """`tempfile` tries out the temporary folder by writing and removing a file of eight random letters."""
    return Path(path).parent == Path("/tmp") and len(Path(path).name) == 8


@pytest.mark.slow
def test_importing_is_cheap() -> None:
    code = (
        "import sys, jupyter_ft; print([m for m in ('torch', 'transformers', 'plotly', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@contextlib.contextmanager
def _by_hand(buffer: Any) -> Iterator[None]:
    """As people write it, and as `%%capture` does."""
    kept, sys.stdout = sys.stdout, buffer
    try:
        yield
    finally:
        sys.stdout = kept


@contextlib.contextmanager
def _over_its_write(buffer: Any) -> Iterator[None]:
    """As IPython 9 does around each cell."""
    stream, write = sys.stdout, sys.stdout.write
    stream.write = buffer.write  # type: ignore[method-assign]
    try:
        yield
    finally:
        stream.write = write  # type: ignore[method-assign]


def _what_is_the_users() -> dict[str, Any]:
    import numpy as np
    import torch

    return {
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"].tolist(),
        "filters": list(warnings.filters),
        "handlers": {name or "root": list(logging.getLogger(name).handlers) for name in (None, "jupyter_ft")},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": Path.cwd(),
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_users_kernel_is_left_as_it_was(tune: Any, dropout: float) -> None:
    import torch

    tune("first", max_steps=1).wait(timeout=60).close()  # imports what a first run imports; the second loads anew
    streams = sys.stdout, sys.stderr
    before = _what_is_the_users()
    session = tune("second", max_steps=40, adapter={"r": 4, "dropout": dropout})
    while session.state in ("queued", "loading"):
        assert torch.get_default_dtype() == before["dtype"]
    session.wait(step=3, timeout=60)
    session.pause().wait(30)
    between_steps = _what_is_the_users()
    session.resume().wait(30)
    session.wait(timeout=60)
    after = _what_is_the_users()
    assert between_steps == before
    assert after == before
    assert (sys.stdout, sys.stderr) == streams


def test_what_the_run_prints_goes_to_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    from jupyter_ft.capture import captured

    told: list[tuple[str, str]] = []
    log, handler = logging.getLogger("bound.early"), logging.StreamHandler()  # to the stream as it is now
    log.addHandler(handler)
    bound = handler.stream
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with captured(lambda level, line: told.append((level, line))):
            inside.set()
            done.wait(10)
            print("from the run\rfrom the run, again")  # noqa: T201
            print("\x1b[31mred\x1b[0m <b>", file=sys.stderr)  # noqa: T201
            log.warning("logged by the run")

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(10)
    print("from a cell")  # noqa: T201
    log.warning("logged by a cell")
    done.set()
    thread.join()
    assert told == [("out", "from the run, again"), ("warning", "red <b>"), ("warning", "logged by the run")]
    assert capsys.readouterr() == ("from a cell\n", "logged by a cell\n")
    assert handler.stream is bound
    log.removeHandler(handler)


@pytest.mark.parametrize("begin", ["before", "inside"])
@pytest.mark.parametrize("end", ["inside", "after"])
@pytest.mark.parametrize("redirect", [contextlib.redirect_stdout, _by_hand, _over_its_write])
def test_a_redirection_and_a_run_may_begin_and_end_in_any_order(begin: str, end: str, redirect: Any) -> None:
    from jupyter_ft.capture import captured

    told: list[str] = []
    own, buffer, turns = sys.stdout, io.StringIO(), [threading.Event() for _ in range(4)]

    def work() -> None:
        with captured(lambda _, line: told.append(line)):
            print("begun")  # noqa: T201
            turns[0].set()
            turns[1].wait(10)
            print("in the middle")  # noqa: T201
            turns[2].set()
            turns[3].wait(10)
            print("no end of line", end="")  # noqa: T201

    thread = threading.Thread(target=work)

    def start() -> None:
        thread.start()
        turns[0].wait(10)

    def finish() -> None:
        turns[3].set()
        thread.join()

    if begin == "before":
        start()
    with redirect(buffer):
        if begin == "inside":
            start()
        turns[1].set()
        turns[2].wait(10)
        print("of the cell")  # noqa: T201
        assert dill.loads(dill.dumps(lambda: sys))() is sys  # a function for another process
        if end == "inside":
            finish()
    assert sys.stdout is own
    if end == "after":
        finish()
    assert sys.stdout is own
    assert buffer.getvalue() == "of the cell\n"
    assert told == ["begun", "in the middle", "no end of line"]
    assert type(sys) is type(os)
    for stream in (own, buffer):
        assert getattr(stream.write, "__self__", None) is stream


@pytest.mark.slow
def test_nothing_is_unpickled_or_executed() -> None:
    banned_calls = {"eval", "exec", "compile", "__import__"}
    banned_modules = {"pickle", "dill", "marshal", "shelve"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not names & banned_modules, path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in banned_calls, f"{path}: {called}"
            assert called not in {"torch.load", "yaml.unsafe_load", "yaml.full_load", "os.system"}, f"{path}: {called}"
            if called in {"yaml.load", "yaml.load_all"}:
                assert "SafeLoader" in path.read_text(), path
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keywords.get("shell") != "True", path
            assert keywords.get("trust_remote_code") != "True", path


@pytest.mark.slow
def test_no_bar_is_shown_while_a_trainer_is_built_and_the_users_are_as_they_were(
    tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: Any = import_module("datasets.utils.tqdm")  # the package has a class of that name

    shown: list[str] = []
    plain = bars.tqdm.__init__

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        if not self.disable:
            shown.append(str(kwargs.get("desc")))

    monkeypatch.setattr(bars.tqdm, "__init__", watched)
    disabled = bars.are_progress_bars_disabled()
    pairs = [{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(8)]
    rated = [{"prompt": f"{n}?", "completion": "Yes.", "label": n % 2 == 0} for n in range(8)]
    for method, rows in (("dpo", pairs), ("kto", rated)):
        tune(method, data=rows, method=method, max_steps=1, batch_size=2).wait(timeout=60)
    assert shown == []
    assert bars.are_progress_bars_disabled() is disabled
