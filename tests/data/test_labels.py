"""Texts with labels: which columns they are, which labels, in what order; what is refused; the rows as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.data import (
    hold_out,
    judged_ids,
    labels_of,
    load,
    load_rows,
    render_labelled,
    render_whole_pairs,
    save_rows,
)
from jupyter_ft.errors import DataError

Rows = list[dict[str, Any]]


def classified(rows: Any, columns: dict[str, str] | None = None, held_out: Any = None) -> Any:
    return load(rows, columns or {}, held_out, method="classification")


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": "a", "label": "x", "id": 1}, {}),
        ({"Review": "a", "Sentiment": "x"}, {}),
        ({"question": "a", "Category": "x"}, {}),
        ({"prompt": "a", "intent": "x"}, {}),
        ({"body": "a", "class": "x", "note": "n"}, {}),
        ({"sentence": "a", "label": "x", "label_text": "y"}, {}),
        ({"what": "a", "of": "x", "text": "no"}, {"text": "what", "label": "of"}),
        ({"what": "a", "sentiment": "x"}, {"prompt": "what"}),
    ],
)
def test_columns_are_found(row: dict[str, Any], columns: dict[str, str]) -> None:
    examples = classified([row], columns)
    assert list(examples.rows) == [{"text": "a", "label": "x"}]
    assert examples.format == "labelled"


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        (
            [{"text": "a", "what": "x"}],
            r"holds texts; method: self-supervised .*, or for classification write columns: \{text: …, label: …\}",
        ),
        (
            [{"text": "a", "category": "x", "topic": "y"}],
            "'category' and 'topic' could each be the label; write columns",
        ),
        ([{"text": "a", "label": ""}], r"a list, row 1: no label; fill it in or delete the row"),
        ([{"text": "a", "label": None}], "no label"),
        ([{"text": "a", "label": float("nan")}], "no label"),
        ([{"text": "", "label": "x"}], "no text"),
        ([{"text": "a", "label": 0.5}], "a float as label; write a word, a whole number or true/false"),
        ([{"text": "a", "label": ["x", "y"]}], "a list as label"),
    ],
)
def test_what_is_no_labelled_text_is_refused(rows: Rows, wrong: str) -> None:
    with pytest.raises(DataError, match=wrong):
        classified(rows)


@pytest.mark.parametrize(
    ("found", "labels"),
    [
        (["positive", "negative", "Mixed"], ("Mixed", "negative", "positive")),
        ([10, 9, -1], ("-1", "9", "10")),
        (["10", "9"], ("9", "10")),
        ([True, False], ("false", "true")),
        ([2.0, 1.0], ("1", "2")),
        ([" a ", "b", "a"], ("a", "b")),
    ],
)
def test_labels_have_one_order_whatever_order_the_rows_have(found: list[Any], labels: tuple[str, ...]) -> None:
    rows = [{"text": f"t{n}", "label": label} for n, label in enumerate(found)]
    assert labels_of(classified(rows)) == labels
    assert labels_of(classified(rows[::-1])) == labels


def test_classes_of_a_dataset_go_by_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["sad", "glad"])})
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    examples = classified(data)
    assert [row["label"] for row in examples.rows] == ["glad", "sad"]
    save_rows(examples, tmp_path / "rows.jsonl")
    assert load_rows(tmp_path / "rows.jsonl") == examples
    unlabelled = Dataset.from_dict({"text": ["a"], "label": [-1]}, features=features)
    with pytest.raises(DataError, match="no label"):
        classified(unlabelled)


def test_one_label_and_a_label_that_is_only_held_out_are_refused(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "x" if n else "y"} for n in range(8)]
    with pytest.raises(DataError, match=r"every row to train on has the label 'x'; a classifier needs two"):
        labels_of(classified(rows[1:]))
    other = tmp_path / "other.csv"
    other.write_text("text,label\nhello,z\nhi,x\nho,w\nha,z\n")
    train, apart = hold_out(classified(rows), str(other), {}, 0, "classification")
    with pytest.raises(DataError, match=r"the label 'z' \(and 1 more labels\) is only in the rows held out \(2 rows\)"):
        labels_of(train, apart)
    with pytest.raises(DataError, match="needs two at least"):
        labels_of(*hold_out(classified(rows[:2]), 1, {}, 0, "classification"))


@pytest.mark.slow
def test_it_is_refused_before_anything_is_loaded(tiny_model: Path) -> None:
    import jupyter_ft

    with pytest.raises(DataError, match="needs two at least"):
        jupyter_ft.finetune(str(tiny_model), [{"text": "a", "label": 1}] * 3, "one", method="sentiment")
    assert "one" not in jupyter_ft.sessions


def test_rows_are_what_the_tokenizer_writes(strict: Any, tmp_path: Path) -> None:
    tokenizer = strict
    rows = [{"text": f"text {'long ' * n}", "label": n % 2} for n in range(4)]
    examples = classified(rows)
    in_file = render_labelled(examples, tokenizer, labels=("0", "1"), max_length=16, file=tmp_path / "rows.arrow")
    rendered = render_labelled(examples, tokenizer, labels=("0", "1"), max_length=16)
    expected = [
        {"input_ids": tokenizer(row["text"], truncation=True, max_length=16)["input_ids"], "labels": row["label"]}
        for row in rows
    ]
    assert rendered.rows == expected
    assert list(in_file.rows) == expected
    assert rendered.truncated == 1  # the one before fills it exactly
    assert rendered.tokens == sum(len(row["input_ids"]) for row in expected)
    assert rendered.said == "4 rows, 49 tokens; 2 labels: '0' 2, '1' 2; 1 row cut at max_length 16"


def test_uneven_labels_are_said(chatml: Any) -> None:
    def said(counts: dict[str, int]) -> str:
        rows = [{"text": f"{label} {n}", "label": label} for label, count in counts.items() for n in range(count)]
        examples = classified(rows)
        return render_labelled(examples, chatml, labels=labels_of(examples), max_length=64).said

    assert "2 labels: 'a' 3, 'b' 9" in said({"b": 9, "a": 3})
    assert "uneven" not in said({"b": 9, "a": 3})
    assert "(uneven, 3.3 times as many of one as of another: look at the recall" in said({"b": 10, "a": 3})
    many = said({f"l{n:02}": n + 1 for n in range(13)})
    assert "13 labels: 'l12' 13 at most, 'l00' 1 at least (uneven" in many


def test_a_text_of_which_no_token_is_left_is_left_out() -> None:
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    core.normalizer = normalizers.Replace("-", "")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", pad_token="?")
    examples = classified([{"text": "a", "label": "x"}, {"text": "--", "label": "y"}, {"text": "a-", "label": "y"}])
    rendered = render_labelled(examples, tokenizer, labels=("x", "y"), max_length=8)
    assert rendered.rows == [{"input_ids": [1], "labels": 0}, {"input_ids": [1], "labels": 1}]
    assert rendered.dropped == [(2, "no token is left of its text")]
    assert "1 row left out (row 2: no token is left of its text)" in rendered.said


def test_whole_pairs_are_the_conversations_and_long_ones_are_left_out(chatml: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."},
        {"prompt": "Hi", "chosen": "Hello, " * 40, "rejected": "No."},
    ]
    examples = load(rows, {}, method="reward")
    for file in (None, tmp_path / "rows.arrow"):
        rendered = render_whole_pairs(examples, chatml, system="Be brief.", max_length=150, file=file)
        (row,) = list(rendered.rows)
        for answer in ("chosen", "rejected"):
            turns = [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": rows[0][answer]},
            ]
            assert row[f"{answer}_ids"] == chatml.apply_chat_template(turns)["input_ids"]
        assert set(row) == {"chosen_ids", "rejected_ids"}
        assert rendered.dropped[0][0] == 2
        assert "longer than max_length 150" in rendered.said
        assert rendered.tokens == sum(map(len, row.values()))


@pytest.mark.parametrize("which", ["chatml", "strict", "plain"])
def test_what_is_asked_is_written_as_what_was_trained(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    pair = {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
    (row,) = render_whole_pairs(load([pair], {}, method="reward"), tokenizer, system=None, max_length=200).rows
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert judged_ids(tokenizer, asked) == row["chosen_ids"]
    alone = judged_ids(tokenizer, asked[:1])
    assert row["chosen_ids"][: len(alone)] == alone
