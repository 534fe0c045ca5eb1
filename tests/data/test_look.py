"""Rows as a person sees them: what is trained, cut, packed, dropped, repeated; and nothing that hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jupyter_ft.data import hold_out, load, render, render_pairs
from jupyter_ft.data.figures import TokenRows, measure
from jupyter_ft.data.look import ExampleRows, TrainerRows, overview
from jupyter_ft.data.pieces import MOST_CHARACTERS, Reader
from jupyter_ft.data.tokens import PACKED_COLUMNS, save_tokens

PAIR = {"prompt": "hi", "completion": "yo"}


def written(columns) -> list[str]:
    """Each column: what is trained in «», what is lost in ~~, marks in [], special tokens and hidden letters in {}."""
    around = {"given": "{}", "trained": "«{}»", "lost": "~{}~", "mark": "[{}]"}
    return [
        "".join(
            around[piece.kind].format(f"{{{piece.text}}}" if piece.shape else piece.text) for piece in column.pieces
        )
        for column in columns
    ]


def rows_of(examples, tokenizer, max_length, method=render, **more) -> ExampleRows:
    def as_method(some, limit=max_length, file=None):
        return method(some, tokenizer, system=None, max_length=limit, file=file)

    return ExampleRows(examples, as_method, tokenizer, max_length, **more)


def test_a_row_is_shown_as_it_is_trained_and_to_where_it_is_cut(chatml):
    whole = rows_of(load([PAIR], {}), chatml, 100).shown(0)
    assert written(whole.columns) == [
        "{<|im_start|>}system\nBe kind.{<|im_end|>}\n{<|im_start|>}user\nhi{<|im_end|>}\n{<|im_start|>}assistant\n"
        "«yo»«{<|im_end|>}»«\n»"
    ]
    assert (whole.tokens, whole.trained, whole.state) == (43, 4, "train")
    cut = rows_of(load([PAIR], {}), chatml, 40).shown(0)
    assert written(cut.columns)[0].endswith("«y»[cut here: max_length 40]~o~~{<|im_end|>}~~\n~")
    assert (cut.tokens, cut.trained, cut.state) == (40, 1, "train")


def test_a_dropped_row_says_why_and_is_there_to_be_read(chatml):
    far = {"prompt": "x" * 3000, "completion": "yo"}
    examples = load([PAIR, {"prompt": "x" * 60, "completion": "yo"}, far], {})
    dropped = render(examples, chatml, system=None, max_length=50).dropped
    rows = rows_of(examples, chatml, 50, dropped=dropped[:1])
    near, beyond = rows.shown(1), rows.shown(2)
    assert (near.state, near.trained) == ("dropped", 0)
    assert near.note == "its answer begins beyond max_length 50 (101 tokens)"
    assert written(near.columns)[0].endswith("~assistant\nyo~~{<|im_end|>}~~\n~")
    assert beyond.state == "dropped"
    assert "max_length 50" in beyond.note
    assert "xxx" in written(beyond.columns)[0]
    assert rows.shown(0).state == "train"


def test_a_row_that_the_template_refuses_is_shown_as_it_is(strict):
    turns = [{"role": "assistant", "content": "first"}, {"role": "user", "content": "hi"}]
    shown = rows_of(load([{"messages": [*turns, {"role": "assistant", "content": "yo"}]}], {}), strict, 100).shown(0)
    assert shown.state == "dropped"
    assert "Roles must alternate" in shown.note
    assert '"content": "first"' in written(shown.columns)[0]


def test_choices_stand_side_by_side_and_are_cut_with_their_prompt(chatml):
    pairs = [
        {"prompt": "hi", "chosen": "yes", "rejected": "no, never"},
        {"prompt": "x" * 90, "chosen": "a", "rejected": "b"},
    ]
    examples = load(pairs, {}, method="dpo")
    rows = rows_of(examples, chatml, 44, render_pairs)
    prompt, chosen, rejected = written(rows.shown(0).columns)
    assert prompt.endswith("{<|im_start|>}assistant\n")
    assert "«" not in prompt
    assert chosen == "«yes»«{<|im_end|>}»«\n»"
    assert rejected == "«no, n»[cut here: max_length 44]~ever~~{<|im_end|>}~~\n~"
    assert [column.name for column in rows.shown(0).columns] == ["prompt", "chosen", "rejected"]
    assert rows.shown(1).state == "dropped"
    rendered = render_pairs(examples, chatml, system=None, max_length=44)
    assert sum(rows.shown(index).trained for index in range(2)) == rendered.trained_tokens


def test_what_cannot_be_seen_is_named(chatml):
    text = "a\u202eb\x1b[31m\u200bc\r\nd\U000e0041 \ufeff 👩\u200d🚒"
    [column] = rows_of(load([{"text": text}], {}), chatml, 200).shown(0).columns
    hidden = [piece.text for piece in column.pieces if piece.shape == "hidden"]
    assert hidden == ["U+202E", "U+001B", "U+200B", "U+000D", "U+E0041", "U+FEFF"]
    seen = "".join(piece.text for piece in column.pieces if not piece.shape)
    assert seen == "ab[31mc\nd  👩\u200d🚒"


@pytest.mark.slow
def test_a_giant_row_shows_its_beginning_where_training_begins_and_its_end(chatml):
    row = {"prompt": "x" * 30_000_000, "completion": "yo"}
    shown = rows_of(load([row], {}), chatml, 1000).shown(0)
    assert sum(len(piece.text) for column in shown.columns for piece in column.pieces) < 2 * MOST_CHARACTERS
    ids = [*range(1, 200)] * 50
    labels = [-100] * 5000 + ids[5000:]
    [column] = Reader(chatml, 20_000).columns({"input_ids": ids, "labels": labels})
    marks = [piece.text for piece in column.pieces if piece.kind == "mark"]
    assert marks == ["… 4,720 tokens …", "… 4,630 tokens …"]
    assert any(piece.kind == "trained" for piece in column.pieces)
    assert (column.tokens, column.trained) == (9950, 4950)


def test_rows_that_were_packed_show_where_each_begins(chatml, tmp_path: Path):
    ids = chatml("ab cd ef")["input_ids"]
    packed = {"seq_lengths": [3, len(ids) - 3], "input_ids": ids, "labels": [-100, *ids[1:3], -100, *ids[4:]]}
    save_tokens(tmp_path / "packed.arrow", [packed], PACKED_COLUMNS)
    shown = TrainerRows(TokenRows(tmp_path / "packed.arrow"), chatml, 100).shown(0)
    assert shown.note == "2 rows packed into one"
    [text] = written(shown.columns)
    assert text.count("[packed: ") == 2
    assert "[packed: 2 of 2]" in text
    assert (
        text.replace("«", "").replace("»", "").replace("[packed: 1 of 2]", "").replace("[packed: 2 of 2]", "")
        == "ab cd ef"
    )


def test_columns_of_a_method_that_is_not_there_yet(chatml):
    ids = chatml("ab")["input_ids"]
    columns = Reader(chatml, 100).columns({"prompt_ids": ids, "completion_ids": ids, "label": True})
    assert [(column.name, column.trained) for column in columns] == [("prompt", 0), ("completion", len(ids))]
    [classified] = Reader(chatml, 100).columns({"input_ids": ids, "label": 1})
    assert classified.trained == 0


def arrow(folder: Path, name: str, rows, tokenizer, max_length=64, method="sft"):
    part = load(rows, {}, method=method) if isinstance(rows, list) else rows
    how = render if method == "sft" else render_pairs
    rendered = how(part, tokenizer, system=None, max_length=max_length, file=folder / name)
    return TokenRows(folder / name, np.array(rendered.numbers)), rendered, rendered.dropped


def test_the_figures_are_those_of_the_rendering(chatml, tmp_path: Path):
    rows = [{"prompt": f"q{n}", "completion": "yes " * n} for n in range(1, 40)]
    tokens, rendered, _ = arrow(tmp_path, "a.arrow", rows, chatml)
    figures = measure(tokens, 64)
    assert (figures.tokens, figures.trained) == (rendered.tokens, rendered.trained_tokens)
    assert figures.lengths.tolist() == [len(row["input_ids"]) for row in rendered.rows]
    pairs = [{"prompt": f"q{n}", "chosen": "yes " * n, "rejected": "no"} for n in range(1, 20)]
    tokens, rendered, _ = arrow(tmp_path, "b.arrow", pairs, chatml, method="dpo")
    figures = measure(tokens, 64)
    assert (figures.tokens, figures.trained) == (rendered.tokens, rendered.trained_tokens)
    assert figures.lengths.max() == 64


def test_repeats_other_answers_and_overlap_are_said_with_their_rows(chatml, tmp_path: Path):
    train = [
        PAIR,
        {"prompt": "q", "completion": "a"},
        PAIR,
        {"prompt": "q", "completion": "b"},
        {"prompt": "z", "completion": "c"},
    ]
    apart = [{"prompt": "new", "completion": "n"}, PAIR, {"prompt": "z", "completion": "other"}]
    tokens, rendered, _ = arrow(tmp_path, "a.arrow", train, chatml)
    held_out, *_ = arrow(tmp_path, "b.arrow", apart, chatml)
    told = overview("a", ["said", rendered.said], tokens, held_out, 64)
    assert told.cautions == (
        "1 row (20%) repeats an earlier one token by token (row 3 is row 1 again)",
        "1 row with the prompt of an earlier one, answered otherwise (rows 2 and 4)",
        "1 of 3 held-out rows are trained on too (row 2): they measure memory",
        "1 of 3 held-out rows have the prompt of a row that is trained on (row 3)",
    )
    assert (told.rows, told.held_out, told.tokens) == (5, 3, rendered.tokens)
    clean = overview("a", ["said", rendered.said], held_out, None, 64)
    assert clean.cautions == ()


@pytest.mark.parametrize("held_out", [None, 0.5])
def test_dropped_rows_have_the_numbers_that_the_user_counts_by(chatml, tmp_path: Path, held_out):
    rows = [{"prompt": ("x" * 90 if n in (3, 7, 12) else "q") + str(n), "completion": "a"} for n in range(1, 21)]
    examples = load(rows, {})
    train, _ = hold_out(examples, held_out, {}, 42)
    tokens, rendered, dropped = arrow(tmp_path, "a.arrow", train, chatml)
    numbers = [int(row["prompt"].removeprefix("x" * 90).removeprefix("q")) for row in train.rows]
    assert [number for number, _ in dropped] == [number for number in numbers if number in (3, 7, 12)]
    assert tokens.numbers.tolist() == [number for number in numbers if number not in (3, 7, 12)]
    told = overview("a", [rendered.said], tokens, None, 64, dropped=dropped, left_out=rendered.left_out)
    assert any("dropped (row" in line for line in told.cautions) == bool(dropped)
    place = TrainerRows(tokens, chatml, 64)
    assert place.shown(place.index_of(4)).number == min(number for number in tokens.numbers if number >= 4)
    assert np.all(np.diff(tokens.numbers) > 0)
