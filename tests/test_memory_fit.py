"""Will it fit: the estimate stands above what a real step takes, by a tenth at most; a step leaves nothing behind."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jupyter_ft
from jupyter_ft.errors import ModelError, RecipeError, TrainingFailed
from jupyter_ft.memory.shape import read_shape
from jupyter_ft.session import start
from jupyter_ft.session.fits import fit_of

from .laws._runs import finish, losses

ADAPTER = {"kind": "lora", "r": 4}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": ADAPTER},
    "full": {"adapter": "full"},
    "dpo": {"adapter": ADAPTER, "method": "dpo"},
    "classification": {"adapter": ADAPTER, "method": "classification"},
}
GENERATED = {"method": "grpo", "num_generations": 4, "max_completion_length": 40, "batch_size": 4, "accumulation": 1}
MORE: dict[str, dict[str, Any]] = {
    "checkpointed": {"adapter": ADAPTER, "trainer": {"activation_checkpointing": True}},
    "accumulated": {"adapter": "full", "accumulation": 2},
    "few-targets": {"adapter": {"kind": "lora", "r": 4, "targets": ["q_proj", "v_proj"]}},
    "embedding": {"adapter": {"kind": "lora", "r": 4, "targets": ["embed_tokens", "q_proj"]}},
    "dropout": {"adapter": ADAPTER, "dropout": 0.1},
    "trl-head": {"adapter": ADAPTER, "loss_head": "trl"},
    "packed": {"adapter": ADAPTER, "packing": True, "max_length": 128},
    "raw-text": {"adapter": ADAPTER, "method": "cpt", "max_length": 64},
    "kto": {"adapter": ADAPTER, "method": "kto"},
    "reward": {"adapter": ADAPTER, "method": "reward"},
    "full-dpo": {"adapter": "full", "method": "dpo"},
    "full-classification": {"adapter": "full", "method": "classification"},
    "plain-adamw": {"adapter": "full", "trainer": {"optim": "adamw_torch"}},
    "half": {"adapter": ADAPTER, "dtype": "bfloat16"},
    "half-full": {"adapter": "full", "dtype": "bfloat16"},
    "grpo-full": GENERATED | {"adapter": "full"},
    "dora": {"adapter": {"kind": "dora", "r": 4}},
    "rloo": GENERATED | {"adapter": ADAPTER, "method": "rloo", "accumulation": 2},
}


@pytest.fixture(scope="session")
def middle_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Five layers of 160 with a head of their own over 1,000 tokens; three heads share a key."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model") / "middle"
    with torch.random.fork_rng(devices=[]):
        config = LlamaConfig(
            vocab_size=1000, hidden_size=192, intermediate_size=448, num_hidden_layers=5, num_attention_heads=6,
            num_key_value_heads=2, pad_token_id=0, eos_token_id=2, bos_token_id=1, tie_word_embeddings=False,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def data(method: str, length: int) -> list[dict[str, Any]]:
    """Rows of up to about `length` tokens (bytes are tokens), one of them shorter."""
    word, other = "w" * (length // 2), "v" * (length // 2)
    if method in ("dpo", "reward"):
        rows = [{"prompt": word, "chosen": other, "rejected": other[:-1]} for _ in range(5)]
    elif method == "kto":
        rows = [{"prompt": word, "completion": other, "label": number % 2 == 0} for number in range(6)]
    elif method == "classification":
        rows = [{"text": word + other, "label": "good" if number % 2 else "bad"} for number in range(6)]
    elif method == "cpt":
        rows = [{"text": word + other} for _ in range(6)]
    else:
        rows = [{"prompt": word, "completion": other} for _ in range(5)]
    key = "text" if "text" in rows[0] else "prompt"
    return [*rows, {**rows[0], key: rows[0][key][:-3]}]


def check(model: Path, length: int, batch: int, **recipe: Any) -> None:
    recipe = {"dtype": "float32", "batch_size": batch} | recipe
    if recipe.get("method") in ("grpo", "rloo"):
        recipe["rewards"] = nothing
    found = jupyter_ft.fits(str(model), data(recipe.get("method", "sft"), length), measure=True, **recipe).fit
    assert found.measured is not None
    assert not found.measured.failed
    assert 1.0 <= found.parts.training / found.measured.peak <= 1.10, found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_is_above_a_real_step_by_a_tenth_at_most(
    tiny_model: Path, middle_model: Path, method: str
) -> None:
    check(tiny_model, 40, 1, **METHODS[method])
    check(middle_model, 120, 3, **METHODS[method])


@pytest.mark.slow
def test_that_of_a_policy_counts_its_answers(middle_model: Path) -> None:
    recipe = GENERATED | {"adapter": ADAPTER}
    check(middle_model, 80, 4, **recipe)
    more = jupyter_ft.fits(str(middle_model), **recipe | {"rewards": nothing, "max_completion_length": 400}).fit
    less = jupyter_ft.fits(str(middle_model), **recipe).fit
    assert more.work.length - less.work.length == 360
    assert more.needs > less.needs


def nothing(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("length", [32, 250])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_so_with_short_rows_and_long_ones(
    tiny_model: Path, middle_model: Path, method: str, length: int, batch: int
) -> None:
    for model in (tiny_model, middle_model):
        check(model, length, batch, **METHODS[method])


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE)
def test_it_is_so_with_what_else_a_recipe_can_ask(middle_model: Path, case: str) -> None:
    check(middle_model, 120, 2, **MORE[case])


# --- before anything is loaded ----------------------------------------------------------------------------------------


@pytest.fixture
def seventy(tmp_path: Path) -> str:
    """The configuration of a Llama of 70 billion parameters, without its weights."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 131072, "tie_word_embeddings": False,
    }  # fmt: skip
    folder = tmp_path / "llama-70b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_the_weights_are_those_of_the_files(tiny_model: Path, middle_model: Path, seventy: str) -> None:
    import torch
    from safetensors.torch import load_file

    for model in (tiny_model, middle_model):
        shape, stored = read_shape(model), load_file(model / "model.safetensors")
        assert shape is not None
        assert shape.weights == sum(tensor.numel() for tensor in stored.values())
        assert len(shape.linears) == 7 * shape.layers
    alone = read_shape(Path(seventy))
    assert alone is not None
    assert alone.weights == 70_553_706_496
    assert torch.get_default_dtype() == torch.float32


