"""The shape of a model, from its configuration and the headers of its files; no weight is read, no torch needed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jupyter_ft.demo import HUB_ID, cache_folder

MOST_HEADER = 10**8  # bytes of a safetensors header, as the format has it
_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "ffn_hidden_size"),
}
_GATED = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "granite")
_NO_LINEAR = ("embed", "wte", "wpe", "lm_head", "score", "classifier", "embd", "position", "norm", "pooler", "cls.")
_TIED = ("lm_head.weight", "lm_head.decoder.weight")
MEASURED = ("llama", "mistral", "smollm3")
MEASURED_ENCODERS = ("bert", "roberta", "xlm-roberta")
"""Families whose layers are what the formulas were measured on."""


@dataclass(frozen=True)
class Linear:
    """A linear layer: its whole name, and how many numbers go in and come out."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Shape:
    """What the formulas need of a model. `weights` counts all of its numbers, `linears` are those in its layers.

    `exact`: its layers are those that the formulas were measured on. `packed`: the bytes of a folder that is quantised
    already. `speaks`: it has a head over the vocabulary. `drops_attention`, `drops_hidden`: an encoder's own dropout.
    """

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    vocabulary: int
    gated: bool
    tied: bool
    weights: int
    linears: tuple[Linear, ...]
    exact: bool = True
    packed: int = 0
    longest: int | None = None
    speaks: bool = True
    drops_attention: bool = False
    drops_hidden: bool = False

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder, with layers like BERT's."""
        return not self.speaks and not self.gated

    @property
    def queries(self) -> int:
        """Numbers of a token's queries, over all heads."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Numbers of a token's keys, over all heads that have some of their own."""
        return self.kv_heads * self.head_size

    @cached_property
    def in_linears(self) -> int:
        """Weights in the linear layers, the output layer aside."""
        return sum(one.inputs * one.outputs for one in self.linears)

    @cached_property
    def widest(self) -> int:
        """Weights of the largest of them."""
        return max((one.inputs * one.outputs for one in self.linears), default=0)

    def wanted(self, targets: str | tuple[str, ...]) -> tuple[Linear, ...]:
        """The linear layers that `targets` names, as PEFT takes them (`all-linear`, or the ends of names)."""
        found = self._wanted.get(targets)
        if found is None:
            names = (targets,) if isinstance(targets, str) else targets
            some = [one for one in self.linears if any(one.name == n or one.name.endswith(f".{n}") for n in names)]
            found = self._wanted[targets] = self.linears if targets == "all-linear" else tuple(some)
        return found

    @cached_property
    def _wanted(self) -> dict[str | tuple[str, ...], tuple[Linear, ...]]:
        return {}


def find_folder(model: str, revision: str | None = None) -> Path | None:
    """The folder on this machine that has the configuration of `model`, whether the weights are there or not."""
    if model == "demo":
        ready = cache_folder() / "SmolLM2-135M-Instruct"
        return ready if (ready / "config.json").is_file() else find_folder(HUB_ID, revision)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder if (folder / "config.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def read_shape(folder: Path) -> Shape | None:
    """The shape of the model in `folder`; None where its configuration does not say what is needed."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not config.get("quantization_config"):
            return shape_of(config, _headers(folder))
        files = list(folder.glob("*.safetensors"))  # numbers are packed in them: their shapes tell nothing
        found = shape_of(config, {})
        return found and replace(found, exact=False, packed=sum(file.stat().st_size for file in files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def shape_of(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> Shape | None:
    """The shape for a configuration and the shapes of the tensors in its files (empty where they are not there)."""
    text = {**config, **(config.get("text_config") or {})}
    found = {ours: next((text[n] for n in names if text.get(n)), None) for ours, names in _NAMES.items()}
    hidden, layers, heads = (found[name] for name in ("hidden", "layers", "heads"))
    if not (hidden and layers and heads):
        return None
    kind = str(text.get("model_type", config.get("model_type", "")))
    gated = kind in _GATED if not tensors else any("gate" in name for name in tensors)
    kv_heads = text.get("num_key_value_heads") or (1 if text.get("multi_query") else heads)
    inner, vocabulary = found["inner"] or 4 * hidden, int(text.get("vocab_size") or 0)
    size = text.get("head_dim") or hidden // heads
    tied = bool(text.get("tie_word_embeddings", not gated))
    linears = _linears_in(tensors) or _usual_linears(layers, hidden, (heads * size, kv_heads * size), inner, gated)
    if tensors:
        weights = sum(math.prod(shape) for name, shape in tensors.items() if not (tied and name.endswith(_TIED)))
    else:
        once = vocabulary * hidden * (1 if tied else 2) + hidden + (0 if gated else 512 * hidden)
        weights = once + sum(one.inputs * one.outputs for one in linears) + layers * 2 * hidden
    longest = text.get("max_position_embeddings") or text.get("n_positions")
    if longest and kind.endswith("roberta"):
        longest -= (text.get("pad_token_id") or 0) + 1  # its places are counted from after that of padding
    named = config.get("architectures") or ()
    speaks = not named or any(n.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for n in named)
    return Shape(
        kind, hidden, layers, heads, kv_heads, size, inner, vocabulary, gated, tied, weights, linears,
        exact=kind in (*MEASURED, *MEASURED_ENCODERS), longest=longest, speaks=speaks,
        drops_attention=_drops(text, ("attention_probs_dropout_prob", "attention_dropout"), kind),
        drops_hidden=_drops(text, ("hidden_dropout_prob", "dropout"), kind),
    )  # fmt: skip


def _drops(config: Mapping[str, Any], names: Sequence[str], kind: str) -> bool:
    """Whether a dropout of one of these names is on; where nothing is said, as in BERT's own configuration."""
    return bool(next((config[name] for name in names if name in config), kind in MEASURED_ENCODERS))


def _linears_in(tensors: Mapping[str, tuple[int, ...]]) -> tuple[Linear, ...]:
    return tuple(
        Linear(name.removesuffix(".weight"), shape[1], shape[0])
        for name, shape in sorted(tensors.items())
        if len(shape) == 2 and name.endswith(".weight") and not any(word in name for word in _NO_LINEAR)
    )


def _usual_linears(layers: int, hidden: int, heads: tuple[int, int], inner: int, gated: bool) -> tuple[Linear, ...]:
    """Those of a decoder of today, for a model whose files are not there."""
    q, kv = heads
    one = [("q_proj", hidden, q), ("k_proj", hidden, kv), ("v_proj", hidden, kv), ("o_proj", q, hidden)]
    one += [("gate_proj", hidden, inner)] if gated else []
    one += [("up_proj", hidden, inner), ("down_proj", inner, hidden)]
    return tuple(Linear(f"layers.{at}.{name}", i, o) for at in range(layers) for name, i, o in one)


def _headers(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in the safetensors files of `folder`; empty where one is missing."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if not all((folder / name).is_file() for name in names):
        return {}
    return {name: shape for file in sorted(names) for name, shape in _header(folder / file).items()}


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError(f"{file}: no safetensors file")
        entries = json.loads(opened.read(length))
    return {name: tuple(about["shape"]) for name, about in entries.items() if name != "__metadata__"}
