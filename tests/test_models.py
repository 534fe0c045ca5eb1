"""A model that cannot be had: the one line that says why."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest

from jupyter_ft.errors import ModelError
from jupyter_ft.models import locate


class Hub(BaseHTTPRequestHandler):
    """Answers every question with the error that the model's name asks for."""

    def do_GET(self) -> None:
        code, error = {"gone": (404, "RepoNotFound"), "gated": (403, "GatedRepo"), "old": (404, "RevisionNotFound")}[
            self.path.split("/")[4]
        ]
        self.send_response(code)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


def why(model: str) -> str:
    with pytest.raises(ModelError) as caught:
        locate(model, None, lambda *_: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_offline_it_says_what_forbids_it_and_is_not_cut() -> None:
    assert why("some/model") == (
        "model 'some/model' is no folder here and not cached, and HF_HUB_OFFLINE=1 forbids fetching it: "
        "unset that and restart the kernel, or give a local folder"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone", "the hub has none of that name, or it is private: check the name, or huggingface-cli login"),
        ("gated", "the hub wants its terms accepted"),
        ("old", "the hub has no such revision of it: check revision"),
    ],
)
def test_what_the_hub_answers_is_told(hub: None, name: str, said: str) -> None:
    assert said in why(f"some/{name}")


@pytest.mark.slow
def test_a_model_that_transformers_loads_is_rounded_where_its_files_are_and_nowhere_else(
    tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from jupyter_ft.models import POOL

    folder = shutil.copytree(tiny_model, tmp_path / "other")
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"of_another.weight": torch.zeros(2)}, file, metadata={"format": "pt"})
    ours = POOL.get(str(folder), revision=None, dtype="bfloat16", report=lambda *_: None).model
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = torch.arange(3, 120)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "gpt2", "bert"])
def test_what_a_file_holds_is_left_alone_where_the_rest_is_made(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    """Gemma's embedding has a scale, made with the model, beside the weights that are read; others have tables."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    from jupyter_ft.models import POOL

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = {"gpt2": {}, "bert": {}}.get(kind, {"num_key_value_heads": 2, "head_dim": 8})
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4} if kind == "gpt2" else sizes | own
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=2, **sizes)
    auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = auto.from_config(config)
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    ours = POOL.get(str(tmp_path), revision=None, dtype="float32", report=lambda *_: None).model
    assert torch.equal(torch.get_rng_state(), before)
    held = dict(made.named_parameters())
    read = {name: p for name, p in ours.named_parameters() if name in held}
    assert len(read) >= len(held) - 7  # a head of another kind
    assert [name for name, p in read.items() if not torch.equal(p, held[name])] == []
    buffers = dict(made.named_buffers())
    assert [n for n, b in ours.named_buffers() if n in buffers and not torch.equal(b, buffers[n])] == []
