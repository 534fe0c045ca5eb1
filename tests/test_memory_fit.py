"""Will it fit: the estimate stands above what a real step takes, by a tenth at most; a step leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import ModelError, RecipeError
from jupyter_ft.memory.parts import Work, parts
from jupyter_ft.memory.shape import read_shape

ADAPTER = {"kind": "lora", "r": 4}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": ADAPTER},
    "full": {"adapter": "full"},
    "dpo": {"adapter": ADAPTER, "method": "dpo"},
    "classification": {"adapter": ADAPTER, "method": "classification"},
}
MORE: dict[str, dict[str, Any]] = {
    "checkpointed": {"adapter": ADAPTER, "trainer": {"activation_checkpointing": True}},
    "accumulated": {"adapter": "full", "accumulation": 2},
    "few-targets": {"adapter": {"kind": "lora", "r": 4, "targets": ["q_proj", "v_proj"]}},
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
    found = jupyter_ft.fits(str(model), data(recipe.get("method", "sft"), length), measure=True, **recipe).fit
    assert found.measured is not None
    assert not found.measured.failed
    print(f"{found.parts.training / found.measured.peak:.4f}", found.parts, found.measured)
    assert 1.0 <= found.parts.training / found.measured.peak <= 1.10, found


@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_is_above_a_real_step_by_a_tenth_at_most(
    tiny_model: Path, middle_model: Path, method: str
) -> None:
    check(tiny_model, 40, 1, **METHODS[method])
    check(middle_model, 120, 3, **METHODS[method])


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