def test_seventy_billion_on_a_card_of_80_gb_take_four_bits(seventy: str) -> None:
    found = jupyter_ft.fits(seventy, memory="80 GB").fit
    assert not found.fits
    assert found.parts.weights == pytest.approx(2 * 70_553_706_496, rel=1e-6)
    [change] = found.changes
    assert change.lines == ["quantization: nf4", "trainer: {activation_checkpointing: true}"]
    assert change.needs <= 80e9
    assert change.longest > 1024
    asked = {"max_length": change.longest, "trainer": {"activation_checkpointing": True}}
    longer = jupyter_ft.fits(seventy, memory="80 GB", **asked).fit
    assert longer.work.length == change.longest


@pytest.mark.parametrize(("card", "devices"), [("24 GB", 3), ("16GB", 4)])
def test_on_a_smaller_one_it_takes_several(seventy: str, card: str, devices: int) -> None:
    found = jupyter_ft.fits(seventy, memory=card)
    assert found.fit.changes == ()
    assert found.fit.cards == devices
    assert f"{devices} such devices would do" in repr(found)


def test_or_nothing(seventy: str) -> None:
    assert "nothing in a recipe would let it: take a smaller model" in repr(jupyter_ft.fits(seventy, memory="2 GB"))


def test_each_change_is_enough_and_the_recipe_takes_it(seventy: str) -> None:
    found = jupyter_ft.fits(seventy, memory="320 GB").fit
    assert [list(change.settings) for change in found.changes] == [
        ["batch_size", "accumulation"],
        ["trainer.activation_checkpointing"],
        ["trainer.activation_offloading"],
        ["max_length"],
    ]
    for change in found.changes:
        assert jupyter_ft.fits(seventy, memory="320 GB", **change.settings).fit.needs == change.needs <= 320e9


