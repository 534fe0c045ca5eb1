from __future__ import annotations

import json

import pytest

from jupyter_ft.data import hold_out, load
from jupyter_ft.errors import DataError

ROWS = [{"prompt": str(number), "completion": "x"} for number in range(100)]


def refusal(rows: object, held_out: float | str) -> str:
    with pytest.raises(DataError) as caught:
        hold_out(load(rows, {}), held_out, {}, 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbers(examples) -> list[int]:
    return [int(row["prompt"]) for row in examples.rows]


@pytest.mark.parametrize(("held_out", "count"), [(0.1, 10), (0.001, 1), (7.0, 7), (99.0, 99), (0.995, None)])
def test_every_row_is_on_one_side_in_its_order(held_out, count):
    if count is None:
        assert "leaves none to train on" in refusal(ROWS, held_out)
        return
    train, test = hold_out(load(ROWS, {}), held_out, {}, 3)
    assert len(test.rows) == count
    assert sorted(numbers(train) + numbers(test)) == list(range(100))
    assert numbers(train) == sorted(numbers(train))
    assert test.said == f"{count} {'row' if count == 1 else 'rows'} of 100 held out from a list (seed 3)"


def test_the_seed_alone_decides():
    one, other = (hold_out(load(ROWS, {}), 0.2, {}, 1)[1] for _ in range(2))
    assert one == other
    assert numbers(one) != numbers(hold_out(load(ROWS, {}), 0.2, {}, 2)[1])


def test_equal_rows_stay_on_one_side():
    train, test = hold_out(load(ROWS * 3 + ROWS[:5], {}), 0.3, {}, 0)
    assert not set(numbers(train)) & set(numbers(test))
    assert 90 <= len(test.rows) <= 92
    assert "; 205 repeats of another row kept on its side" in test.said
    train, test = hold_out(load([ROWS[0]] * 5 + [ROWS[1]] * 9, {}), 1, {}, 0)
    assert (numbers(train), numbers(test)) == ([1] * 9, [0] * 5)


def test_too_little_to_part():
    assert refusal(ROWS[:1], 0.5).startswith("held_out: 0.5 of a list, which has 1 row, leaves none to train on")
    assert refusal(ROWS, 100) == (
        "held_out: 100 of a list, which has 100 rows, leaves none to train on; hold out fewer"
    )
    assert refusal([ROWS[0]] * 9, 2) == "held_out: 2: all rows of a list are the same; hold out another file"


def test_a_file_is_read_with_the_same_columns(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"q": "1", "a": "2"}) + "\n")
    examples = load([{"q": "5", "a": "6"}], {"prompt": "q", "completion": "a"})
    train, test = hold_out(examples, str(path), {"prompt": "q", "completion": "a"}, 0)
    assert train == examples
    assert test.rows == [{"prompt": "1", "completion": "2"}]
    assert test.said.startswith("1 row held out: 1 prompt–completion row from test.jsonl")
    assert refusal(ROWS, str(tmp_path / "tset.jsonl")).startswith("held_out: ")
    path.write_text('{"text": "a"}\n')
    assert "test.jsonl holds text rows and a list prompt-completion rows" in refusal(ROWS, str(path))


def test_a_split_of_the_data_set():
    import datasets

    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS[:9]), test=datasets.Dataset.from_list(ROWS[9:]))
    train, test = hold_out(load(splits, {}, "test"), "test", {}, 0)
    assert (len(train.rows), numbers(test)) == (9, list(range(9, 100)))


def test_none_is_none():
    examples = load(ROWS, {})
    assert hold_out(examples, None, {}, 0) == (examples, None)
