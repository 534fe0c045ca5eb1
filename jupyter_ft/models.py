"""The base pool: each base model is loaded once per kernel, and every session and chat gets a shell over its storage.

A shell is a copy of the modules that shares every parameter and buffer, so that adapters, patched `forward`s and
train/eval flags of one user never meet another's, at the cost of a few Python objects.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from . import quantized
from .base_files import fingerprint
from .capture import for_users_only
from .demo import HUB_ID, INSTALL, demo_folder, quiet_transformers
from .errors import ModelError
from .heap import HEAP
from .modules import apart
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
    `files` are digests of what it was loaded from.
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

    def shell(self) -> Any:
        """A copy of the modules over the same storage; deleting it frees nothing but Python objects."""
        return apart(self.model, [*self.model.parameters(), *self.model.buffers()])

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
    ) -> Base:
        """The base for `model` (`demo`, a local folder or a hub id), loaded at most once.

        Raises `ModelError` where it cannot be found or read, or not be quantised.
        """
        device = pick_device()
        torch_dtype = pick_dtype(dtype, device)
        quantized.check_available(quantization, device)
        path = locate(model, revision, report)
        key = key_of(path, torch_dtype, device, quantization)
        with self._lock:
            base = self._bases.get(key)
            if base is None:
                base = self._bases[key] = _load(key, path, torch_dtype, device, report, quantization=quantization)
            return base

    def files_of(self, folder: Path) -> dict[str, str] | None:
        """Digests of what the base in `folder` was loaded from, in whatever dtype; None where it is not loaded."""
        with self._lock:
            return next((base.files for base in self._bases.values() if base.path == str(folder.resolve())), None)

    def loaded(self) -> dict[str, int]:
        """The bases that are held now, by `key_of`, and their bytes. Does not wait for one that is being loaded."""
        bases = [base for ref in self._bases.valuerefs() if (base := ref()) is not None]
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
        raise ModelError(f"model '{model}' is no folder here and not cached, and {_why_not_fetched(error)}") from None


def _why_not_fetched(error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE=1 forbids fetching it: unset that and restart the kernel, or give a local folder"
    for one in (error, error.__cause__):
        if isinstance(one, GatedRepoError):
            return "the hub wants its terms accepted: do so on its page there, then huggingface-cli login"
        if isinstance(one, RepositoryNotFoundError):
            return "the hub has none of that name, or it is private: check the name, or huggingface-cli login"
        if isinstance(one, RevisionNotFoundError):
            return "the hub has no such revision of it: check revision"
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached: check the connection, or give a local folder"
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"the hub does not give it: {first}"


def _load(
    key: str, path: Path, dtype: torch.dtype, device: torch.device, report: Report, *, quantization: Quantization
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
            model, missing = _build_from_meta(path, config, whole, speaks) or _build_by_transformers(
                path, whole, speaks, device if stored != "none" else None
            )
            tokenizer = _tokenizer(path)
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


def shards(path: Path) -> list[Path]:
    """The safetensors files of a model folder; none where it has others."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        return sorted({path / name for name in json.loads(index.read_text())["weight_map"].values()})
    single = path / "model.safetensors"
    return [single] if single.exists() else []


Built = tuple[Any, frozenset[str]]
"""A model, and its parameters that no file holds (of a model that speaks: none)."""


def _build_from_meta(path: Path, config: Any, dtype: torch.dtype | None, speaks: bool) -> Built | None:
    """The model built on meta and filled from safetensors, or None where the names do not match one to one.

    Without a `dtype` its tensors are those of the files, not read before they are used.
    A model that does not speak may have a new head, and what the file has beside its backbone is passed over.
    `from_pretrained(dtype=…)` sets torch's default dtype for the whole process while it runs, under the user's cells.
    """
    files = shards(path)
    if not files or getattr(config, "quantization_config", None) is not None:
        return None
    auto = AutoModelForCausalLM if speaks else AutoModelForSequenceClassification
    with torch.device("meta"):
        model = auto.from_config(config, dtype=torch.get_default_dtype())
    weights = {
        name: tensor if dtype is None else tensor.to(dtype)
        for file in files
        for name, tensor in load_file(file).items()
    }
    backbone = "" if speaks else f"{model.base_model_prefix}."
    if not any(name.startswith(backbone) for name in weights):
        return None
    try:
        loaded = model.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError:  # a tensor of another shape
        return None
    model.tie_weights()
    if any(name.startswith(backbone) for name in loaded.unexpected_keys):
        return None
    missing = frozenset() if speaks else _fill(model)
    for module in model.modules():
        owned = [n for n, b in module._buffers.items() if b is not None and b.is_meta]
        for name in owned:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if owned:
            with torch.no_grad():
                model._init_weights(module)  # rotary frequencies and the like, which no checkpoint holds
    if any(t.is_meta for t in [*model.parameters(), *model.buffers()]):
        return None
    if dtype is not None:
        model.config.dtype = dtype
    if speaks and (path / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(path)
    return model, missing


def _fill(model: Any) -> frozenset[str]:
    """Put zeros where no file has a parameter, and tell which those are."""
    missing = frozenset(name for name, p in model.named_parameters() if p.is_meta)
    for name in missing:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        module._parameters[own] = torch.nn.Parameter(torch.zeros_like(module._parameters[own], device="cpu"))
    return missing


def _build_by_transformers(
    path: Path, dtype: torch.dtype | None, speaks: bool, device: torch.device | None = None
) -> Built:
    """transformers' own loading, in the default dtype (so that it is not changed) and cast afterwards.

    `device` is given for files that are quantised: those are loaded onto it, and not cast.
    """
    more = {"dtype": torch.get_default_dtype()} | ({} if device is None else {"device_map": {"": device}})
    missing: list[str] = []
    if speaks:
        model = AutoModelForCausalLM.from_pretrained(path, **more)
    else:
        with torch.random.fork_rng(devices=[]):  # it draws what the files do not hold, and nobody uses that
            model, told = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True, **more)
        missing = told["missing_keys"]
    if dtype is not None and device is None:
        cast(model, dtype)
    return model, frozenset(missing)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """As `from_pretrained(dtype=…)` leaves it: what no file holds, rotary frequencies for one, stays as it was made."""
    for module in model.modules():
        held = [b for name, b in module._buffers.items() if name not in module._non_persistent_buffers_set]
        for tensor in [*module._parameters.values(), *held]:
            if tensor is not None and tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype
    return model


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
