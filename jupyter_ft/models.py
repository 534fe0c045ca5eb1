"""The base pool: each base model is loaded once per kernel, and every session and chat gets a shell over its storage.

A shell is a copy of the modules that shares every parameter and buffer, so that adapters, patched `forward`s and
train/eval flags of one user never meet another's, at the cost of a few Python objects.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from . import quantized
from .base_files import fingerprint
from .building import build_by_transformers, build_from_meta
from .capture import for_users_only
from .demo import HUB_ID, INSTALL, demo_folder, quiet_transformers
from .errors import ModelError
from .heap import HEAP
from .modules import Pattern, apart
from .not_fetched import why_not_fetched
from .own_tokenizer import own_tokenizer
from .quantization import SAID, Quantization
from .recipe import Recipe

Report = Callable[[str, int, int], None]
"""Told of progress: what, done, total (0 where unknown)."""


@dataclass(frozen=True)
class Base:
    """A loaded base. The model is frozen, in eval mode, and never trained or patched itself: use `shell()`.

    One that does not speak (an encoder, a classifier, a reward model) is of the sequence-classification class:
    `missing` are those of its parameters that the folder does not hold, `longest` the tokens that it can read at most.
    `files` are digests of what it was loaded from, `patterns` its modules under adapters of these kinds.
    """

    key: str
    path: str
    model: Any
    tokenizer: Any
    speaks: bool = True
    missing: frozenset[str] = frozenset()
    longest: int | None = None
    quantization: Quantization = "none"
    files: dict[str, str] = field(default_factory=dict)
    patterns: weakref.WeakValueDictionary[str, Pattern] = field(default_factory=weakref.WeakValueDictionary)

    def shell(self) -> Any:
        """A copy of the modules over the same storage; deleting it frees nothing but Python objects."""
        return apart(self.model, [*self.model.parameters(), *self.model.buffers()])

    def pattern(self, model: Any, own: Collection[str], kind: str) -> Pattern:
        """The modules of `model`, an adapter over a shell, but for its `own` parameters.

        It is made once for each `kind`, while somebody holds it: 8 MB for SmolLM2.
        """
        found = self.patterns.get(kind)
        if found is None:
            found = Pattern(model, own)
            if found.is_over(self.model):
                self.patterns[kind] = found
        return found

    def new_tokenizer(self) -> Any:
        """A tokenizer of one's own, over the same vocabulary: the Rust one is not safe to share between threads."""
        return own_tokenizer(self.tokenizer)


def pick_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_dtype(asked: str, device: torch.device) -> torch.dtype:
    """The dtype of the base. `auto`: bfloat16 only where the hardware has it, else float16 on CUDA, else float32."""
    if asked != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[asked]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return torch.bfloat16
    return torch.float32


