"""A chat template that has no place for the answer: nothing could be learnt, and it is said, for every method."""

from __future__ import annotations

import pytest
from conftest import toy

from jupyter_ft.data import load, render, render_pairs, render_rated, render_whole_pairs
from jupyter_ft.errors import DataError

PAIRS = [{"prompt": "hi", "chosen": "yo", "rejected": "oy"}, {"prompt": "bye", "chosen": "ciao", "rejected": "a"}]
RATED = [{"prompt": "hi", "completion": "yo", "label": True}, {"prompt": "bye", "completion": "a", "label": False}]


@pytest.fixture(scope="module")
def mute():
    return toy(
        "{% for m in messages %}{% if m['role'] != 'assistant' %}<|im_start|>{{ m['content'] }}<|im_end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )


@pytest.mark.parametrize(
    ("rendered", "method", "rows", "why"),
    [
        (render, "sft", [{"prompt": "hi", "completion": "yo"}], "leaves the answer, or part of it, out"),
        (render_pairs, "dpo", PAIRS, "its two answers come out the same as the chat template writes them"),
        (render_whole_pairs, "reward", PAIRS, "its two answers come out the same as the chat template writes them"),
        (render_rated, "kto", RATED, "the chat template leaves its answer out"),
    ],
)
def test_a_template_without_an_answer_leaves_nothing_to_train(mute, rendered, method, rows, why) -> None:
    with pytest.raises(DataError, match=r"^[^\n]+$") as raised:
        rendered(load(rows, {}, method=method), mute, system=None, max_length=100)
    assert f"a list: no row of {len(rows)} can be trained (row 1: " in str(raised.value)
    assert why in str(raised.value)


def test_a_choice_that_the_template_makes_none_is_left_out(strict) -> None:
    thinks = {"prompt": "hi", "chosen": "<think>a</think>yo", "rejected": "<think>b</think>yo"}
    trims = toy(strict.chat_template.replace("{% if not loop.last %}", "{% if true %}"), adds_bos=True, eos="</s>")
    found = render_pairs(load([thinks, *PAIRS], {}, method="dpo"), trims, system=None, max_length=100)
    assert (len(found.rows), found.dropped) == (
        2,
        [(1, "its two answers come out the same as the chat template writes them")],
    )
