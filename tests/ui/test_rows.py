"""The look at rows as HTML and as text: nothing of the data is alive in it, nothing steers a terminal."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from small_run import XSS
from test_record import ALIVE, Tags

import jupyter_ft
from jupyter_ft.errors import DataError, RecipeError
from jupyter_ft.ui.rows import look_html


def test_nothing_of_the_data_is_alive(tiny_model: Path) -> None:
    nasty = [*XSS, "</pre></div><script>window.__pwned=1</script>", "a\x1b]0;owned\x07b\u202ec"]
    rows = [{"prompt": text, "completion": text} for text in nasty]
    shown = jupyter_ft.preview(rows, str(tiny_model), rows=len(rows), columns={"prompt": "prompt"})
    page = look_html(shown.look, 0, len(rows))
    for tag, attributes in Tags(page).found:
        assert tag not in ALIVE
        assert tag != "img" or attributes["class"] == "hist"
        assert not any(name.startswith("on") for name in attributes), attributes
        assert "href" not in attributes
    assert page.count("<style>") == 1
    assert page.count("&lt;img src=x onerror=window.__pwned=2&gt;") == 2
    assert "<var title='RIGHT-TO-LEFT OVERRIDE'>U+202E</var>" in page
    assert "<var title='control character'>U+001B</var>" in page
    text = repr(shown)
    assert "⟨U+202E⟩" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_a_preview_says_what_was_found_and_shows_what_would_be_trained(
    tiny_model: Path, rows: list[dict[str, str]]
) -> None:
    rows = [
        *rows,
        rows[0],
        {"prompt": "x" * 300, "completion": "too late"},
        {"prompt": "<|im_end|>", "completion": "a"},
    ]
    shown = jupyter_ft.preview(rows, str(tiny_model), max_length=128, system="Be brief.", rows=2)
    told = shown.look.overview
    assert told.said[0] == "53 prompt–completion rows from a list (prompt = 'prompt', completion = 'completion')"
    assert (told.rows, told.held_out) == (52, 0)
    assert list(told.cautions) == [
        "1 row holds special tokens in the text, which count as real ones (row 53: <|im_end|>)",
        "1 row is dropped (row 52): its answer begins beyond max_length 128 (348 tokens)",
        "1 row (2%) repeats an earlier one token by token (row 51 is row 1 again)",
    ]
    text, page = repr(shown), shown._repr_html_()
    assert "system\nBe brief.<|im_end|>" in text.replace("    ", "")
    assert "«Sent, see 0.<|im_end|>" in text
    assert "<mark>Sent, see 0.</mark><mark><code>&lt;|im_end|&gt;</code></mark>" in page
    assert page.count("class='head'") == 2
    assert "51 more rows" in page
    [picture] = re.findall(r"src='data:image/svg\+xml;base64,([^']+)'", page)
    assert b"<rect" in base64.b64decode(picture)
    late = jupyter_ft.preview(rows, str(tiny_model), max_length=128, row=52)
    assert "dropped" in repr(late)
    assert "its answer begins beyond max_length 128" in late._repr_html_()
    assert repr(late).count("\nrow ") == 1


def test_held_out_rows_and_packed_rows(tiny_model: Path, rows: list[dict[str, str]]) -> None:
    held = jupyter_ft.preview(rows, str(tiny_model), held_out=10, rows=50)
    assert (held.look.overview.rows, held.look.overview.held_out) == (40, 10)
    assert held._repr_html_().count("<span class='tag'>held out</span>") == 10
    packed = jupyter_ft.preview(rows, str(tiny_model), packing=True, rows=1)
    assert "[packed: 2 of " in repr(packed)
    assert len(packed.look.rows) < 50


def test_choices_are_beside_each_other(tiny_model: Path) -> None:
    pairs = [{"prompt": "hi", "chosen": "yes", "rejected": "no"}]
    page = jupyter_ft.preview(pairs, str(tiny_model), method="dpo")._repr_html_()
    prompt, chosen, rejected = re.findall(r"<div class='(col[^']*)'><div class='name'>(\w+)", page)
    assert (prompt, chosen, rejected) == (("col wide", "prompt"), ("col", "chosen"), ("col against", "rejected"))


def test_where_nothing_can_be_trained_the_rows_are_shown_all_the_same(
    tiny_model: Path, rows: list[dict[str, str]]
) -> None:
    shown = jupyter_ft.preview(rows, str(tiny_model), max_length=32, rows=1)
    assert "nothing is left to train" in shown.look.overview.cautions[-1]
    assert "dropped" in repr(shown)
    assert "assist\n    [cut here: max_length 32]\n    ant\n    Sent, see 0." in repr(shown)


def test_wrong_input_is_one_line(tiny_model: Path, rows: list[dict[str, str]]) -> None:
    with pytest.raises(DataError, match="there is no row 51; there are 50"):
        jupyter_ft.preview(rows, str(tiny_model), row=51)
    with pytest.raises(RecipeError, match="did you mean 'max_length'"):
        jupyter_ft.preview(rows, str(tiny_model), max_lenght=4)
    with pytest.raises(DataError, match="count from 1"):
        jupyter_ft.preview(rows, str(tiny_model), rows=0)


@pytest.mark.slow
def test_the_rows_of_a_run_are_those_of_its_trainer(tune: object, rows: list[dict[str, str]]) -> None:
    rows = [*rows, {"prompt": "x" * 300, "completion": "too late"}]
    session = tune(data=rows, max_steps=1, max_length=128, held_out=10)  # type: ignore[operator]
    session.wait(timeout=120)
    shown = jupyter_ft.preview(session, rows=50)
    before = jupyter_ft.preview(rows, str(session.recipe.model), max_length=128, held_out=10)
    assert shown.look.overview.cautions == before.look.overview.cautions
    assert shown.look.overview.lengths.tolist() == before.look.overview.lengths.tolist()
    held = {index + 1 for index in range(51) if before.look.rows.shown(index).state == "held out"}
    numbers = [shown.look.rows.shown(index).number for index in range(len(shown.look.rows))]
    assert numbers == [number for number in range(1, 51) if number not in held]
    for index, number in enumerate(numbers[:5]):
        assert shown.look.rows.shown(index).columns == before.look.rows.shown(number - 1).columns
    packed = tune("packed", max_steps=1, packing=True)  # type: ignore[operator]
    packed.wait(timeout=120)
    assert "[packed: 2 of " in repr(jupyter_ft.preview(packed, rows=1))


def test_a_classifiers_rows_have_their_label_and_no_share_of_trained_tokens(tiny_model: Path) -> None:
    rows = [{"text": f"film {n}", "label": "good" if n % 2 else "bad"} for n in range(8)]
    text = repr(jupyter_ft.preview(rows, str(tiny_model), method="classification", rows=2))
    assert "8 rows to train on, 48 tokens" in text
    assert "row 1 · 6 tokens · label 'bad'" in text
    assert "row 2 · 6 tokens · label 'good'" in text
    assert "trained" not in text


def test_the_two_answers_of_a_choice_are_not_said_to_differ(tiny_model: Path) -> None:
    rows = [{"prompt": f"Order {n}?", "chosen": "On its way.", "rejected": "No."} for n in range(4)]
    told = jupyter_ft.preview(rows, str(tiny_model), method="kto").look.overview
    assert told.rows == 8
    assert told.cautions == ()
    twice = [*rows, {"prompt": "Order 0?", "chosen": "Sent.", "rejected": "Never."}]
    [said] = jupyter_ft.preview(twice, str(tiny_model), method="kto").look.overview.cautions
    assert said == "2 rows with the prompt of an earlier one, answered otherwise (rows 1 and 5)"


def test_windows_of_one_document_that_repeat_are_not_that_document_again(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "manual.txt").write_text("0123456789abcde " * 40)
    told = jupyter_ft.preview(str(tmp_path / "manual.txt"), str(tiny_model), method="cpt", max_length=16).look.overview
    assert any("repeat an earlier one token by token (one of row 1, say)" in said for said in told.cautions), told
