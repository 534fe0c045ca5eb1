"""A judgement that was given back is there, whatever happens then."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from jupyter_ft.errors import DataError, RunFolderError
from jupyter_ft.feedback import Feedback, is_held_out

from .making import chosen, thumb

JUDGE = """
import sys
from pathlib import Path
from tests.feedback.making import chosen
from jupyter_ft.feedback import Feedback
kept = Feedback(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    print(kept.add(chosen(f"{sys.argv[3]} {number}")).id, flush=True)
"""


def _judging(folder: Path, count: int, word: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JUDGE, str(folder), str(count), word]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_what_was_given_back_survives_kill_9(tmp_path: Path) -> None:
    with _judging(tmp_path, 10**6, "q") as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.read().split()  # the last may be cut short
    assert process.returncode == -signal.SIGKILL
    kept = Feedback(tmp_path)
    found = [one.id for one in kept]
    whole = [identity for identity in told if len(identity) == 12]
    assert len(whole) >= 20
    assert found[: len(whole)] == whole
    kept.add(chosen("after"))
    assert len(kept) == len(found) + 1


@pytest.mark.slow
def test_kernels_may_judge_at_the_same_time(tmp_path: Path) -> None:
    processes = [_judging(tmp_path, 30, word) for word in "abc"]
    told = [process.communicate(timeout=120)[0].split() for process in processes]
    assert {one.id for one in Feedback(tmp_path)} == {identity for some in told for identity in some}
    assert len(Feedback(tmp_path)) == 90
    assert Feedback(tmp_path)._store.journal == "wal"


def test_nothing_is_made_before_the_first_judgement(tmp_path: Path) -> None:
    kept = Feedback(tmp_path)
    assert (len(kept), kept.pairs(), kept.wins().decided, str(kept.agreement())) == (
        *(0, [], 0),
        "no pair was judged by two reviewers",
    )
    assert not kept.undo("nobody")
    assert list(tmp_path.iterdir()) == []


def test_undo_marks_and_loses_nothing(tmp_path: Path) -> None:
    kept = Feedback(tmp_path)
    first, second = kept.add(chosen("a", "tie")), kept.add(chosen("b", edited="Best."))
    assert kept.undo(second)
    assert not kept.undo(second)
    assert list(kept) == [first]
    assert kept.undone == [second]
    kept._store.add([second])
    assert list(kept) == [first]  # what is undone does not come back with a file that holds it


def test_where_a_drive_is_shared_it_has_a_rollback_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive, local = tmp_path / "drive", tmp_path / "local"
    drive.mkdir()
    local.mkdir()
    mounted = [SimpleNamespace(mountpoint=str(tmp_path), fstype="ext4"), SimpleNamespace(mountpoint="/", fstype="nfs")]
    mounted.append(SimpleNamespace(mountpoint=str(drive), fstype="fuse.drive"))
    Feedback(drive).add(chosen("before, on the machine's own disk"))
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounted)
    for folder, journal in ((drive, "delete"), (local, "wal")):
        kept = Feedback(folder)
        kept.add(chosen("a"))
        assert kept._store.journal == journal
    assert len(Feedback(drive)) == 2


def test_damaged_or_newer(tmp_path: Path) -> None:
    kept = Feedback(tmp_path)
    kept.path.write_bytes(b"this is no database, and long enough to be looked at as one" * 20)
    with pytest.raises(RunFolderError, match=r"feedback\.sqlite cannot be used \(file is not a database\)"):
        len(kept)
    kept.path.unlink()
    kept.add(chosen("a"))
    with sqlite3.connect(kept.path) as table:
        table.execute("PRAGMA user_version = 99")
    with pytest.raises(RunFolderError, match="written by a newer version"):
        kept.add(chosen("b"))


def test_a_fifth_of_prompts_is_held_out_always_the_same() -> None:
    held = [number for number in range(1000) if chosen(f"Where is order {number}?").held_out]
    assert 150 < len(held) < 250
    for number in held[:20]:
        prompt = f"Where is order {number}?"
        assert chosen(prompt, "tie", "x", "y").held_out
        assert thumb(prompt, False, held_out=False).held_out  # whatever a file says
        assert is_held_out([{"role": "user", "content": prompt}])
    assert held[:3] == [0, 16, 20]  # in every version and on every machine: a judgement of last year stays on its side


def test_json_lines_and_back(tmp_path: Path) -> None:
    kept = Feedback(tmp_path / "one")
    kept.path.parent.mkdir()
    judged = [
        chosen("a", reviewer="Dr Ada", tags=["tone", "wrong"], comment="“No”\n", blind=True, shown=[1, 0]),
        chosen("b", "both_bad", edited="Better.", left="\u2028", right="\0"),
        thumb("c", False),
    ]
    for one in judged:
        kept.add(one)
    kept.undo(kept.add(chosen("d")))
    written = kept.to_jsonl(tmp_path / "judged.jsonl")
    assert written.read_text(encoding="utf-8").count("\n") == 3
    other = Feedback(tmp_path)
    assert [other.from_jsonl(written) for _ in range(2)] == [3, 0]
    assert list(other) == judged
    third = Feedback(tmp_path / "three")
    third.path.parent.mkdir()
    assert [third.from_dataset(kept.to_dataset()) for _ in range(2)] == [3, 0]
    assert list(third) == judged


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is no judgement: not an object"),
        ('{"kind": "choice", "prompt": "q", "answers": [{"text": "a"}], "choice": "left"}', "is between two answers"),
        (
            '{"kind": "choice", "prompt": "q", "answers": [{"text": "a"}, {"text": "a"}], "choice": "left"}',
            "both answers are the same",
        ),
        (
            '{"kind": "choice", "prompt": "q", "answers": [{"text": "a"}, {"text": " "}], "choice": "left"}',
            "one of the answers is empty",
        ),
        ('{"kind": "rating", "prompt": "q", "answers": [{"text": "a"}]}', "good or not"),
        ('{"kind": "rating", "prompt": "q", "answers": [{"text": "a"}], "good": true, "stars": 5}', "stars"),
    ],
)
def test_a_bad_line_adds_nothing(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "judged.jsonl"
    file.write_text(chosen("a").model_dump_json() + "\n" + line + "\n")
    kept = Feedback(tmp_path)
    with pytest.raises(DataError, match=said) as error:
        kept.from_jsonl(file)
    assert "line 2" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(kept) == 0


def test_a_file_of_others_without_ids_is_added_once(tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    row = '{"kind": "choice", "prompt": "q", "answers": [{"text": "a"}, {"text": "b"}], "choice": "right"}\n'
    file.write_text(row + row.replace('"q"', '"p"'))
    kept = Feedback(tmp_path)
    assert [kept.from_jsonl(file) for _ in range(2)] == [2, 0]
    assert kept.pairs()[0] == {"prompt": [{"role": "user", "content": "q"}], "chosen": "b", "rejected": "a"}


def test_a_table_to_look_at(tmp_path: Path) -> None:
    kept = Feedback(tmp_path)
    assert len(kept.table) == 0
    judged = [kept.add(chosen("a", "right", reviewer="Ada")), kept.add(thumb("c", True))]
    table = kept.table
    assert list(table.index) == [one.id for one in judged]
    assert list(table["choice"]) == ["right", "good"]
    assert list(table["left_at"]) == ["live", "live"]
    assert "1 choice, 1 rating" in repr(kept)


def test_a_file_that_is_just_being_made_holds_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "feedback.sqlite").touch()  # another thread has opened it and not yet committed the table
    assert list(Feedback(tmp_path)) == []
