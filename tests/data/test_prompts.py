"""Prompts to be answered: which columns make them up, what is passed on, and what TRL and people are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.data import load, render_prompts
from jupyter_ft.data.figures import TokenRows, measure
from jupyter_ft.data.prompts import rows_for_trainer
from jupyter_ft.errors import DataError

HI = {"role": "user", "content": "hi"}
YO = {"role": "assistant", "content": "yo"}
KIND = {"role": "system", "content": "Be kind."}


def prompts(rows: list[dict[str, Any]], columns: dict[str, str] | None = None) -> Any:
    return load(rows, columns or {}, method="grpo")


@pytest.mark.parametrize(
    ("row", "prompt", "passed", "plain"),
    [
        ({"prompt": "hi", "answer": 7}, [HI], {"answer": 7}, True),
        ({"Question": "hi", "level": None}, [HI], {"level": None}, True),
        ({"prompt": [KIND, HI], "answer": [1, 2]}, [KIND, HI], {"answer": [1, 2]}, False),
        ({"messages": [HI, YO], "id": "a"}, [HI], {"id": "a"}, False),
        ({"messages": [HI, YO, HI]}, [HI, YO, HI], {}, False),
        ({"prompt": "hi", "system": "Be kind.", "completion": "yo"}, [KIND, HI], {}, True),
        ({"question": "Who?", "context": "A tale."}, [{"role": "user", "content": "A tale.\n\nWho?"}], {}, True),
        ({"instruction": "Add.", "input": "1, 2"}, [{"role": "user", "content": "Add.\n\n1, 2"}], {}, True),
    ],
)
def test_columns_are_found_and_the_others_passed_on(row: Any, prompt: Any, passed: Any, plain: bool) -> None:
    assert [*prompts([row]).rows] == [{"prompt": prompt, "plain": plain, "columns": passed}]


def test_what_is_taken_and_left_away_is_said() -> None:
    examples = prompts([{"messages": [HI, YO], "answer": 1, "completions": "yo", "trainer_state": 0}])
    assert (
        examples.said
        == "1 conversation to answer from a list (messages = 'messages'; passed on to the rewards: 'answer')"
    )
    assert examples.notes == (
        "1 row: the last turn is an answer, which is left away: answers are generated",
        "the column 'completions' is left away: the answers are generated",
        "the column 'trainer_state' is left away: TRL has a meaning of its own for that name; rename it to pass it on",
    )


def test_what_asks_nothing_is_refused_and_others_point_here() -> None:
    for cell in ("", " ", None, [], [KIND], [YO]):
        with pytest.raises(DataError, match="a list, row 2: no prompt; fill it in or delete the row"):
            prompts([{"prompt": "hi"}, {"prompt": cell}])
    with pytest.raises(DataError, match="prompts without answers; method: grpo learns from rewards"):
        load([{"prompt": "hi"}], {}, method="dpo")
    with pytest.raises(DataError, match=r"write columns: \{prompt: …\}"):
        prompts([{"x": "hi"}])


def test_rows_for_the_trainer_hold_what_the_columns_held(chatml: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "answer": 7, "tags": ["a"]}, {"prompt": "x" * 90, "answer": None, "tags": []}]
    rows.append({"prompt": "ho", "answer": 1.5, "tags": {"b": 1}})
    rendered = render_prompts(prompts(rows), chatml, system="Be kind.", max_length=80, file=tmp_path / "tokens.arrow")
    given = rendered.rows.with_transform(rows_for_trainer)
    assert [given[at] for at in range(len(given))] == [
        {"prompt": [KIND, HI], "answer": 7, "tags": ["a"]},
        {"prompt": [KIND, {"role": "user", "content": "ho"}], "answer": 1.5, "tags": {"b": 1}},
    ]
    assert rendered.numbers.tolist() == [1, 3]
    assert rendered.said.startswith("2 rows, ")
    assert "the answers are generated, and those are what is trained; 1 row left out (row 2: " in rendered.said
    tokens = TokenRows(tmp_path / "tokens.arrow")
    trls = chatml.apply_chat_template(given[0]["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tokens[0]["prompt_ids"] == trls
    figures = measure(tokens, 80)
    assert (figures.tokens, figures.trained) == (rendered.tokens, 0)
    assert figures.lengths.tolist() == [len(trls)] * 2


def test_a_template_without_a_system_turn_and_none_at_all(strict: Any, plain: Any) -> None:
    examples = prompts([{"prompt": "hi"}])
    (row,) = render_prompts(examples, strict, system="Be kind.", max_length=80).rows
    assert json.loads(row["row"]) == {"prompt": [{"role": "user", "content": "Be kind.\n\nhi"}]}
    (row,) = render_prompts(examples, plain, system="Be kind.", max_length=80).rows
    assert json.loads(row["row"]) == {"prompt": "Be kind.\n\nhi"}
    assert row["prompt_ids"] == plain("Be kind.\n\nhi")["input_ids"]  # as TRL does
    with pytest.raises(
        DataError, match=r"no prompt of 1 can be answered \(row 1: \d+ tokens, more than max_length 8\)"
    ):
        render_prompts(examples, strict, system="Be kind.", max_length=8)


def test_a_look_says_that_answers_are_generated(tiny_model: Path) -> None:
    from jupyter_ft.session.preview import look_at

    rows = [{"prompt": f"Where is order {number % 5}?", "answer": number} for number in range(8)]
    look = look_at(rows, str(tiny_model), {"method": "grpo"})
    assert any("the answers are generated" in said for said in (*look.overview.said, *look.overview.cautions))
    assert look.overview.rows == 8
    assert look.overview.trained == 0
    (column,) = look.rows.shown(6).columns
    assert column.name == "prompt"
    assert "Where is order 1?" in "".join(piece.text for piece in column.pieces)
    assert look.rows.shown(6).note == ""
