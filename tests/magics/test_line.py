"""The first line: quotes, options, pairs, tokens."""

from __future__ import annotations

import pytest

from jupyter_ft.errors import RecipeError
from jupyter_ft.magics.finetune import GRAMMAR
from jupyter_ft.magics.line import parse, split, wants_help


def test_everything_in_any_order() -> None:
    line = parse(split('lr=2e-4 --model "my model" support --data=tickets.csv --resume seed=7'), GRAMMAR)
    assert line.words == ["support"]
    assert line.options == {"--model": "my model", "--data": "tickets.csv"}
    assert line.switches == {"--resume"}
    assert line.pairs == {"lr": 2e-4, "seed": 7}


def test_backslashes_and_quotes() -> None:
    assert split(r"s --data C:\new\tickets.csv 'a b' " + r'"C:\x y\\z"') == [
        *("s", "--data", r"C:\new\tickets.csv", "a b", r"C:\x y\\z")
    ]
    assert split("a # b") == ["a", "#", "b"]
    assert wants_help(split("support --model x -h"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("s 'open", "a quote is not closed"),
        ("s --modle x", "unknown option '--modle'; did you mean '--model'?"),
        ("s -model x", "did you mean '--model'?"),
        ("s --zzz", "there are: --model, --data"),
        ("s --lr 1e-4", "unknown option '--lr'; 'lr' is a key: write lr=1e-4 on this line, or below it lr: 1e-4"),
        ("s --learning-rate=1e-4", "write learning_rate=1e-4 on this line"),
        ("s --lerning_rate 1e-4 --wait", "write learning_rate=1e-4 on this line"),
        ("s --packing --wait", "write packing=… on this line"),
        ("s --model", "--model needs a value"),
        ("s --model --data x", "--model needs a value"),
        ("s --wait=yes", "--wait takes no value"),
        ("s --wait --wait", "--wait is given twice"),
        ("s seed=1 seed=2", "seed= is given twice"),
        ("s t", "'t' is one word too many"),
        ("--model demo", "usage: %%finetune NAME"),
        ("s hf_abcdefghijklmnop", "huggingface-cli login"),
        ("s token=hf_abcdefghijklmnop", "huggingface-cli login"),
        ("s hub_token=x", "huggingface-cli login"),
        ("s --token x", "huggingface-cli login"),
        ("s --model=org/hf_abcdefghijklmnop", "huggingface-cli login"),
    ],
)
def test_refused(line: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(split(line), GRAMMAR)
    assert said in str(caught.value)
    assert "hf_abc" not in str(caught.value)


def test_a_step_is_a_whole_number() -> None:
    from jupyter_ft.magics.verbs import VERBS

    assert parse(["--step", "6"], VERBS["set"].grammar).whole_number("--step") == 6
    for bad in ("0", "-3", "1.5", "six"):
        with pytest.raises(RecipeError, match="whole number from 1"):
            parse(["--step", bad], VERBS["set"].grammar).whole_number("--step")
