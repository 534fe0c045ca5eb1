"""The magics in a shell: what they refuse, in one line and before anything heavy, and how they come and go."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import AddressError
from jupyter_ft.event_log import EventLog
from jupyter_ft.magics import load, unload
from jupyter_ft.magics.chat import GRAMMAR as CHAT
from jupyter_ft.magics.chat import addresses
from jupyter_ft.magics.complete import complete
from jupyter_ft.magics.line import Line, parse, split
from jupyter_ft.magics.notebook import Place, address_of, data_of, race_meant, session_of, variable_of
from jupyter_ft.runs import RunFolder, runs_root
from jupyter_ft.session import Session, sessions
from jupyter_ft.session.race import Race, races

Refused = Callable[..., str]
START = "%%finetune support --data tickets.csv"
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (f"{START}\nlerning_rate: 1", "body line 1: unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        (f"{START} lerning_rate=1\n", "unknown key 'lerning_rate'"),
        (f"{START}\nadapter: {{ranks: 3}}", "unknown key 'adapter.ranks'"),
        (f"{START}\nsystem: !!python/object/apply:os.getcwd []", "the tag '!!python/object/apply:os.getcwd'"),
        (f"{START}\nlearning_rate=2e-4", "write: learning_rate: 2e-4"),
        (f"{START}\nmethod: sft\nlearning_rate: .nan", "body line 2: learning_rate = nan"),
        (f"{START} learning_rate=nan\n", "learning_rate"),
        (f"{START}\nlearning_rate: -1", "learning_rate = -1: should be greater than 0"),
        (f"{START}\nbatch_size: 0", "batch_size = 0"),
        (f"{START}\nheld_out: 1\nmetrics: token_f2", "'token_f2' is no function here; did you mean 'token_f1'?"),
        (f"{START}\nprobes: cases.csv", "there is no file 'cases.csv'; write prompts as a list: probes: ['cases.csv']"),
        (f"{START}\nrace:", "race: a grid like {learning_rate: [1e-4, 3e-4]}, or a list of settings"),
        (f"{START}\nbatch_size: many", "batch_size = 'many'"),
        ("%%finetune ../evil --data tickets.csv\n", "'../evil' cannot name a run"),
        ("%%finetune a/b --data tickets.csv\n", "cannot name a run"),
        ("%%finetune support\n", "no data"),
        ("%%finetune support --data ticket.csv\n", "ticket.csv does not exist; did you mean 'tickets.csv'?"),
        ("%%finetune support --data framed\n", "there is no file and no variable of that name"),
        ("%%finetune support --data tickets\n", "did you mean 'tickets.csv'?"),
        ("%%finetune support --data t\n", "did you mean 't.jsonl'?"),
        (
            "%%finetune support --data nothing\n",
            "data 'nothing': the variable nothing is None; run the cell that fills",
        ),
        ("%%finetune support\ndata: nothing", "the variable nothing is None"),
        (f"{START} --lr 1e-4\n", "write lr=1e-4 on this line, or below it lr: 1e-4"),
        ("%ft set support --lr 1e-4", "unknown option '--lr'; 'lr' is a key: write lr=1e-4 on this line"),
        (f"{START}\nlr: true", "body line 1: learning_rate = True"),
        (f"{START} --model ./absent\n", "model ./absent does not exist; give a folder with config.json"),
        (f"{START} --model ./tickets.csv\n", "model ./tickets.csv is a file, and no folder"),
        (f"{START} --model a/b/c\n", "model 'a/b/c' is no folder here and no hub id"),
        (
            f"{START}\nmethod: superviced",
            "did you mean 'supervised'?",
        ),
        (f"{START}\nno_wait: true", "'no_wait' is no key of a recipe; write --no-wait on the first line"),
        (f"{START}\ndry-run: true", "write --dry-run on the first line"),
        (f"{START}\ntrainer: {{lerning_rate: 1}}", "did you mean 'learning_rate'? write it at the top level"),
        (f"{START}\n{BOMB}", "body line 1: anchors (&) and aliases (*) are not read"),
        (
            f"{START}\nmax_steps: {10**12}",
            f"body line 1: max_steps = {10**12}: should be less than or equal to {10**9}",
        ),
        (f"{START}\ncolumns: {{prompt: Customer massage}}", "no column 'Customer massage'; did you mean"),
        ("%%finetune support --data empty.csv\n", "empty.csv is empty"),
        ("%%finetune support --data latin.csv\n", "latin.csv, line 2: byte"),
        ("%%finetune support --data roles.jsonl\n", "role"),
        ("%%finetune support --data null.jsonl\n", "role"),
        (f"{START} --model nope\n", "model 'nope' is no folder here and no hub id"),
        (f"{START} --model .\n", "no config.json"),
        (f"{START} model=a --model b\n", "both on the line"),
        (f"{START} --resume --replace\n", "give one of them"),
        (f"{START} --resume --dry-run\n", "leave --resume away"),
        (f"{START} --measure\n", "--measure counts the memory of a dry run; add --dry-run"),
        (f"{START} --out taken --dry-run\n", "the variable taken holds no session"),
        (f"{START} --model demo\nlr: 1e-4\nlearning_rate: 1e-3", "lr and learning_rate are the same setting"),
        ("%%finetune base --data tickets.csv\n", "'base' names weights of a run"),
        ("%ft set nobody learning_rate 5e-5", "write learning_rate=5e-5"),
        (f"{START} --resume\n", "no unfinished run 'support'"),
        ("%%finetune support --resume", "no unfinished run 'support'"),
        ("%%finetune support --resume\n# nothing", "no unfinished run 'support'"),
        ("%%finetune support --resume\nlr: 1e-4", "no data: give --data FILE"),
        ("%%finetune print --resume\n", "print is a name of Python's own"),
        (f"{START}\nreplace: true", "write --replace on the first line"),
        (f"{START}\nname: x", "'name' is no key of a recipe"),
        (f"{START}\ntrainer: {{hub_token: hf_abcdefghijkl}}", "huggingface-cli login"),
        (f"{START} --out 1x\n", "cannot name a variable"),
        (f"{START} --out taken\n", "the variable taken holds no session but a int"),
        ("%%finetune taken --data tickets.csv\n", "--out VAR"),
        ("%%finetune print --data tickets.csv\n", "print is a name of Python's own"),
        ("%finetune support", "goes on the first line of its cell"),
        ("# mine\n%%finetune support --data tickets.csv\ncolumns: {prompt: a b}", "not even a comment"),
        ("# mine\n%%chat support\nIt's me", "not even a comment"),
        ("%ft puase", "did you mean 'pause'? there are: status set pause resume stop save wait open show report"),
        ("%ft rewrite support", "unknown verb 'rewrite'"),
        ("%ft pause", "no session is open"),
        ("%ft logs", "no session is open"),
        ("%ft report nobody", "no session 'nobody' is open"),
        ("%ft doctor support", "one word too many"),
        ("%ft doctor --bundel x.zip", "did you mean '--bundle'?"),
        ("%ft pause nobody", "no session 'nobody' is open"),
        ("%ft open nobody", "holds no run"),
        ("%ft set nobody learning_rate=1e-4 --setp 3", "did you mean '--step'?"),
        ("%ft set 'x", "a quote is not closed"),
        ("%%ft pause\ntext", "only chat takes a text"),
        ("%%chat nobody\nhello", "no session 'nobody' is open"),
        ("%%chat nobody@\nhello", "is no address"),
        ("%%chat\n", "there is nothing to say"),
        ("%%chat nobody tone=kind\nhello", "unknown key 'tone'"),
        ("%%chat nobody --top-p 1\nhello", "unknown option '--top-p'; 'top_p' is a key: write top_p=1 on this line"),
    ],
)
def test_refused_in_one_line(refused: Refused, shell: Any, tmp_path: Path, cell: str, said: str) -> None:
    shell.user_ns |= {"taken": 3, "nothing": None}
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes(b"prompt,completion\ncaf\xe9,x\n")
    (tmp_path / "roles.jsonl").write_text('{"messages": [{"role": "wizard", "content": "x"}]}\n')
    (tmp_path / "null.jsonl").write_text('{"messages": [{"role": null, "content": "x"}]}\n')
    assert said in refused(cell)
    assert not jupyter_ft.sessions
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_refusals_come_before_torch(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("prompt,completion\na,b\n")
    script = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_cell("%load_ext jupyter_ft")
for cell in (
    "%%finetune s --data tickets.csv\\nlerning_rate: 1", "%%finetune s --data tickets.csv\\nbatch_size: 0",
    "%%finetune s --data nothing.csv\\n", "%%finetune s --data tickets.csv\\ncolumns: {prompt: x}",
    "%%finetune s --data tickets.csv --model .\\n", "%%finetune ../s --data tickets.csv\\n",
    "%ft pause", "%%chat s\\nhi",
):
    result = shell.run_cell(cell)
    assert type(result.error_in_exec).__name__ == "UsageError", cell
assert shell.run_cell("%%finetune s --data tickets.csv --dry-run\\n").success
assert shell.run_cell("%%finetune -h").success and shell.run_cell("%ft").success
assert shell.run_cell("%ft doctor").success
print("heavy:", sorted({"torch", "transformers", "plotly", "pandas"} & set(sys.modules)))
"""
    env = os.environ | {"JUPYTER_FT_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("heavy: []"), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_dry_run_says_what_would_run(shell: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shell.user_ns["frame"] = [{"prompt": str(i), "completion": "b"} for i in range(20)]
    result = shell.run_cell("%%finetune a-b --data frame learning_rate=1e-3 --dry-run\nlr: 2\nadapter.r: 8")
    said = capsys.readouterr().out
    assert result.success
    assert "a-b would start in" in said
    assert "steps   3 (3 an epoch, 8 × 1 rows each)" in said
    assert "learning_rate: 0.001" in said
    assert "adapter.r: 8" in said
    assert "system" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_dry_run_says_what_memory_it_takes(
    shell: Any, capsys: pytest.CaptureFixture[str], tiny_model: Path, tmp_path: Path
) -> None:
    shell.user_ns["frame"] = [{"prompt": str(i), "completion": "b"} for i in range(20)]
    cell = f"%%finetune a --data frame --model {tiny_model} dtype=float32 --dry-run"
    assert shell.run_cell(f"{cell}\n").success
    said = capsys.readouterr().out
    assert "  memory  it fits: " in said
    for part in ("weights", "adapter", "optimizer", "activations", "logits", "chat"):
        assert f"            {part:<12}" in said
    assert "measured" not in said
    assert shell.run_cell(f"{cell} --measure\n").success
    said = capsys.readouterr().out
    assert re.search(r"measured: .* in a step on the longest row \(8 × \d+ tokens, .* s\); the estimate .* above", said)
    assert shell.run_cell("%%finetune a --data frame --model other/thing --dry-run\n").success
    assert (
        "memory  what other/thing takes is not known: its config.json is not on this machine" in capsys.readouterr().out
    )
    assert not (tmp_path / "runs").exists()


def test_fit_tells_of_a_card_that_is_not_here(shell: Any, capsys: pytest.CaptureFixture[str], tiny_model: Path) -> None:
    assert shell.run_cell(f"%ft fit {tiny_model} batch_size=64 dtype=float32 --memory 800MB").success
    said = capsys.readouterr().out
    assert "it does not fit" in said
    assert "a card of 0.8 GB has 0.8 GB free (64 rows of 512 tokens at once)" in said
    assert "with trainer: {activation_checkpointing: true}" in said or "with batch_size: " in said


@pytest.mark.parametrize("cell", ["%%finetune -h", "%ft -h", "%ft set -h", "%%chat -h", "%ft chat -h", "%finetune -h"])
def test_help_does_nothing(shell: Any, capsys: pytest.CaptureFixture[str], cell: str) -> None:
    assert shell.run_cell(cell).success
    assert "%ft" in capsys.readouterr().out or "finetune" in cell or "chat" in cell
    assert not jupyter_ft.sessions


def test_braces_and_dollars_are_not_expanded(refused: Refused, shell: Any) -> None:
    shell.user_ns["x"] = "support"
    assert "'{x}' cannot name a run" in refused("%%finetune {x} --data tickets.csv\n")


def test_load_twice_and_unload(shell: Any) -> None:
    before = dict(shell.magics_manager.magics["cell"])
    load(shell)
    assert shell.magics_manager.magics["cell"] == before
    transforms = len(shell.input_transformers_cleanup)
    unload(shell)
    unload(shell)
    assert {"finetune", "ft", "chat"}.isdisjoint(shell.magics_manager.magics["cell"])
    assert {"finetune", "ft", "chat"}.isdisjoint(shell.magics_manager.magics["line"])
    assert len(shell.input_transformers_cleanup) == transforms - 1


def test_another_chat_is_left_alone(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def theirs(line: str, cell: str) -> str:
        return f"theirs: {cell}"

    unload(shell)
    shell.register_magic_function(theirs, "cell", "chat")
    try:
        load(shell)
        assert capsys.readouterr().out.strip().endswith("write %%ft chat instead")
        assert shell.run_cell("%%chat\nhello\n").result == "theirs: hello\n"
        assert type(shell.run_cell("%%ft chat nobody\nhello").error_in_exec).__name__ == "UsageError"
        unload(shell)
        assert shell.magics_manager.magics["cell"]["chat"] is theirs
    finally:
        del shell.magics_manager.magics["cell"]["chat"]


@pytest.mark.slow
def test_completion(shell: Any) -> None:
    def after(text: str) -> list[str]:
        words = text.split()
        symbol = "" if text.endswith(" ") else words[-1]
        return complete(shell, SimpleNamespace(text_until_cursor=text, symbol=symbol, line=text, command=words[0]))

    assert {"status", "set", "chat"} <= set(after("%ft "))
    assert after("%ft pa") == ["pause"]
    assert after("%ft pro") == ["promote"]
    assert "adapter=" in after("%ft fork support calm ada")
    assert set(after("%ft fork support calm adapter.")) == {
        *("adapter.kind=", "adapter.r=", "adapter.targets=", "adapter.alpha=", "adapter.dropout=")
    }
    assert after("%ft set support adapter.r") == ["adapter.r="]
    assert {"report", "logs", "doctor"} <= set(after("%ft "))
    assert {"--tail", "--level"} <= set(after("%ft logs support "))
    assert after("%ft doctor --b") == ["--bundle"]
    assert "learning_rate=" in after("%ft set support ")
    assert after("%ft set support learning") == ["learning_rate="]
    assert after("%%finetune support --da") == ["--data"]
    assert "--at" in after("%%chat support --")
    with pytest.warns(PendingDeprecationWarning):
        assert "--dry-run" in shell.complete("--d", "%%finetune support --d", 22)[1]


def test_names_of_variables(shell: Any, tmp_path: Path) -> None:
    assert [variable_of(name) for name in ("my-run", "a.b", "class")] == ["my_run", "a_b", "class_"]
    shell.user_ns["rows"] = [{"a": 1}]
    assert data_of(shell, "rows") == [{"a": 1}]
    (tmp_path / "rows").write_text("a file wins")
    assert data_of(shell, "rows") == "rows"
    assert data_of(shell, "demo:support") == "demo:support"


def test_a_folder_of_text_is_data_unless_a_variable_has_its_name(
    shell: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("A")
    for named in ("docs", "docs/"):
        cell = f"%%finetune notes --data {named} --dry-run\nmethod: self-supervised"
        assert shell.run_cell(cell).success
        said = capsys.readouterr().out
        assert "1 document from docs" in said
        assert "steps   known when the text is in tokens (8 × 1 windows of 1024 each)" in said
    shell.user_ns["docs"] = [{"text": "a"}]
    assert data_of(shell, "docs") == [{"text": "a"}]


def test_a_choice_counts_as_two_rated_answers(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.user_ns["pairs"] = [{"prompt": str(n), "chosen": "a", "rejected": "b"} for n in range(10)]
    assert shell.run_cell("%%finetune rated --data pairs --dry-run\nmethod: kto").success
    assert "steps   3 (3 an epoch, 8 × 1 rows each)" in capsys.readouterr().out


def test_where_a_cell_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTER_FT_FRONTEND", raising=False)
    lab = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True))
    nbclient = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False))
    assert Place.of(lab) == Place(rich=True, headless=False)
    assert Place.of(nbclient) == Place(rich=True, headless=True)
    monkeypatch.setenv("JUPYTER_FT_FRONTEND", "headless")
    assert Place.of(lab).headless
    monkeypatch.setenv("JUPYTER_FT_FRONTEND", "notebook")
    assert not Place.of(nbclient).headless


