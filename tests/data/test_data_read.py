from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from jupyter_ft.data import read
from jupyter_ft.errors import DataError

ROWS = [{"prompt": "Where is it?", "completion": "On its way."}, {"prompt": "Thanks, bye", "completion": 'Say "hi"'}]


def refusal(data: object) -> str:
    """The message with which `data` is refused: always one line."""
    with pytest.raises(DataError) as caught:
        read(data)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CSV = 'prompt,completion\nWhere is it?,On its way.\n"Thanks, bye","Say ""hi"""\n'
READABLE = {
    "comma.csv": CSV,
    "semicolon.csv": 'prompt;completion\nWhere is it?;On its way.\nThanks, bye;"Say ""hi"""\n',
    "tab.tsv": 'prompt\tcompletion\nWhere is it?\tOn its way.\nThanks, bye\t"Say ""hi"""\n',
    "tab.csv": 'prompt\tcompletion\nWhere is it?\tOn its way.\nThanks, bye\t"Say ""hi"""\n',
    "bom.csv": "\ufeff" + CSV,
    "crlf.csv": CSV.replace("\n", "\r\n"),
    "blank.CSV": CSV.replace("\nWhere", "\n\nWhere"),
    "lines.jsonl": "\n".join(json.dumps(row) for row in ROWS),
    "lines.ndjson": "\n\n".join(json.dumps(row) for row in ROWS) + "\n",
    "crlf.jsonl": "\r\n".join(json.dumps(row) for row in ROWS) + "\r\n",
    "whole.json": json.dumps(ROWS, indent=2),
    "data.json": json.dumps({"data": ROWS}),
}


@pytest.mark.parametrize("name", READABLE)
def test_every_kind_of_file_gives_the_same_rows_and_fingerprint(tmp_path, name):
    path = put(tmp_path, name, READABLE[name])
    source = read(path)
    assert source.rows == ROWS
    assert (source.name, source.path) == (name, str(path))
    assert source.fingerprint == read(ROWS).fingerprint
    assert read(str(path)) == source


def test_line_numbers_are_those_of_an_editor(tmp_path):
    text = '\ufeffprompt,completion\n"two\nlines",a\n\n"x\r\ny",b\nlast,c\n'
    assert list(read(put(tmp_path, "a.csv", text)).lines) == [2, 5, 7]
    assert list(read(put(tmp_path, "a.jsonl", '\n{"text": "\u2028"}\n\n{"text": "b"}')).lines) == [2, 4]
    assert read(ROWS).lines is None


def test_one_column_is_not_split_at_its_semicolons(tmp_path):
    source = read(put(tmp_path, "a.csv", "text\none; two\nthree; four; five\n"))
    assert [row["text"] for row in source.rows] == ["one; two", "three; four; five"]


def test_a_short_row_and_a_long_cell(tmp_path):
    source = read(put(tmp_path, "a.csv", f"prompt,completion\nonly this\n{'x' * 200_000},b\n"))
    assert source.rows[0] == {"prompt": "only this", "completion": None}
    assert len(str(source.rows[1]["prompt"])) == 200_000


