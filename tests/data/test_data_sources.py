from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from jupyter_ft.data import load, load_rows, read, save_rows
from jupyter_ft.errors import DataError

ROWS = [{"prompt": f"Where is order {n}?", "completion": "On its way."} for n in range(600)]


def refusal(data: object) -> str:
    with pytest.raises(DataError) as caught:
        load(data, {})
    message = str(caught.value)
    assert "\n" not in message
    return message


def put_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def put_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    return path


def test_parquet_gives_the_same_rows_and_fingerprint(tmp_path):
    source = read(put_parquet(tmp_path / "a.parquet", ROWS))
    assert source.rows == ROWS
    assert source.fingerprint == read(ROWS).fingerprint
    assert source.path == str(tmp_path / "a.parquet")


def test_parquet_that_cannot_be_used(tmp_path):
    (tmp_path / "bad.parquet").write_text("prompt,completion")
    assert refusal(tmp_path / "bad.parquet").startswith("bad.parquet is no readable Parquet file (")
    whole = put_parquet(tmp_path / "cut.parquet", ROWS).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    assert "is no readable Parquet file" in refusal(tmp_path / "cut.parquet")
    assert "has no rows" in refusal(put_parquet(tmp_path / "none.parquet", ROWS[:0]))
    blob = put_parquet(tmp_path / "blob.parquet", [{"prompt": "a", "completion": b"b"}])
    assert refusal(blob) == "blob.parquet, row 1: an object as completion; write it as text"
    nul = put_parquet(tmp_path / "nul.parquet", [ROWS[0], {"prompt": "a\0", "completion": "b"}])
    assert refusal(nul).startswith("nul.parquet, row 2: 'prompt' has a NUL")


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz"])
def test_gzipped_files(tmp_path, name):
    text = {
        "a.csv.gz": "prompt,completion\na,b\n",
        "a.jsonl.gz": '{"prompt": "a", "completion": "b"}\n',
        "a.json.gz": '[{"prompt": "a", "completion": "b"}]',
    }[name]
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / name).rows == [{"prompt": "a", "completion": "b"}]
    (tmp_path / name).write_bytes(gzip.compress(text.encode())[:-9])
    assert "is no whole gzip file" in refusal(tmp_path / name)


def test_text_in_another_encoding_beyond_the_first_megabyte(tmp_path):
    path = tmp_path / "late.csv"
    path.write_bytes(b"text\n" + "ü€".encode() * 400_000 + b"\n" + b"caf\xe9\n")
    assert refusal(path).startswith("late.csv, line 3: byte 2000009 (0xe9) is not UTF-8")


def test_several_files_are_read_one_after_the_other(tmp_path, monkeypatch):
    first, second = put_csv(tmp_path / "a.csv", ROWS[:3]), put_parquet(tmp_path / "b.parquet", ROWS[3:5])
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[5:7]))
    whole = read([first, second, str(tmp_path / "c.jsonl")])
    assert whole.rows == ROWS[:7]
    assert whole.fingerprint == read(ROWS[:7]).fingerprint
    assert whole.path == [str(tmp_path / name) for name in ("a.csv", "b.parquet", "c.jsonl")]
    assert read(whole.path) == whole
    assert load(whole, {}).said.startswith("7 prompt–completion rows from 3 files (a.csv to c.jsonl)")
    monkeypatch.chdir(tmp_path)
    assert read("a.csv, b.parquet,c.jsonl") == whole
    assert read("[ac].*") == read([first, tmp_path / "c.jsonl"])