class Fake(Session):
    """A session in a state, without a run."""

    def __init__(self, name: str, state: str = "running") -> None:
        self._name, self._is = name, state
        self.run_folder, self.log = RunFolder(runs_root() / name), EventLog()

    step = property(lambda self: 0)  # type: ignore[assignment]
    name = property(lambda self: self._name)  # type: ignore[assignment]
    state = property(lambda self: self._is)  # type: ignore[assignment]


def test_a_name_means_the_session_of_its_variable(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Fake("support", "finished"), Fake("support-2")
    with monkeypatch.context() as patched:
        patched.setattr(sessions, "_open", {"support": first, "support-2": second})
        assert session_of(shell, "support") is first
        shell.user_ns["support"] = second
        assert session_of(shell, "support") is second
        assert session_of(shell, "support-2@live") is second
        first._is = "running"
        assert session_of(shell, "support") is first


def test_a_race_that_was_run_again_is_followed_too(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Fake("grid-1", "finished"), Fake("grid.2-1")
    first, second = Race("grid", [old], [{}]), Race("grid.2", [new], [{}])
    with monkeypatch.context() as patched:
        patched.setattr(sessions, "_open", {"grid-1": old, "grid.2-1": new})
        for race in (first, second):
            patched.setitem(races, race.name, race)
        shell.user_ns["grid"] = first
        assert race_meant(shell, Line(["grid"], {}, set(), {})) is first
        assert address_of(shell, "grid-1@40") == "grid-1@40"
        shell.user_ns["grid"] = second
        assert race_meant(shell, Line(["grid"], {}, set(), {})) is second
        assert session_of(shell, "grid-1") is new
        assert address_of(shell, "grid-1@40") == "grid.2-1@40"
        assert address_of(shell, "elsewhere@40") == "elsewhere@40"
        old._is = "running"
        assert race_meant(shell, Line(["grid"], {}, set(), {})) is first
        assert session_of(shell, "grid-1") is old
        assert race_meant(shell, Line([], {}, set(), {})) is None


@pytest.fixture
def two_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(sessions, "_open", {name: Fake(name) for name in ("support", "calmer")})
        yield


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("support", "support live"),
        ("support@base", "support base"),
        ("support --at base,live", "support base, support live"),
        ("support,calmer", "support live, calmer live"),
        ("support calmer --at live,live", "support live, calmer live"),
        ("support,calmer@base", "support live, calmer base"),
        ("support --at live,calmer@base", "support live, calmer base"),
        ("support@last", "support live"),
    ],
)
def test_columns_of_a_chat(shell: Any, two_open: None, line: str, columns: str) -> None:
    found = addresses(shell, parse(split(line), CHAT))
    assert ", ".join(f"{session.name} {at}" for session, at, _ in found) == columns


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("support@base --at live", "leave out --at"),
        ("support@12", "cannot be talked to"),
        ("support --at 12", "cannot be talked to"),
        ("base", "say which session: support, calmer"),
        ("", "say which session: support, calmer"),
    ],
)
def test_columns_that_are_not_there(shell: Any, two_open: None, line: str, said: str) -> None:
    with pytest.raises(AddressError, match=said):
        addresses(shell, parse(split(line), CHAT))


