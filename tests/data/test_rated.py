"""Rated answers: what counts as good or bad, which columns make them up, and the rows that they become."""

from __future__ import annotations

from collections import Counter

import pytest

from jupyter_ft.data import load, render_rated
from jupyter_ft.errors import DataError

HI = {"role": "user", "content": "hi"}
YO = {"role": "assistant", "content": "yo"}


def rated(cells: list[object]) -> list[dict[str, object]]:
    return [{"prompt": "hi", "completion": "yo", "label": cell} for cell in cells]


def refusal(rows: object, method: str = "kto", columns: dict[str, str] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load(rows, columns or {}, method=method)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_ratings_in_many_words() -> None:
    good = [
        True,
        1,
        1.0,
        "1",
        "true",
        " Good ",
        "thumbs_up",
        "Thumbs-Up",
        "👍",
        "👍🏽",
        ":thumbsup:",
        "+1",
        "yes",
        "UP",
    ]
    bad = [False, 0, 0.0, -1, "0", "False", "bad", "thumbs down", "👎", ":thumbsdown:", "-1", "no", "dislike"]
    for cells, label in ((good, True), (bad, False)):
        for cell, row in zip(cells, load(rated(cells), {}, method="kto").rows, strict=True):
            assert row["label"] is label, cell


def test_what_is_neither_good_nor_bad_is_refused() -> None:
    fix = "write true or false, 1 or 0, good or bad, or up or down"
    assert refusal(rated([True, "so-so"])) == f"a list, row 2: 'so-so' as label; {fix}"
    assert refusal(rated([1, 3, 3])) == f"a list: '3' as label in 2 rows (first: row 2); {fix}"
    assert refusal(rated([True, None])) == "a list, row 2: no label; rate it or delete the row"
    assert refusal(rated([[1]])) == f"a list, row 1: a list as label; {fix}"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "hi", "answer": "yo", "Thumbs": 1},
        {"prompt": [HI], "completion": [YO], "label": True},
        {"prompt": [HI], "completion": "yo", "rating": "good"},
        {"messages": [HI, YO], "feedback": "👍"},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], "vote": "up"},
    ],
)
def test_columns_are_found_by_name(row: dict[str, object]) -> None:
    examples = load([row], {}, method="kto")
    assert [*examples.rows] == [{"prompt": [HI], "completion": "yo", "label": True}]
    assert examples.said.startswith("1 rated ")


def test_columns_that_are_mapped_and_a_system_turn() -> None:
    row = {"ask": "hi", "say": "yo", "ok": "no", "system": "Be kind."}
    examples = load([row], {"prompt": "ask", "completion": "say", "label": "ok"}, method="kto")
    assert examples.rows[0]["prompt"] == [{"role": "system", "content": "Be kind."}, HI]
    assert examples.rows[0]["label"] is False


def test_rows_that_are_not_rated_or_for_another_method() -> None:
    pair = {"prompt": "hi", "completion": "yo"}
    assert refusal([pair]).startswith(
        "a list holds prompts with answers; method: supervised learns from them, or for kto write columns: "
        "{prompt: …, completion: …, label: …}"
    )
    assert "holds rated answers; method: kto learns from them" in refusal([pair | {"label": 1}], "dpo")
    assert "holds texts; method: self-supervised learns" in refusal([{"text": "a"}])
    assert "a last turn that is no answer" in refusal([{"messages": [HI, YO, HI], "label": 1}])
    assert "no prompt" in refusal([{"messages": [YO], "label": 1}])
    assert "more than one" not in refusal([{"prompt": "hi", "completion": "", "label": 1}])
    assert load([pair | {"label": 0}], {}, method="sft").format == "prompt-completion"


def rendered(rows: object, tokenizer: object, **more: object):
    asked = {"system": None, "max_length": 200} | more
    return render_rated(load(rows, {}, method="kto"), tokenizer, **asked)


def test_an_answer_is_apart_from_its_prompt(chatml) -> None:
    made = rendered(rated([True, False]), chatml, system="Be brief.")
    row = made.rows[1]
    assert chatml.decode(row["prompt_ids"]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chatml.decode(row["completion_ids"]) == "yo<|im_end|>\n"
    assert [row["label"] for row in made.rows] == [True, False]
    assert made.said == "2 rows, 1 good and 1 bad, 88 tokens, 8 of them trained (the answers alone)"


def test_without_a_template_prompt_and_answer_are_joined(plain) -> None:
    (row,) = rendered(rated([1]), plain).rows
    assert (plain.decode(row["prompt_ids"]), plain.decode(row["completion_ids"])) == ("<s>hi", "yo</s>")


def test_rows_on_disk_are_those_in_memory(chatml, tmp_path) -> None:
    rows = rated([1, 0, 1, 1])
    made = rendered(rows, chatml, file=tmp_path / "tokens.arrow")
    assert made.rows.to_list() == rendered(rows, chatml).rows
    assert made.rows.features["label"].dtype == "bool"


def test_rows_whose_answer_is_cut_off_are_told(chatml) -> None:
    rows = [*rated([1, 0]), {"prompt": "hi" * 60, "completion": "yo", "label": 1}]
    made = rendered(rows, chatml, max_length=95)
    assert made.dropped == [(3, "its answer begins beyond max_length 95 (157 tokens)")]
    assert list(made.numbers) == [1, 2]
    assert "1 row left out (row 3: " in made.said
    with pytest.raises(DataError, match=r"no row of 2 can be trained \(row 1: its answer begins beyond max_length 9 "):
        rendered(rows[:2], chatml, max_length=9)


def test_a_choice_is_two_rows_and_its_answers_are_no_neighbours(chatml) -> None:
    pairs = [{"prompt": f"q{n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(8)]
    made = rendered(pairs, chatml)
    assert made.said.startswith("each choice made into two rated answers: 16 rows, 8 good and 8 bad, ")
    answers = [chatml.decode(row["completion_ids"]) for row in made.rows]
    wanted = [f"{word} {n}<|im_end|>\n" for n in range(8) for word in ("yes", "no")]
    assert Counter(answers) == Counter(wanted)
    for row, answer, number in zip(made.rows, answers, made.numbers, strict=True):
        assert row["label"] is answer.startswith("yes")
        assert f"q{number - 1}<" in chatml.decode(row["prompt_ids"])
        assert answer.split("<")[0].endswith(f" {number - 1}")
    assert [row["label"] for row in made.rows] == [True, False] * 8
    for start in range(0, 16, 4):
        assert len(set(made.numbers[start : start + 4])) == 4


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        (30, 10, "for 30 to 10 the paper (equation 8) has undesirable_weight 2.25 to 3, "),
        (10, 30, "or else desirable_weight 3 to 4"),
        (40, 30, None),
        (30, 30, None),
        (30, 0, "no row is bad, and kto learns from the difference"),
    ],
)
def test_weights_are_recommended_where_the_labels_are_unbalanced(chatml, good, bad, said) -> None:
    cells = [1] * good + [0] * bad
    mixed = [cells[at * 37 % len(cells)] for at in range(len(cells))]  # 37 shares no factor with their number
    made = rendered(rated(mixed), chatml)
    assert f"{good} good and {bad} bad" in made.said
    assert said in made.said if said else "equation" not in made.said
    assert "stand apart" not in made.said


def test_labels_that_stand_apart_are_told(chatml) -> None:
    assert "trainer: {train_sampling_strategy: random} mixes them" in rendered(rated([1] * 20 + [0] * 20), chatml).said
    assert "stand apart" not in rendered(rated([1, 0]), chatml).said