def test_what_is_not_known_is_said(tmp_path: Path, seventy: str, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"what no/such takes is not known: its config.json is not on this machine"):
        jupyter_ft.fits("no/such")
    with pytest.raises(RecipeError, match="memory = 'much': should be bytes, or a size like 80 GB"):
        jupyter_ft.fits(seventy, memory="much")
    with pytest.raises(RecipeError, match="unknown key 'lerning_rate'"):
        jupyter_ft.fits(seventy, lerning_rate=1)
    with pytest.raises(RecipeError, match="a step needs rows; give data"):
        jupyter_ft.fits(str(tiny_model), measure=True)


def test_a_card_is_escaped(tmp_path: Path, seventy: str) -> None:
    shown = jupyter_ft.fits(seventy, memory="80 GB", adapter={"kind": "lora", "targets": ["<b>"]})
    assert "<b>it does not fit" in shown._repr_html_()
    assert "&lt;" not in repr(shown)


def test_without_a_tokenizer_of_transformers_the_rows_are_not_taken_for_shorter(
    tiny_model: Path, rows: list[dict[str, str]]
) -> None:
    recipe = {"system": "Be brief.", "dtype": "float32"}
    for data in (
        rows,
        [{"messages": [{"role": "user", "content": "q" * 90}, {"role": "assistant", "content": "a" * 60}]}],
    ):
        planned = start.plan(str(tiny_model), data, recipe, to_start=False)
        exact, light = fit_of(planned).work, fit_of(planned, light=True).work
        assert exact.length <= light.length <= exact.length + 60


# --- nothing is left behind -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_measured_step_leaves_nothing_behind(
    tune: Any, tiny_model: Path, rows: list[dict[str, str]], runs: Path
) -> None:
    import torch

    alone, drawing = finish(tune("alone")), finish(tune("drawing", dropout=0.1))
    before = [path.name for path in runs.iterdir()]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    asked = {"dtype": "float32", "adapter": {"kind": "lora", "r": 4}, "batch_size": 4, "dropout": 0.1}
    again = tune("again")  # goes on meanwhile
    again.wait(step=1)
    assert jupyter_ft.fits(str(tiny_model), rows, measure=True, **asked)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    assert torch.get_default_dtype() == torch.float32
    assert finish(again) == alone
    assert finish(tune("after", dropout=0.1)) == drawing
    assert sorted([*before, "again", "after"]) == sorted(path.name for path in runs.iterdir())


def test_a_step_that_cannot_be_made_tells_why(tiny_model: Path, rows: list[dict[str, str]]) -> None:
    for _ in range(2):  # the turn was given back
        with pytest.raises(RecipeError, match="nonsense"):
            jupyter_ft.fits(str(tiny_model), rows, measure=True, dtype="float32", trainer={"optim": "nonsense"})


# --- at the start of a run --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_will_be_short_of_memory_says_so_and_what_to_press(
    tiny_model: Path, rows: list[dict[str, str]]
) -> None:
    recipe = {"dtype": "float32", "adapter": {"kind": "lora", "r": 4}, "batch_size": 8}
    smaller = jupyter_ft.fits(str(tiny_model), rows, **recipe | {"batch_size": 2, "accumulation": 4}).fit
    session = start._create("tight", start.plan(str(tiny_model), rows, recipe), start.NOTHING_AHEAD)
    session.launch(room=smaller.needs - smaller.parts.weights + 1000)
    session.wait(timeout=100)
    [health] = [event for event in session.events if event.kind == "health" and event.level == "amber"]
    assert "a step needs about" in health.said
    assert "it would fit with batch_size: 2 and accumulation: 4" in health.said
    assert health.advice[0].command == {"kind": "set", "changes": {"batch_size": 2, "accumulation": 4}}
    assert health.advice[0].cell == "%ft set tight batch_size=2 accumulation=4"
    assert session.health.level == "green"  # it did fit
    assert len(losses(session)) == 7


def test_a_run_whose_weights_do_not_fit_is_refused_before_they_are_read(
    seventy: str, rows: list[dict[str, str]]
) -> None:
    config = Path(seventy) / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 8192', '"hidden_size": 819200'))
    session = jupyter_ft.finetune(seventy, rows, "vast")
    with pytest.raises(TrainingFailed, match=r"does not fit: its weights take .* GB, cpu has .* GB free"):
        session.wait(timeout=100)
    assert session.state == "failed"