def test_a_complaint_names_the_file_among_several(tmp_path):
    first = put_csv(tmp_path / "a.csv", ROWS[:3])
    bad = put_csv(tmp_path / "b.csv", [ROWS[0], {"prompt": "x", "completion": ""}])
    assert refusal([first, bad]) == "b.csv, line 3: no completion; fill it in or delete the row"
    other = put_csv(tmp_path / "c.csv", [{"prompt": "x", "answer": "y"}])
    assert refusal([first, other]) == "c.csv has a column 'answer', unlike a.csv; give files of the same columns"
    fewer = put_csv(tmp_path / "d.csv", [{"prompt": "x"}])
    assert refusal([first, fewer]) == "d.csv has no column 'completion', unlike a.csv; give files of the same columns"
    assert "matches no file" in refusal(str(tmp_path / "*.jsonl"))
    assert "does not exist" in refusal([first, tmp_path / "zzz.csv"])


def test_a_dataset_in_its_own_order():
    import datasets

    dataset = datasets.Dataset.from_list(ROWS).select([7, 3, 599])
    source = read(dataset)
    assert source.rows == [ROWS[7], ROWS[3], ROWS[599]]
    assert (source.name, source.path) == ("a Dataset", None)


def test_a_dataset_dict_is_trained_on_its_train_split(tmp_path):
    import datasets

    splits = datasets.DatasetDict(
        train=datasets.Dataset.from_list(ROWS[:5]), validation=datasets.Dataset.from_list(ROWS[5:8])
    )
    examples = load(splits, {})
    assert len(examples.rows) == 5
    assert examples.notes == (
        "the data set has a split 'validation', which is not used; held_out: validation evaluates on it",
    )
    both = load(splits, {}, "validation")
    assert both.notes == ()
    assert both.beside["validation"].rows == ROWS[5:8]
    save_rows(both, tmp_path / "rows.jsonl")
    assert load_rows(tmp_path / "rows.jsonl") == both
    only = datasets.DatasetDict(all=datasets.Dataset.from_list(ROWS[:2]))
    assert load(only, {}).rows == ROWS[:2]
    two = datasets.DatasetDict(a=only["all"], b=only["all"])
    assert refusal(two) == "a DatasetDict has no split 'train'; name one that is there (splits: a, b)"


def test_a_folder_laid_out_as_a_hub_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "owner" / "chats"
    (folder / "data").mkdir(parents=True)
    put_parquet(folder / "data" / "train-00000-of-00001.parquet", ROWS[:4])
    put_parquet(folder / "data" / "test-00000-of-00001.parquet", ROWS[4:6])
    source = read(f"hub:{folder}")
    assert source.rows == ROWS[:4]
    assert list(source.splits) == ["test"]
    assert read(source.path) == source
    assert read(f"hub:{folder}:test").rows == ROWS[4:6]
    assert "has no split 'tset'" in refusal(f"hub:{folder}:tset")
    monkeypatch.chdir(tmp_path)
    assert read("hub:owner/chats").rows == ROWS[:4]


def test_a_hub_id_that_is_not_cached_and_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("some-org/chats", "hub:some-org/chats", "some-org/chats:train"):
        message = refusal(name)
        assert message.startswith("some-org/chats")
        assert "is not in the cache and the hub cannot be reached" in message
    assert "is no hub id" in refusal("hub:chats")


def test_alpaca_rows_put_the_input_after_the_instruction():
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
        {"instruction": "Part.", "input": None, "output": "Bye"},
    ]
    examples = load(rows, {})
    assert [row["prompt"] for row in examples.rows] == ["Add.\n\n1 2", "Greet.", "Part."]
    assert "(prompt = 'instruction' + 'input', completion = 'output')" in examples.said
    assert load(rows, {"prompt": "instruction"}).rows[0]["prompt"] == "Add."


@pytest.mark.slow
def test_a_row_of_30_megabytes(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "x", "completion": "y" * 30_000_000}) + "\n")
    assert len(load(tmp_path / "a.jsonl", {}).rows[0]["completion"]) == 30_000_000


def test_reading_tells_how_far_it_is(tmp_path):
    told: list[tuple[str, int]] = []
    path = put_csv(tmp_path / "a.csv", ROWS[:500])
    load(path, {}, progress=lambda *news: told.append(news))
    assert told == [("reading", 200), ("reading", 400), ("checking", 0), ("checking", 200), ("checking", 400)]
