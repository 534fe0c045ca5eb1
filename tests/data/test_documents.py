"""Raw text: files and folders as documents, in passages that lose nothing, and the windows that are made of them."""

from __future__ import annotations

import gzip
from itertools import chain, pairwise
from pathlib import Path

import pytest

from jupyter_ft.data import hold_out, load, read, render_windows
from jupyter_ft.data.documents import MANY, PASSAGE
from jupyter_ft.errors import DataError

BOOK = "\n\n".join(f"Chapter {n}. " + "It was so. " * (n % 90) for n in range(200)) + "\n"


def refusal(data: object, method: str = "cpt", columns: dict[str, str] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load(data, columns or {}, method=method)
    message = str(caught.value)
    assert "\n" not in message
    return message


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_folder_is_read_with_what_is_below_it(tmp_path: Path) -> None:
    docs = put(
        tmp_path / "docs",
        {
            "b.md": "# B",
            "a.txt": "A",
            "in/c.MD": "C",
            "in/x.py": "x",
            ".git/d.md": "D",
            "in/.e.txt": "E",
            "f.md": " \n",
        },
    )
    examples = load(docs, {}, method="cpt")
    assert [row["text"] for row in examples.rows] == ["A", "# B", "C"]
    assert examples.said == "3 documents from docs"
    assert examples.notes == ("files in docs that are left out: 1 of other kinds and 1 empty",)
    again = load(examples.path, {}, method="cpt")
    assert (again.fingerprint, examples.path) == (examples.fingerprint, str(docs))
    (docs / "in" / "c.MD").write_text("changed")
    assert load(docs, {}, method="cpt").fingerprint != examples.fingerprint


def test_one_several_and_gzipped_files(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": "A\r\nB", "b.md": "C"})
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfD"))
    one = load(tmp_path / "a.txt", {}, method="cpt")
    assert ([*one.rows], one.said) == ([{"text": "A\nB"}], "1 document from a.txt")
    several = load(f"{tmp_path}/a.txt, {tmp_path}/b.md, {tmp_path}/c.txt.gz", {}, method="cpt")
    assert [row["text"] for row in several.rows] == ["A\nB", "C", "D"]
    assert len(load(f"{tmp_path}/*.md", {}, method="cpt").rows) == 1


def test_what_cannot_be_read_names_the_file_and_the_fix(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty) == f"{empty} is an empty folder; name a file"
    other = put(tmp_path / "other", {"a.csv": "text\nx\n", "b.py": "x"})
    assert refusal(other) == f"{other} has no text in it (.txt .md); name a file (there are: a.csv)"
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    assert refusal(tmp_path / "photo.txt").startswith("photo.txt, line 1: byte 0 (0x89) is not UTF-8")
    (tmp_path / "nul.md").write_bytes(b"a\n\0")
    assert refusal(tmp_path / "nul.md") == "nul.md, line 2 has a NUL character; delete it, or save it as UTF-8"
    put(other, {"deep/latin.txt": "a"})
    (other / "deep" / "latin.txt").write_bytes(b"caf\xe9")
    assert refusal(other).startswith("latin.txt, line 1: byte 3 (0xe9) is not UTF-8")
    assert "is empty" in refusal(put(tmp_path, {"blank.txt": "\n"}) / "blank.txt")
    assert refusal(f"{other}/a.csv,{tmp_path}/nul.md") == "nul.md is raw text and a.csv is not; give files of one kind"
    assert ".pdf files cannot be read" in refusal(put(tmp_path, {"a.pdf": "x"}) / "a.pdf")


def test_raw_text_is_for_self_supervised_tuning_alone(tmp_path: Path) -> None:
    notes = put(tmp_path, {"notes.txt": "a"}) / "notes.txt"
    assert refusal(notes, "sft") == (
        "notes.txt is raw text, which method: self-supervised learns from; sft takes a table with "
        "columns: {prompt: …, completion: …} or {text: …}"
    )
    for method in ("dpo", "kto"):
        assert f"{method} takes a table with columns: {{prompt: …, " in refusal(notes, method)


def test_tables_for_self_supervised_tuning() -> None:
    pair = {"prompt": "a", "completion": "b"}
    assert [*load([{"text": "a"}, {"text": "b"}], {}, method="cpt").rows] == [{"text": "a"}, {"text": "b"}]
    assert [*load([pair | {"body": "c"}], {}, method="cpt").rows] == [{"text": "c"}]
    assert [*load([pair], {"text": "completion"}, method="cpt").rows] == [{"text": "b"}]
    fix = "method: supervised learns from them, or for cpt write columns: {text: …} (columns: "
    assert refusal([pair]) == f"a list holds prompts with answers; {fix}'prompt', 'completion')"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert refusal([{"messages": turns}]) == f"a list holds conversations; {fix}'messages')"
    assert "method: dpo learns from them" in refusal([{"prompt": "a", "chosen": "b", "rejected": "c"}])


def test_passages_lose_nothing_and_know_their_lines(tmp_path: Path) -> None:
    source = read(put(tmp_path, {"book.txt": BOOK}) / "book.txt")
    texts = [str(row["text"]) for row in source.rows]
    assert "".join(texts) == BOOK
    assert len(texts) > 10
    assert all(PASSAGE // 2 < len(text) <= PASSAGE and text.endswith("\n\n") for text in texts[:-1])
    assert [row["part"] for row in source.rows] == [[0, n] for n in range(len(texts))]
    lines = BOOK.split("\n")
    for index, text in enumerate(texts):
        assert lines[int(source.place(index).removeprefix("book.txt, line ")) - 1] == text.split("\n")[0]
    assert load(tmp_path, {}, method="cpt").said == (
        f"1 document from {tmp_path.name}, read in {len(texts):,} passages"
    )


@pytest.mark.parametrize("text", ["x" * 3 * PASSAGE, "word " * PASSAGE, "\n" * 3 * PASSAGE + "x", "é\n" * PASSAGE])
def test_text_without_paragraphs_is_cut_all_the_same(tmp_path: Path, text: str) -> None:
    source = read(put(tmp_path, {"a.md": text}) / "a.md")
    assert "".join(str(row["text"]) for row in source.rows) in text
    assert "".join(str(row["text"]) for row in source.rows).strip() == text.strip()
    assert max(len(str(row["text"])) for row in source.rows) <= PASSAGE


def test_many_documents_stay_whole(tmp_path: Path) -> None:
    put(tmp_path, {f"{n:03}.txt": BOOK for n in range(MANY)})
    assert [row["text"] for row in read(tmp_path).rows] == [BOOK] * MANY


def tokens_of(documents: list[str], tokenizer, *, opening: list[int] = ()) -> list[int]:
    end = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
    ids = [[*opening, *tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in documents]
    return list(chain.from_iterable(ids))


@pytest.mark.parametrize("length", [8, 60, 10_000])
def test_windows_are_the_documents_one_after_the_other(plain, tmp_path: Path, length: int) -> None:
    documents = [BOOK, "short", "c" * 59, BOOK[:9000]]
    put(tmp_path, {f"{n}.txt": text for n, text in enumerate(documents)})
    made = render_windows(load(tmp_path, {}, method="cpt"), plain, system="Be kind.", max_length=length)
    wanted = tokens_of(documents, plain, opening=[plain.bos_token_id])
    assert list(chain.from_iterable(row["input_ids"] for row in made.rows)) == wanted
    assert {len(row["input_ids"]) for row in made.rows[:-1]} == {length}
    assert all(row["labels"] == row["input_ids"] for row in made.rows)
    assert made.tokens == made.trained_tokens == len(wanted)
    assert made.said.startswith(f"4 documents, {len(wanted):,} tokens in {len(made.rows):,} windows of up to ")
    on_disk = render_windows(
        load(tmp_path, {}, method="cpt"), plain, system=None, max_length=length, file=tmp_path / "tokens.arrow"
    )
    assert on_disk.rows.to_list() == made.rows


def test_windows_know_the_rows_that_they_begin_with(chatml) -> None:
    examples = load([{"text": "abcde"}, {"text": "fg"}, {"text": "h"}], {}, method="cpt")
    made = render_windows(examples, chatml, system=None, max_length=4)
    text = "".join(chatml.decode(row["input_ids"]) + "|" for row in made.rows)
    assert text == "abcde|<|im_end|>fg<|im_end|>|h<|im_end|>|"  # ab is one token
    assert list(made.numbers) == [1, 2, 3]


def test_a_single_token_that_is_left_is_no_window(chatml) -> None:
    made = render_windows(load([{"text": "cdef"}], {}, method="cpt"), chatml, system=None, max_length=4)
    assert [len(row["input_ids"]) for row in made.rows] == [4]


def test_windows_are_no_longer_than_the_model_reads(chatml) -> None:
    from copy import deepcopy

    short = deepcopy(chatml)
    short.model_max_length = 16
    made = render_windows(load([{"text": "c" * 40}], {}, method="cpt"), short, system=None, max_length=1024)
    assert [len(row["input_ids"]) for row in made.rows] == [16, 16, 9]


def test_without_an_end_of_text_token_it_is_told(endless) -> None:
    made = render_windows(load([{"text": "cd"}] * 2, {}, method="cpt"), endless, system=None, max_length=1024)
    assert len(made.rows[0]["input_ids"]) == 4
    assert "so nothing marks where a document ends" in made.said


def test_part_of_one_document_can_be_held_out(plain, tmp_path: Path) -> None:
    """What is held out is in no window, and where it was a document ends."""
    book = load(put(tmp_path, {"book.txt": BOOK}) / "book.txt", {}, method="cpt")
    train, apart = hold_out(book, 0.2, {}, 1, "cpt")
    assert apart is not None
    parts = [row["part"][1] for row in train.rows]
    gaps = sum(after != before + 1 for before, after in pairwise(parts))
    made = render_windows(train, plain, system=None, max_length=500)
    ids = list(chain.from_iterable(row["input_ids"] for row in made.rows))
    assert ids.count(plain.eos_token_id) == gaps + 1 > 1
    told = plain.decode(ids, clean_up_tokenization_spaces=False).replace("<s>", "").split("</s>")
    assert "".join(told) == "".join(row["text"] for row in train.rows)
    assert not any(row["text"] in "".join(told) for row in apart.rows)
    assert made.said.startswith("1 document, ")