def test_the_line_beats_an_alias_in_the_body(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cell = f"{START} --model demo --dry-run\nmodel_name_or_path: other/thing"
    assert shell.run_cell(cell).success
    assert "model   demo" in capsys.readouterr().out
    assert shell.run_cell(f"{START} --dry-run\nmodel_name_or_path: other/thing").success
    assert "model   other/thing" in capsys.readouterr().out


def test_a_chat_of_something_else_gets_its_cells_as_they_are(shell: Any) -> None:
    heard: list[tuple[str, str | None]] = []
    unload(shell)
    chats = {kind: shell.magics_manager.magics[kind].get("chat") for kind in ("line", "cell")}
    for kind in chats:
        shell.register_magic_function(lambda line, cell=None: heard.append((line, cell)), kind, "chat")
    load(shell)
    try:
        assert not shell.run_cell("# theirs\n%%chat a\nhello").success  # IPython's own answer
        assert not shell.run_cell("%%chat a").success
        assert heard == []
        assert shell.run_cell("%%chat a\nhello\n").success
        assert heard == [("a", "hello\n")]
    finally:
        for kind in chats:
            del shell.magics_manager.magics[kind]["chat"]


def test_help_of_the_cell_form(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.run_cell("%%ft -h\n").success
    assert "%ft lists the sessions" in capsys.readouterr().out


def test_metrics_may_name_a_function_of_the_notebook(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("def right(prompts, predictions, references): return 1.0")
    cell = (
        "%%finetune support --data tickets.csv --dry-run\nheld_out: 1\nmetrics: [token_f1, right]\nprobes: ['Where?']"
    )
    shell.run_cell(cell).raise_error()
    said = capsys.readouterr().out
    assert "metrics: ('token_f1', 'right')" in said
    assert "probes: ('Where?',)" in said
