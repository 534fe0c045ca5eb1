from __future__ import annotations

import subprocess
import sys

import pytest

from jupyter_ft.errors import RecipeError
from jupyter_ft.trainer_fields import check_trainer_fields, fields_of


def test_the_fields_read_from_source_are_those_of_the_class() -> None:
    import dataclasses

    from trl import SFTConfig

    assert fields_of("trl/trainer/sft_config.py", "SFTConfig") == {
        field.name for field in dataclasses.fields(SFTConfig)
    }


def test_a_field_that_is_not_there_is_named_with_the_nearest() -> None:
    check_trainer_fields("sft", {"adam_beta1": 0.8})
    with pytest.raises(
        RecipeError, match=r"trainer\.adam_beta: TRL's SFTConfig has no such field; did you mean 'adam_beta"
    ):
        check_trainer_fields("sft", {"adam_beta": 0.8})
    with pytest.raises(
        RecipeError, match=r"trainer\.lerning_rate is unknown; did you mean 'learning_rate'\? write it at"
    ):
        check_trainer_fields("sft", {"lerning_rate": 0.8})
    with pytest.raises(RecipeError, match=r"trainer\.zzzz: .*what it takes: help\(trl\.SFTConfig\)"):
        check_trainer_fields("sft", {"zzzz": 0.8})
    check_trainer_fields("reward", {"disable_dropout": False})
    with pytest.raises(RecipeError, match=r"trainer\.disable_dropout: transformers' TrainingArguments has no such"):
        check_trainer_fields("classification", {"disable_dropout": False})


def test_where_the_source_cannot_be_read_nothing_is_refused() -> None:
    assert fields_of("trl/trainer/nowhere.py", "SFTConfig") == frozenset()
    assert fields_of("no_such_package/a.py", "A") == frozenset()


@pytest.mark.slow
def test_it_is_found_before_torch() -> None:
    code = """
import sys, jupyter_ft
try:
    jupyter_ft.finetune("demo", [{"prompt": "a", "completion": "b"}], trainer={"adam_beta": 1})
except jupyter_ft.errors.RecipeError as error:
    print(error)
assert "torch" not in sys.modules
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trainer.adam_beta" in said.stdout