class Pool:
    """The bases of this process, while somebody holds them. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bases: weakref.WeakValueDictionary[str, Base] = weakref.WeakValueDictionary()

    def get(
        self,
        model: str,
        *,
        revision: str | None,
        dtype: str,
        report: Report,
        quantization: Quantization = "none",
        turn: AbstractContextManager[Any] | None = None,
    ) -> Base:
        """The base for `model` (`demo`, a local folder or a hub id), loaded at most once.

        `turn` is entered while transformers builds it, which draws from the global generators, as a run in the middle
        of a step may. Raises `ModelError` where it cannot be found or read, or not be quantised.
        """
        device = pick_device()
        torch_dtype = pick_dtype(dtype, device)
        quantized.check_available(quantization, device)
        path = locate(model, revision, report)
        key = key_of(path, torch_dtype, device, quantization)
        load = partial(_load, key, path, torch_dtype, device, report, quantization=quantization)
        with suppress(_Draws), self._lock:
            return self._get(key, partial(load, drawing=False))
        with turn or nullcontext(), self._lock:  # in this order: who holds the lock never waits for a turn
            return self._get(key, partial(load, drawing=True))

    def _get(self, key: str, load: Callable[[], Base]) -> Base:
        base = self._bases.get(key)
        if base is None:
            base = self._bases[key] = load()
        return base

    def files_of(self, folder: Path) -> dict[str, str] | None:
        """Digests of what the base in `folder` was loaded from, in whatever dtype; None where it is not loaded."""
        with self._lock:
            return next((base.files for base in self._bases.values() if base.path == str(folder.resolve())), None)

    def tokenizer_of(self, folder: Path) -> Any:
        """One like that of the base in `folder`; None where none is held now. Waits for none that is being loaded."""
        return next((b.new_tokenizer() for b in self._held() if b.path == str(folder.resolve())), None)

    def _held(self) -> list[Base]:
        return [base for ref in self._bases.valuerefs() if (base := ref()) is not None]

    def loaded(self) -> dict[str, int]:
        """The bases that are held now, by `key_of`, and their bytes. Does not wait for one that is being loaded."""
        bases = self._held()
        return {b.key: sum(p.numel() * p.element_size() for p in b.model.parameters()) for b in bases}


POOL = Pool()


def key_of(path: Path, dtype: torch.dtype, device: torch.device, quantization: Quantization) -> str:
    """What a base is known by in the pool."""
    return f"{path}|{dtype}|{device}|{quantization}"


def locate(model: str, revision: str | None, report: Report) -> Path:
    """The local folder of `model`, fetched first where it is a hub id that is not cached."""
    if model == "demo":
        if folder := demo_folder(report):
            return folder
        try:
            return locate(HUB_ID, revision, report)
        except ModelError as error:
            raise ModelError(f"the demo model is not installed: {INSTALL} ({error})") from None
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        cached = Path(snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=patterns))
        if (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
            return cached  # by path from here on: loading by name asks the hub even for what is cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise ModelError(f"model '{model}' is neither a folder nor a hub id: {error}") from None
    report(f"fetching {model}", 0, 0)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"model '{model}' is no folder here and not cached, and {why_not_fetched(error)}") from None


class _Draws(Exception):
    """transformers has to build it, and draws from the global generators."""


def _load(
    key: str,
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    report: Report,
    *,
    quantization: Quantization,
    drawing: bool,
) -> Base:
    report(f"loading {path.name}", 0, 0)
    kind = "a causal language model"
    try:
        with quiet_transformers():
            files, config = fingerprint(path), AutoConfig.from_pretrained(path)
            speaks = _speaks(config)
            kind = kind if speaks else "a model that classifies"
            stored = quantized.on_disk(config)
            if quantization not in ("none", stored) and stored != "none":
                raise ModelError(f"its weights are {SAID[stored]} already; leave quantization out")
            whole = dtype if quantization == "none" else None  # what is quantised is not cast before, and so not copied
            built = None if drawing else build_from_meta(path, config, whole, speaks)
            if built is None and not drawing:
                raise _Draws
            model, missing = built or build_by_transformers(path, whole, speaks, device if stored != "none" else None)
            tokenizer = _tokenizer(path)
    except _Draws:
        raise
    except Exception as error:  # whatever a stranger's folder makes transformers raise
        raise ModelError(f"{path} cannot be loaded as {kind}: {_reason(error)}") from error
    if stored != "none":
        quantized.as_ours(model, dtype)
    elif quantization != "none":
        quantized.quantise(model, quantization, dtype, device, keep=missing, report=report)
        quantized.as_ours(model, dtype)
    model.requires_grad_(False).eval().to(device)
    HEAP.give_back()  # what reading and casting left: about as much as the base
    most = None if speaks else longest(model, tokenizer)
    kept = quantization if stored == "none" else stored
    return Base(key, str(path), model, tokenizer, speaks, missing, most, kept, files)


def load_tokenizer(model: str, revision: str | None, report: Report) -> Any:
    """The tokenizer of `model` alone, no weights. Raises `ModelError` where it cannot be found or read."""
    path = locate(model, revision, report)
    try:
        with quiet_transformers():
            return _tokenizer(path)
    except Exception as error:  # whatever a stranger's folder makes transformers raise
        raise ModelError(f"the tokenizer in {path} cannot be loaded: {_reason(error)}") from error


def does_speak(model: str, revision: str | None, report: Report) -> bool:
    """Whether `model` is a causal language model, by its config alone. Raises `ModelError` as `load_tokenizer` does."""
    path = locate(model, revision, report)
    try:
        with quiet_transformers():
            return _speaks(AutoConfig.from_pretrained(path))
    except Exception as error:  # whatever a stranger's folder makes transformers raise
        raise ModelError(f"the config in {path} cannot be read: {_reason(error)}") from error


def _tokenizer(path: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise ValueError(
            "it has neither a pad token nor an end-of-text token; set tokenizer.pad_token and save it there again"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _speaks(config: Any) -> bool:
    """Whether the folder holds a causal language model; one that does not say what it holds is taken for it."""
    named = getattr(config, "architectures", None) or []
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    spoken = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    return not named or any(name in known or name.endswith(spoken) for name in named)


def longest(model: Any, tokenizer: Any) -> int | None:
    """The most tokens that a table of positions has room for; None where nothing says."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 10**9]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from after it
    return min(limits) if min(limits) < 10**9 else None


def with_adapter(model: Any, recipe: Recipe) -> Any:
    """`model` wrapped by PEFT with a fresh adapter in float32 (its weights come from the global generator).

    A new head (see `heads`) is trained beside the adapter, and kept in its files.
    """
    adapter, live = recipe.adapter, recipe.hyperparameters
    head = getattr(model, "head_modules", None)
    targets = adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets)
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=live.alpha,
        lora_dropout=live.dropout,
        target_modules=targets,
        use_rslora=adapter.kind == "rslora",
        use_dora=adapter.kind == "dora",
        task_type=getattr(model, "peft_task", "CAUSAL_LM"),
        modules_to_save=[name for name in head or () if name not in ("classifier", "score")] or None,  # PEFT's own
    )
    with quantized.told_to_peft(model, quantized.kind_of(model)), for_users_only():  # it reads what will be renamed
        return get_peft_model(model, config)
