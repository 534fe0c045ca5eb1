from __future__ import annotations

import math
from typing import Any

import pytest

from jupyter_ft.data import Examples, load, load_rows, save_rows
from jupyter_ft.errors import DataError

HI = {"role": "user", "content": "hi"}
YO = {"role": "assistant", "content": "yo"}


def refusal(rows: object, columns: dict[str, str] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load(rows, columns or {})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("row", "format", "said"),
    [
        ({"Prompt": "a", "COMPLETION": "b"}, "prompt-completion", "(prompt = 'Prompt', completion = 'COMPLETION')"),
        (
            {"question": "a", "answer": "b", "id": 3},
            "prompt-completion",
            "(prompt = 'question', completion = 'answer')",
        ),
        (
            {"user_message": "a", "Agent reply": "b"},
            "prompt-completion",
            "(prompt = 'user_message', completion = 'Agent",
        ),
        (
            {"prompt": "a", "question": "x", "response": "b"},
            "prompt-completion",
            "(prompt = 'prompt', completion = 'resp",
        ),
        (
            {"prompt": "a", "completion": "b", "text": "c"},
            "prompt-completion",
            "(prompt = 'prompt', completion = 'compl",
        ),
        ({"conversations": [HI, YO], "id": 1}, "messages", "(messages = 'conversations')"),
        ({"prompt": "a", "messages": [HI, YO]}, "messages", "(messages = 'messages')"),
        ({"body": "a", "title": "b"}, "text", "(text = 'body')"),
    ],
)
def test_columns_are_found_by_name_and_said_aloud(row, format, said):  # noqa: A002
    examples = load([row], {})
    assert examples.format == format
    assert examples.said.startswith("1 ")
    assert said in examples.said


def test_a_mapping_wins_and_the_rest_is_found():
    rows = [{"Customer message": "a", "completion": "b", "prompt": "c"}] * 1050
    examples = load(rows, {"prompt": "Customer message"})
    assert examples.rows[0] == {"prompt": "a", "completion": "b"}
    assert examples.said == (
        "1,050 prompt–completion rows from a list (prompt = 'Customer message', completion = 'completion')"
    )
    assert examples.notes == ("1,049 rows: the same as an earlier row (kept)",)
    assert len(examples.rows) == 1050


def test_a_missing_column_names_the_nearest_and_all():
    row = {"Customer message": "a", "Agent reply": "b"}
    assert refusal([row], {"prompt": "Customer mesage"}) == (
        "a list has no column 'Customer mesage'; did you mean 'Customer message'? "
        "(columns: 'Customer message', 'Agent reply')"
    )
    assert "did you mean 'Agent reply'?" in refusal([row], {"completion": "AGENT REPLY"})
    assert "did you mean 'ANTWORT'?" in refusal([{"ANTWORT": "a"}], {"completion": "antwrt"})
    assert "; name one that is there (columns: 'ANTWORT')" in refusal([{"ANTWORT": "a"}], {"completion": "zzz"})
    assert "'promt' is none of our names; did you mean 'prompt'?" in refusal([row], {"promt": "Agent reply"})


def test_columns_that_cannot_be_told():
    assert refusal([{"a": "1", "b": "2"}]) == (
        "a list: no column is known by its name; write columns: {prompt: …, completion: …} or {text: …} "
        "(columns: 'a', 'b')"
    )
    message = refusal([{"instruction": "1", "query": "2", "output": "3"}])
    assert "'instruction' and 'query' could each be the prompt" in message
    assert "columns: {prompt: instruction, completion: output}" in message
    assert "both messages and prompt–completion" in refusal([{"messages": [HI, YO], "prompt": "a", "completion": "b"}])
    assert "no column is mapped to completion" in refusal([{"a": "1", "b": "2"}], {"prompt": "a"})
    assert "different formats" in refusal([{"a": "1", "b": "2"}], {"prompt": "a", "text": "b"})


def test_empty_cells_name_the_first_row_and_their_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\nc,\nd, \ne\n,f\n")
    assert refusal(path) == "a.csv: no completion in 3 rows (first: line 3); fill it in or delete the row"
    rows = [{"prompt": "a", "completion": "b"}] * 4
    assert refusal([*rows, {"prompt": "c"}]) == "a list, row 5: no completion; fill it in or delete the row"
    assert refusal([*rows, {"prompt": None, "completion": "x"}]).startswith("a list, row 5: no prompt")
    assert refusal([{"text": None}, {"text": ""}]).startswith("a list: no text in 2 rows (first: row 1)")


