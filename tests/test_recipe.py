"""Recipes: what is wrong is said in one line, with the nearest right name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jupyter_ft.errors import RecipeError
from jupyter_ft.hyperparameters import Hyperparameters, SftHyperparameters
from jupyter_ft.recipe import change, controls, parse_recipe

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"learing_rate": 1e-4}, "did you mean 'learning_rate'"),
    ({"learning_rate": math.nan}, "learning_rate = nan: should be a finite number"),
    ({"learning_rate": math.inf}, "learning_rate = inf"),
    ({"learning_rate": -1e-4}, "learning_rate = -0.0001: should be greater than 0"),
    ({"learning_rate": "fast"}, "learning_rate = 'fast': should be a valid number"),
    ({"batch_size": 0}, "batch_size = 0: should be greater than or equal to 1"),
    ({"batch_size": True}, "batch_size"),
    ({"batch_size": 2.5}, "batch_size = 2.5"),
    ({"epochs": 0}, "epochs = 0"),
    ({"max_steps": 0}, "max_steps = 0"),
    ({"max_steps": 10**12}, "max_steps = 1000000000000"),
    ({"schedule": "cosin"}, "should be 'linear', 'cosine' or 'constant'; did you mean 'cosine'?"),
    ({"method": "dpoo"}, "method = 'dpoo'"),
    ({"adapter": "loro"}, "adapter.kind = 'loro'"),
    ({"adapter": {"rnak": 8}}, "unknown key 'adapter.rnak'"),
    ({"adapter.alhpa": 8}, "did you mean 'alpha'"),
    ({"columns": "prompt"}, "columns = 'prompt': should be a mapping of our column names to yours, like {prompt: "),
    (
        {"columns": {"prompt:Foo": None}},
        "columns.prompt:Foo = None: should be text; put a space after the colon: prompt: Foo",
    ),
    ({"adapter": {"r:16": None}}, "unknown key 'adapter.r:16'; put a space after the colon: r: 16"),
    ({"columns": {"prompt": 5}}, 'columns.prompt = 5: should be text; put it in quotes: prompt: "5"'),
    ({"adapter": 5}, "adapter = 5: should be lora, qlora, rslora, dora, full, or a mapping like {kind: lora, r: 16}"),
    ({"adapter": "qlorra"}, "should be 'lora', 'rslora', 'dora' or 'full'; did you mean 'qlora'?"),
    ({"adapter": "full", "quantization": "nf4"}, "full weights are trained in float32; take adapter: lora"),
    ({"adapter": "qlora", "quantization": "8bit"}, "with quantization: 8bit write adapter: lora"),
    ({"adapter": {"kind": "qlora", "r": 8}, "quantization": "none"}, "qlora is lora over a 4-bit base"),
    ({"quantization": "nf5"}, "quantization = 'nf5': should be 'none', 'nf4' or 'int8'; did you mean 'nf4'?"),
    ({"quantization": True}, "quantization = True: should be 'none', 'nf4' or 'int8'"),
    ({"adapter": "dora", "quantization": 8}, "would lose the scales of its rows; take quantization: nf4"),
    ({"load_in_4bit": True}, "write quantization: nf4"),
    ({"use_dora": True}, "write adapter: dora"),
    ({"adapter": {"targets": 5}}, "adapter.targets = 5: should be text or a list"),
    ({"adapter": {"zzz": 5}}, "unknown key 'adapter.zzz'; there are: kind, r, targets, alpha, dropout"),
    ({"trainer": 5}, "trainer = 5: should be a mapping of TRL's own settings, like {optim: "),
    ({"revision": 3}, 'revision = 3: should be text; put it in quotes: revision: "3"'),
    ({"held_out": [1]}, "held_out = [1]: should be a valid number or text"),
    ({"seed": "many"}, "seed = 'many': should be a whole number"),
    ({"packing": 7}, "packing = 7: should be true or false"),
    ({"zzzz": 1}, "unknown key 'zzzz'; there are: method, model, "),
    ({"method": "superviced"}, "method = 'superviced': should be 'sft', 'dpo', 'kto', 'cpt'"),
    ({"dtype": "float8"}, "dtype = 'float8'"),
    ({"trainer": {"learning_rate": 1}}, "trainer.learning_rate: write it as learning_rate"),
    ({"trainer": {"num_train_epochs": 1}}, "write it as epochs"),
    ({"trainer": {"packing": True}}, "write it as packing, at the top level"),
    ({"trainer": {"output_dir": "x"}}, "the session's own"),
    ({"method": "dpo", "trainer": {"sync_ref_model": True}}, "the session's own"),
    ({"method": "kto", "trainer": {"precompute_ref_log_probs": True}}, "the session's own"),
    ({"early_stopping_patience": 3}, "add held_out: 10%"),
    ({"held_out": "150%"}, "a share like 0.1 or 10%"),
    ({"held_out": "200%"}, "a share like 0.1 or 10%"),
    ({"held_out": "100 %"}, "a share like 0.1 or 10%"),
    ({"held_out": True}, "a share like 0.1 or 10%"),
    ({"adapter": {"kind": "full", "alpha": 8}}, "belong to a LoRA adapter"),
    ({"method": "sentiment", "packing": True}, "rows of the method classification are not packed"),
    ({"method": "classify", "system": "Be kind."}, "a text is classified as it is; leave system out"),
    ({"method": "reward", "label_smoothing": 0.1}, "unknown key 'label_smoothing'"),
    ({"method": "reward", "center_rewards_coefficient": 2}, "center_rewards_coefficient = 2"),
    ({"method": "reward", "trainer": {"center_rewards_coefficient": 0.1}}, "at the top level"),
    ({"method": "classification", "trainer": {"label_smoothing_factor": 0.1}}, "write it as label_smoothing"),
    ({"adapter": {"alpha": 8}, "alpha": 9}, "the same setting"),
    ({"trainer": {"optim": "adamw_torch_8bit"}}, "one whose state can be saved exactly: adamw_torch, "),
    ({"optim": "adamw_8bits"}, "did you mean 'adamw_8bit'?"),
    ({"optim": "sgd", "trainer": {"optim": "adamw"}}, "the same setting"),
    ({"optim": "galore_adamw"}, "should be one whose state can be saved exactly"),
    ({"lr": 1e-4, "learning_rate": 1e-3}, "the same setting"),
]


@pytest.mark.parametrize(("asked", "said"), WRONG)
def test_what_is_wrong_is_one_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fields_names_and_their_aliases_mean_the_same() -> None:
    ours = {"learning_rate": 1e-3, "batch_size": 4, "accumulation": 2, "epochs": 3, "adapter": {"r": 8, "alpha": 16}}
    theirs = {
        "lr": 1e-3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 3,
        "lora_r": 8,
        "lora_alpha": 16,
    }
    assert parse_recipe(ours) == parse_recipe(theirs)
    assert parse_recipe({"adapter": "lora", "adapter.r": 8}) == parse_recipe({"adapter": {"rank": 8}})
    assert parse_recipe({"method": "supervised"}) == parse_recipe({})
    assert parse_recipe({"adapter": "qlora"}) == parse_recipe({"adapter": "lora", "quantization": "4bit"})
    assert parse_recipe({"adapter": {"kind": "qlora", "r": 8}}) == parse_recipe({"r": 8, "quantization": "nf4"})
    assert parse_recipe({"quantization": None}) == parse_recipe({"quantization": "none"}) == parse_recipe({})
    assert parse_recipe({"optim": "adamw_8bit"}) == parse_recipe({"trainer": {"optim": "adamw_bnb_8bit"}})


def test_a_recipe_is_frozen_and_an_edit_is_checked() -> None:
    recipe = parse_recipe({})
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1  # type: ignore[misc]
    assert change(recipe.hyperparameters, {"lr": 1e-5}).learning_rate == 1e-5
    for changes, said in (
        ({"model": "x"}, "fixed"),
        ({"adapter.r": 3}, "fixed"),
        ({"lrr": 3}, "unknown"),
        ({"zzzz": 3}, "there are: learning_rate, schedule, "),
        ({"lr": 0}, ">"),
    ):
        with pytest.raises(RecipeError, match=said.replace(">", "greater")):
            change(recipe.hyperparameters, changes)


def test_every_live_field_says_what_it_is() -> None:
    fields = controls(SftHyperparameters())
    assert [field["name"] for field in fields] == list(Hyperparameters.model_fields)
    for field in fields:
        assert field["help"]
        assert field["type"] in ("number", "integer", "choice")
        assert field["type"] != "choice" or field["choices"]


def test_a_run_has_the_controls_of_what_it_trains() -> None:
    plain = parse_recipe({})
    full = parse_recipe({"adapter": "full", "held_out": 0.1})

    def names(recipe: Any) -> set[Any]:
        return {field["name"] for field in controls(recipe.hyperparameters, recipe)}

    assert names(plain) - names(full) == {"alpha", "dropout"}
    assert names(full) - names(plain) == {"eval_steps", "early_stopping_patience"}


def test_methods_that_score_have_defaults_of_their_own() -> None:
    classify = parse_recipe({"method": "sentiment"})
    assert (classify.method, classify.hyperparameters.epochs, classify.hyperparameters.learning_rate) == (
        "classification",
        3.0,
        2e-4,
    )
    assert parse_recipe({"method": "classify", "adapter": "full"}).hyperparameters.learning_rate == 2e-5
    full = {"method": "reward-model", "adapter": {"kind": "full"}}
    assert parse_recipe(full).hyperparameters.learning_rate == 1e-5
    assert parse_recipe({**full, "lr": 3e-4}).hyperparameters.learning_rate == 3e-4
    assert parse_recipe({"adapter": "full"}).hyperparameters.learning_rate == 2e-4