def test_a_data_frame_less_its_nans():
    frame = pd.DataFrame({"prompt": ["a", None, "c"], "n": [1.0, float("nan"), 3.0], "day": pd.NaT, "k": [1, 2, 3]})
    source = read(frame)
    assert source.rows[1] == {"prompt": None, "n": None, "day": None, "k": 2}
    assert source.path is None
    assert type(source.rows[0]["k"]) is int
    assert refusal(pd.DataFrame()) == "a DataFrame has no rows; give at least one"
    assert "two columns 'a'" in refusal(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_data_frame_with_arrays_as_parquet_gives_them():
    import numpy as np

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    source = read(pd.DataFrame({"messages": [np.array(turns, dtype=object)]}))
    assert source.rows == [{"messages": turns}]


def test_the_demo_is_1050_exchanges():
    source = read("demo:support")
    assert len(source.rows) == 1050
    assert list(source.rows[0]) == ["Customer message", "Agent reply"]
    assert (source.name, source.path) == ("demo:support", "demo:support")
    assert all(str(cell).strip() for row in source.rows for cell in row.values())
    assert "chatterbot_corpus" not in sys.modules


def test_the_demo_without_its_package(monkeypatch):
    monkeypatch.setattr(sys.modules["jupyter_ft.data.read"], "find_spec", lambda name: None)
    assert 'pip install "jupyter-ft[demo]"' in refusal("demo:support")
    assert "did you mean 'support'" in refusal("demo:suport")
    assert "write demo:support" in refusal("demo:poems")


def test_the_example_file():
    source = read(Path(__file__).parents[2] / "examples" / "tickets.csv")
    assert len(source.rows) == 96
    assert len({row["Customer message"] for row in source.rows}) == 96
    assert all(str(row["Agent reply"]).startswith(("I'm sorry", "Thank you")) for row in source.rows)


def test_the_fingerprint_is_of_the_rows_whatever_the_order_of_columns():
    turned = [dict(reversed(row.items())) for row in ROWS]
    assert read(turned).fingerprint == read(ROWS).fingerprint
    assert read(ROWS[::-1]).fingerprint != read(ROWS).fingerprint
    assert read([ROWS[0], {**ROWS[1], "completion": "Say hi"}]).fingerprint != read(ROWS).fingerprint


def test_a_path_that_does_not_exist_names_the_nearest(tmp_path, monkeypatch):
    put(tmp_path, "tickets.csv", CSV)
    assert f"did you mean '{tmp_path / 'tickets.csv'}'?" in refusal(tmp_path / "tickts.csv")
    assert "there are: tickets.csv" in refusal(tmp_path / "zebra.jsonl")
    assert "no folder" in refusal(tmp_path / "nowhere" / "a.csv")
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'tickets.csv'?" in refusal("ticket.csv")
    assert "no data is named" in refusal("")


@pytest.mark.parametrize("name", ["s3://bucket/a.csv", "https://example.org/a.csv"])
def test_what_cannot_be_read_yet(name):
    message = refusal(name)
    assert message.startswith(f"not readable yet: {name}")
    assert "; give a CSV, JSON Lines, Parquet or text file" in message


def test_a_folder_and_other_kinds_of_file(tmp_path):
    put(tmp_path, "tickets.csv", CSV)
    assert "has no text in it (.txt .md); name a file (there are: tickets.csv)" in refusal(tmp_path)
    for name in ("a.xlsx", "a.py", "a"):
        message = refusal(put(tmp_path, name, "x"))
        assert message.startswith(f"{name}: ")
        assert "save it as .csv" in message


BAD_FILES = {
    "empty.csv": (b"", "empty.csv is empty; give a file"),
    "blank.jsonl": (b"\n \n", "blank.jsonl is empty; give a file"),
    "header.csv": (b"prompt,completion\n", "header.csv has a header and no rows; add"),
    "latin.csv": (
        "prompt,completion\na,b\ncafé,c\n".encode("latin-1"),
        "latin.csv, line 3: byte 25 (0xe9) is not UTF",
    ),
    "utf16.csv": (CSV.encode("utf-16"), "utf16.csv is UTF-16, not UTF-8; save it as UTF-8"),
    "utf32.csv": (CSV.encode("utf-32"), "utf32.csv is UTF-32, not UTF-8; save it as UTF-8"),
    "utf16-bare.csv": (CSV.encode("utf-16-le"), "utf16-bare.csv, line 1 has a NUL"),
    "nul.csv": (b"prompt,completion\na,b\na\0,b\n", "nul.csv, line 3 has a NUL character; delete it"),
    "nul.jsonl": (b'{"text": "a"}\n{"text": "a\\u0000"}', "nul.jsonl, line 2: 'text' has a NUL character; delete it"),
    "wide.csv": (
        b"prompt,completion\na,b\nc,d, e\n",
        "wide.csv, line 3 has 3 cells and the header 2; put double",
    ),
    "quote.csv": (b'prompt,completion\na,b\n"c,d\ne,f\n', "quote.csv, line 3: a double quote is not closed"),
    "twice.csv": (b"prompt,prompt\na,b\n", "twice.csv, line 1 names two columns 'prompt'; rename"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": "b"}\n{"text": "c', "cut.jsonl, line 3: the last line breaks off"),
    "cut2.jsonl": (b'{"text": "a"}\n{"text":', "cut2.jsonl, line 2: the last line breaks off"),
    "bad.jsonl": (b'{"text": "a"}\n{"text": b}\n{"text": "c"}\n', "bad.jsonl, line 2 is not JSON"),
    "list.jsonl": (
        b'[\n{"text": "a"}\n]\n',
        "list.jsonl, line 1 is not JSON (Expecting value at character 2); put",
    ),
    "row.jsonl": (b'{"text": "a"}\n["b"]\n', "row.jsonl, line 2 is a list, not an object; write it as"),
    "key.jsonl": (b'{"text": "a", "text": "b"}\n', "key.jsonl, line 1 has the key 'text' twice"),
    "half.jsonl": (b'{"text": "a\\ud83d"}\n', "half.jsonl, line 1: 'text' has half of a surrogate pair"),
    "deep.jsonl": (b'{"text": ' + b"[" * 2000 + b"]" * 2000 + b"}\n", "deep.jsonl, line 1"),
    "deep.json": (b'[{"text": ' + b"[" * 2000 + b"]" * 2000 + b"}]", "deep.json"),
    "bad.json": (
        b'[\n{"text": "a"},\n{"text" "b"}\n]',
        "bad.json, line 3 is not JSON (Expecting ':' delim",
    ),
    "lines.json": (
        b'{"text": "a"}\n{"text": "b"}\n',
        "lines.json, line 2 is not JSON (Extra data, column 1); name",
    ),
    "row.json": (b'[{"text": "a"}, null]', "row.json, row 2 is null, not an object; write it as"),
    "object.json": (b'{"rows": []}', "object.json holds no list of rows; write"),
    "none.json": (b"[]", "none.json holds an empty list; give at least one"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line_with_the_place_and_the_fix(tmp_path, name):
    content, expected = BAD_FILES[name]
    assert refusal(put(tmp_path, name, content)).startswith(expected)
    if name.startswith("deep"):
        assert "nested more than 100 deep; flatten it" in refusal(tmp_path / name)


def test_bad_lists():
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    assert refusal([]) == "a list has no rows; give at least one"
    assert refusal([{"text": "a"}, "b"]).startswith("a list, row 2 is a text, not an object; write it as")
    assert refusal([{"text": "a"}, {1: "b"}]).startswith("a list, row 2 has the column name 1")
    assert refusal([{"text": deep}]) == "a list, row 1: 'text' is nested more than 100 deep; flatten it"
    assert "row 1: 'text' has half of a surrogate" in refusal([{"text": ["\ud83d"]}])
    assert "row 1: 'text' has a NUL" in refusal([{"text": {"a": "\0"}}])
    assert "row 1 cannot be written as JSON" in refusal([{"text": {1: "a", "b": 2}}])
    assert "type int" in refusal(3)


def test_csv_leaves_the_modules_own_limit_as_it_was(tmp_path):
    import csv

    before = csv.field_size_limit(1234)
    try:
        read(put(tmp_path, "a.csv", CSV))
        refusal(put(tmp_path, "b.csv", "a,b\n1,2,3\n"))
        assert csv.field_size_limit() == 1234
    finally:
        csv.field_size_limit(before)


@pytest.mark.slow
def test_importing_and_reading_needs_no_heavy_package(tmp_path):
    path = put(tmp_path, "a.csv", CSV)
    code = (
        "import sys; from jupyter_ft import data; "
        f"data.load({str(path)!r}, {{}}); data.load('demo:support', {{}}); "
        "heavy = {'torch', 'transformers', 'tokenizers', 'pandas', 'pyarrow'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