def test_cells_that_are_no_text():
    rows = [{"prompt": "how many?", "completion": 3}, {"prompt": 4.5, "completion": "x"}]
    examples = load(rows, {})
    assert [row["completion"] for row in examples.rows] == ["3", "x"]
    assert "1 row: a number in completion was turned into text" in examples.notes
    for cell, word in (({}, "an object"), ([HI], "a list"), (True, "a bool"), (math.nan, "nan"), (math.inf, "inf")):
        assert refusal([*rows, {"prompt": cell, "completion": "x"}]).startswith(f"a list, row 3: {word} as prompt; ")


def test_a_system_column_precedes_its_row():
    examples = load([{"system": "Be brief.", "prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}], {})
    assert examples.rows == [
        {"system": "Be brief.", "prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": "d"},
    ]
    chats = load([{"system_prompt": "Be brief.", "messages": [HI, YO]}], {})
    assert chats.rows[0]["messages"] == [{"role": "system", "content": "Be brief."}, HI, YO]


def test_sharegpt_is_understood():
    turns = [{"from": "human", "value": "hi", "weight": None}, {"from": "gpt", "value": "yo", "weight": 1}]
    examples = load([{"conversations": turns}], {})
    assert examples.rows == [{"messages": [HI, YO]}]
    assert examples.notes == ("1 row: message keys that are not used: weight",)


def test_roles_that_few_name_so_are_taken_and_said():
    turns = [
        {"from": "system", "value": "s"},
        {"from": "Human", "value": "hi"},
        {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "3"},
        {"from": "bot", "value": "yo"},
    ]
    examples = load([{"conversations": turns}, {"conversations": [*turns[:2], {"from": "gpt", "value": "yo"}]}], {})
    assert [turn["role"] for turn in examples.rows[0]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert examples.notes == (
        "1 row: turns of 'bot' are taken for the assistant's",
        "1 row: turns of 'function_call' are taken for the assistant's",
        "1 row: turns of 'observation' are taken for the tool's",
    )


SQUAD = {"id": "1", "title": "t", "context": "Paris is in France.", "question": "Where is Paris?"}


def test_a_context_precedes_the_question_and_the_first_of_several_answers_is_taken():
    rows = [
        {**SQUAD, "answers": {"text": ["France", "in France"], "answer_start": [12, 9]}},
        {**SQUAD, "context": "", "answers": {"text": ["France"], "answer_start": [12]}},
    ]
    examples = load(rows, {})
    assert list(examples.rows) == [
        {
            "prompt": "Paris is in France.\n\nWhere is Paris?",
            "completion": "France",
            "answers": ["France", "in France"],
        },
        {"prompt": "Where is Paris?", "completion": "France"},
    ]
    assert "(prompt = 'context' + 'question', completion = 'answers')" in examples.said
    assert examples.notes == ("1 row: of several answers the first is taken",)
    listed = load([{"question": "a", "Passage": "p", "answer": ["b", "c"]}], {})
    assert list(listed.rows) == [{"prompt": "p\n\na", "completion": "b", "answers": ["b", "c"]}]
    mapped = load([{"q": "a", "about": "p", "a": "b"}], {"prompt": "q", "completion": "a", "context": "about"})
    assert list(mapped.rows) == [{"prompt": "p\n\na", "completion": "b"}]
    none = refusal([{**SQUAD, "answers": {"text": [], "answer_start": []}}])
    assert none == (
        "a list, row 1: no answer in the list of answers; write one, or delete the row: what has none teaches nothing"
    )


def test_a_conversation_that_ends_without_an_answer_is_noted():
    examples = load([{"messages": [HI, YO, HI]}], {})
    assert examples.notes == ("1 row: the last turn is no answer, so it is not trained",)


ROLES = "use one of system, user, assistant, tool"
FILL = "fill it in or delete the row"
BAD_MESSAGES = [
    ([{"role": "hacker", "content": "x"}, YO], f", turn 1: unknown role 'hacker'; {ROLES}"),
    (
        [HI, {"role": "asistant", "content": "x"}],
        f", turn 2: unknown role 'asistant'; {ROLES}; did you mean 'assistant'?",
    ),
    ([HI, {"role": "assistant", "content": None}], f", turn 2: no content (assistant); {FILL}"),
    ([{"role": "user", "content": ""}, YO], f", turn 1: no content (user); {FILL}"),
    ([HI, {"role": "assistant", "content": [HI]}], ", turn 2: a list as content (assistant); write it as text"),
    ([{"content": "x"}, YO], ", turn 1: no role; add one of system, user, assistant, tool"),
    (["hi", YO], ", turn 1: a text as a turn; write each turn as {role, content}"),
    ([HI, HI], ": no turn by the assistant, so nothing to learn; add an answer or delete the row"),
    ([], ": no messages; fill them in or delete the row"),
    (None, ": no messages; fill them in or delete the row"),
    ("hi", ": a text as messages; write a list of {role, content}"),
]


@pytest.mark.parametrize(("messages", "expected"), BAD_MESSAGES)
def test_conversations_that_cannot_be_used(messages, expected):
    good = {"messages": [HI, YO]}
    assert refusal([good, {"messages": messages}]) == f"a list, row 2{expected}"


def test_many_bad_conversations_are_counted():
    bad = {"messages": [{"role": "hacker", "content": "x"}, YO]}
    assert "unknown role 'hacker' in 2 rows (first: row 1, turn 1); use one of" in refusal([bad, bad])


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "a\u2028b 🙂", "completion": "c\nd"}, {"prompt": "a", "completion": 7}],
        [{"messages": [HI, YO, HI]}],
        [{"text": "x"}, {"text": "x"}],
    ],
)
def test_saved_rows_come_back_exactly(tmp_path, rows):
    examples = load(rows, {})
    save_rows(examples, tmp_path / "rows.jsonl")
    assert load_rows(tmp_path / "rows.jsonl") == examples
    assert isinstance(load_rows(str(tmp_path / "rows.jsonl")), Examples)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_saved_rows_that_are_not_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    save_rows(load([{"text": "a"}, {"text": "b"}], {}), path)
    whole = path.read_text()
    for content, expected in (
        (whole.rsplit("\n", 2)[0], "is cut short"),
        (whole[:-5], "does not hold rows"),
        ("{}\n", "does not hold rows"),
        ("", "does not hold rows"),
        (whole.replace('"jupyter_ft_rows": 1', '"jupyter_ft_rows": 2'), "another version"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=expected) as caught:
            load_rows(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be opened"):
        load_rows(tmp_path / "none.jsonl")


# --- choices between two answers --------------------------------------------------------------------------------------

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Hello."), ("assistant", "No."))
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."},
        {"Question": "Hi", "preferred": "Hello.", "dispreferred": "No."},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
    ids=["texts", "synonyms", "turns", "implicit prompt"],
)
def test_choices_come_in_several_layouts(row: dict[str, Any]) -> None:
    examples = load([row, row], {}, method="dpo")
    assert examples.format == "preference"
    assert examples.rows[1] == {"prompt": [USER], "chosen": "Hello.", "rejected": "No."}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "Hello.", "rejected": "No."}, "no prompt; add a column with what was asked"),
        ({"prompt": "Hi", "chosen": "Same.", "rejected": "Same."}, "the same answer as chosen and rejected"),
        ({"prompt": "Hi", "chosen": "Hello.", "rejected": " "}, "no rejected; fill it in or delete the row"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "a int as prompt"),
        (
            {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, BAD]},
            "more than one answer as chosen; let the two conversations differ in the last answer alone",
        ),
        (
            {"prompt": "Hi", "completion": "Hello."},
            "a list holds prompts with answers; method: supervised learns from them, or for dpo write columns: {",
        ),
    ],
)
def test_choices_that_cannot_be_used_are_said(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        load([row], {}, method="dpo")
    assert said in str(caught.value)


def test_choices_given_to_sft_name_the_method() -> None:
    with pytest.raises(DataError, match="method: dpo learns from them"):
        load([{"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}], {})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Hi", "completion": "No.", "label": False}, "the column 'label' is not used; method: kto"),
        ({"text": "lovely", "sentiment": "good"}, "the column 'sentiment' is not used; method: classification"),
    ],
)
def test_labels_that_supervised_tuning_passes_over_are_said(row: dict[str, Any], said: str) -> None:
    assert any(note.startswith(said) for note in load([row], {}).notes)
    assert not any("is not used" in note for note in load([{"prompt": "Hi", "completion": "Yes."}], {}).notes)
