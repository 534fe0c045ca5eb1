"""The estimate for an encoder stands above what a real step takes, by a tenth at most, whatever head it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jupyter_ft

LORA: dict[str, Any] = {"adapter": {"kind": "lora", "r": 4}}
FULL: dict[str, Any] = {"adapter": "full"}
MORE: dict[str, dict[str, Any]] = {
    "accumulated": FULL | {"accumulation": 2},
    "checkpointed": LORA | {"trainer": {"activation_checkpointing": True}},
    "few-targets": {"adapter": {"kind": "lora", "r": 4, "targets": ["query", "value"]}},
    "dora": {"adapter": {"kind": "dora", "r": 4}},
    "dropout": LORA | {"dropout": 0.1},
    "half": LORA | {"dtype": "bfloat16"},
    "half-full": FULL | {"dtype": "bfloat16"},
    "plain-adamw": FULL | {"trainer": {"optim": "adamw_torch"}},
    "classification": LORA | {"method": "classification"},
    "full-classification": FULL | {"method": "classification"},
    "reward": LORA | {"method": "reward"},
    "full-reward": FULL | {"method": "reward"},
}


def _model(folder: Path, kind: str, **settings: Any) -> Path:
    """A random encoder that guesses masked tokens; bytes are its tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

    named = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({t: n for n, t in enumerate([*named.values(), *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    return folder


MIDDLE: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 5, "num_attention_heads": 6,
    "max_position_embeddings": 512,
}  # fmt: skip


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the dropout of attention that BERT is published with."""
    return _model(tmp_path_factory.mktemp("model") / "bert", "bert", **MIDDLE)


@pytest.fixture(scope="session")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without any dropout, and RoBERTa's head and places."""
    folder = tmp_path_factory.mktemp("model") / "even"
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}
    return _model(folder, "roberta", **MIDDLE | none)


def _data(method: str, length: int) -> list[dict[str, Any]]:
    """Rows of about `length` tokens, one of them shorter."""
    word = "w" * (length // 2)
    if method == "reward":
        rows = [{"prompt": word, "chosen": "v" * (length // 2), "rejected": "v" * (length // 2 - 1)} for _ in range(6)]
    elif method == "classification":
        rows = [{"text": 2 * word, "label": "good" if number % 2 else "bad"} for number in range(6)]
    else:
        rows = [{"text": 2 * word} for _ in range(6)]
    key = "prompt" if "prompt" in rows[0] else "text"
    return [*rows, {**rows[0], key: rows[0][key][:-3]}]


def _check(model: Path, length: int, batch: int, **recipe: Any) -> None:
    recipe = {"method": "cpt", "dtype": "float32", "batch_size": batch, "max_length": length} | recipe
    found = jupyter_ft.fits(str(model), _data(recipe["method"], length), measure=True, **recipe).fit
    assert found.measured is not None
    assert not found.measured.failed
    assert 1.0 <= found.parts.training / found.measured.peak <= 1.10, found


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
def test_masked_tokens_are_counted(bert: Path, even: Path, adapter: dict[str, Any]) -> None:
    _check(bert, 250, 3, **adapter)
    _check(even, 40, 1, **adapter)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("length", [32, 500])
def test_with_short_rows_and_long_ones(
    bert: Path, even: Path, length: int, batch: int, adapter: dict[str, Any]
) -> None:
    for model in (bert, even):
        _check(model, length, batch, **adapter)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE)
def test_with_what_else_a_recipe_can_ask(bert: Path, even: Path, case: str) -> None:
    for model in (bert, even):
        _check(model, 120, 2, **MORE[case])


def test_rows_are_no_longer_than_its_places(even: Path) -> None:
    found = jupyter_ft.fits(str(even), [{"text": "w" * 3000}], measure=True, method="cpt", dtype="float32").fit
    assert found.work.length == 511
    assert found.measured is not None
    assert found.measured.length == 511


def test_no_change_is_advised_that_its_trainer_does_not_know(bert: Path) -> None:
    tight = jupyter_ft.fits(str(bert), memory="40 MB", method="cpt", batch_size=8, max_length=512).fit
    assert not tight.fits
    named = [key for change in tight.changes for key in change.settings]
    assert named
    assert "trainer.activation_offloading" not in named
