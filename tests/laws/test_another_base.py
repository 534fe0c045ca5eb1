"""A base that the weights of a run do not fit, and a tokenizer that cannot pad: one line each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import Refused, TrainingFailed


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


def narrower(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 32, 64, 8
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.mark.slow
def test_the_base_behind_a_path_has_changed(tune: Any, own: Path, rows: list[dict[str, str]]) -> None:
    settings = {"batch_size": 4, "dtype": "float32", "max_steps": 4}
    session = jupyter_ft.finetune(str(own), rows, "first", **settings)
    session.wait(timeout=60)
    session.close()
    narrower(own)
    session = jupyter_ft.open("first")
    with pytest.raises(Refused, match=r"^ask: the weights do not fit \(.*\): they are of another model, or of other"):
        session.chat("hi", max_new_tokens=3)
    child = jupyter_ft.finetune(None, rows, "second", start_from="first", **settings)
    with pytest.raises(TrainingFailed, match=r"^second failed at step 0: the weights do not fit \([^\n]+$"):
        child.wait(timeout=60)


def test_a_tokenizer_that_has_nothing_to_pad_with(own: Path, rows: list[dict[str, str]]) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (own / name).exists():
            kept = {
                k: v for k, v in json.loads((own / name).read_text()).items() if k not in ("pad_token", "eos_token")
            }
            (own / name).write_text(json.dumps(kept))
    session = jupyter_ft.finetune(str(own), rows, "unpadded", max_steps=2)
    with pytest.raises(TrainingFailed, match=r"^[^\n]+set tokenizer.pad_token and save it there again$"):
        session.wait(timeout=60)
