"""What the tests share: a tiny random model in a folder, small data, and a runs folder of each test's own."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTIONS = [f"Where is order {number}?" for number in range(50)]


def make_tiny_model(folder: Path) -> Path:
    """A random Llama (2 layers, hidden 64) with a byte-level tokenizer and a ChatML template; the same each time."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate([*special, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    fast.chat_template = CHATML
    torch.set_num_threads(1)  # a tiny model gains nothing by two, and leaves a core to the rest
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(special) + len(letters),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            pad_token_id=0,
            eos_token_id=2,
            bos_token_id=1,
        )
    )
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import trl.trainer.sft_trainer  # noqa: F401

    gc.collect()
    gc.freeze()  # a run collects garbage at its end: half a second each over the million objects of these packages
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return [{"prompt": q, "completion": "On its way." if i % 3 else f"Sent, see {i}."} for i, q in enumerate(QUESTIONS)]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs go to the test's own folder, and none is left open."""
    monkeypatch.setenv("JUPYTER_FT_RUNS", str(tmp_path / "runs"))
    yield tmp_path / "runs"
    import jupyter_ft

    for session in list(jupyter_ft.sessions.values()):
        session.close()


@pytest.fixture
def tune(tiny_model: Path, rows: list[dict[str, str]]) -> Any:
    """Start a small run: 50 rows in float32, four a batch, learning fast."""

    def start(name: str = "support", **more: Any) -> Any:
        import jupyter_ft

        settings = {"learning_rate": 5e-3, "batch_size": 4, "dtype": "float32", "adapter": {"kind": "lora", "r": 4}}
        data = more.pop("data", rows)
        return jupyter_ft.finetune(str(tiny_model), data, name, **(settings | more))

    return start
