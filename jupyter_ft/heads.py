"""A head on a base's own storage: transformers' class that scores a text, or that guesses masked tokens."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .building import shards
from .errors import ModelError
from .models import Base
from .quantized import is_quantised, shared

Tensors = Mapping[str, torch.Tensor]


def scoring_model(base: Base, labels: Sequence[str]) -> Any:
    """A model with a score for each of `labels`, or without labels with one (a reward model); in eval mode, frozen.

    Its backbone is the base's own storage. The head is float32: new, from the global generator, unless the folder holds
    one for these very labels. `head_modules` names the modules that have to be trained and kept. Raises `ModelError`
    where transformers has no such class for the model.
    """
    config = _config(base, labels)
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.get_default_dtype())
    except ValueError:
        raise ModelError(
            f"{base.path}: transformers cannot put a head that scores on a {config.model_type}; take another model"
        ) from None
    config = model.config
    config.architectures = [type(model).__name__]
    config.dtype = base.model.config.dtype
    backbone = f"{model.base_model_prefix}."
    theirs = {
        name: tensor
        for name, tensor in [
            *base.model.named_parameters(remove_duplicate=False),
            *base.model.named_buffers(remove_duplicate=False),
        ]
        if name not in base.missing and (name.startswith(backbone) or _keeps_head(base, labels))
    }
    fresh = [name for name, _ in model.named_parameters() if name not in theirs]
    lost = [name for name in fresh if name.startswith(backbone) and name not in base.missing]
    if lost:
        raise ModelError(
            f"{base.path}: {type(model).__name__} has {lost[0]}, which the model has not; take another model"
        )
    _share_quantised(model, base.model, backbone)
    for path, module in model.named_modules():
        if is_quantised(module):
            continue
        _fill(module, f"{path}." if path else "", theirs, backbone, model)
    head = {name.rpartition(".")[0] if name.startswith(backbone) else name.partition(".")[0] for name in fresh}
    head |= {name.partition(".")[0] for name, _ in model.named_parameters() if not name.startswith(backbone)}
    model.head_modules, model.peft_task = sorted(head), "SEQ_CLS"
    return model.requires_grad_(False).eval().to(base.model.device)


def _share_quantised(model: Any, theirs: Any, backbone: str) -> None:
    """Put copies of the layers of `theirs` that are quantised in the place of those of `model`, over one storage."""
    memo = {id(p): p for p in theirs.parameters()} | shared(theirs)
    for path, module in theirs.named_modules():
        if path.startswith(backbone) and is_quantised(module):
            model.set_submodule(path, copy.deepcopy(module, memo))


def check_masks(base: Base) -> None:
    """Raises `ModelError` where the base is none that guesses masked tokens."""
    kind = base.model.config.model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ModelError(
            f"{base.path} neither speaks nor guesses masked tokens (a {type(base.model).__name__}); "
            "method: classification or reward trains it"
        )
    if base.tokenizer.mask_token is None:
        raise ModelError(f"{base.path}: its tokenizer has no mask token, so there is nothing to guess; add one")


def masked_model(base: Base) -> Any:
    """A model that guesses masked tokens, over the base's own storage, in eval mode, frozen. Its head is its folder's.

    `fresh_head`: the folder holds none, and it is new, from the global generator.
    """
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(copy.deepcopy(base.model.config), dtype=torch.get_default_dtype())
    model.tie_weights()
    model.config.architectures, model.config.dtype = [type(model).__name__], base.model.config.dtype
    backbone = f"{model.base_model_prefix}."
    theirs: dict[str, torch.Tensor] = {
        name: tensor
        for held in (base.model.named_parameters, base.model.named_buffers)
        for name, tensor in held(remove_duplicate=False)
        if name not in base.missing and name.startswith(backbone)
    }
    _share_tied(model, theirs)
    wanted = [name for name, _ in model.named_parameters() if name not in theirs]
    like = next(base.model.parameters())
    for name, tensor in _read_head(Path(base.path), wanted).items():
        theirs[name] = torch.nn.Parameter(tensor.to(like.device, like.dtype))
    _share_tied(model, theirs)
    model.fresh_head = any(name not in theirs for name in wanted)
    _share_quantised(model, base.model, backbone)
    for path, module in model.named_modules():
        if is_quantised(module):
            continue
        _fill(module, f"{path}." if path else "", theirs, "", model)
    model.tie_weights()
    model.peft_task = None
    return model.requires_grad_(False).eval().to(base.model.device)


def _share_tied(model: Any, theirs: dict[str, torch.Tensor]) -> None:
    """Have the parameters that are one in `model` be one in `theirs`."""
    names = {id(p): name for name, p in model.named_parameters(remove_duplicate=False) if name in theirs}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in names:
            theirs.setdefault(name, theirs[names[id(parameter)]])


def _read_head(path: Path, wanted: Sequence[str]) -> Tensors:
    """The tensors of these names in a model folder; under other names (of old files), as transformers finds them."""
    found: dict[str, torch.Tensor] = {}
    for file in shards(path):
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in set(wanted) & set(tensors.keys())}
    if len(found) == len(wanted):
        return found
    with torch.random.fork_rng(devices=[]):  # what it draws for what is missing, nobody uses
        loaded, told = AutoModelForMaskedLM.from_pretrained(
            path, dtype=torch.get_default_dtype(), output_loading_info=True
        )
    missing = set(told["missing_keys"])
    return {name: p.detach() for name, p in loaded.named_parameters() if name in wanted and name not in missing}


def _config(base: Base, labels: Sequence[str]) -> Any:
    config = copy.deepcopy(base.model.config)
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        config.problem_type = "single_label_classification"
    else:
        config.num_labels = 1
    config.get_text_config().pad_token_id = base.tokenizer.pad_token_id  # it finds a text's last token by it
    return config


def _keeps_head(base: Base, labels: Sequence[str]) -> bool:
    """Whether the head that the folder holds scores the same."""
    config = base.model.config
    same = list(config.id2label.values()) == list(labels) if labels else config.num_labels == 1
    return not base.speaks and same


def _fill(module: Any, prefix: str, theirs: Tensors, backbone: str, model: Any) -> None:
    """Put `theirs` in the place of the tensors of one module; what they lack is made new, as the model makes it."""
    own = [(held, name) for held in (module._parameters, module._buffers) for name in held if held[name] is not None]
    if any(prefix + name not in theirs for _, name in own):
        for held, name in own:
            new = torch.empty_like(held[name], device="cpu")
            held[name] = torch.nn.Parameter(new) if held is module._parameters else new
        with torch.no_grad():
            model._init_weights(module)
    for held, name in own:
        if prefix + name in theirs:
            tensor = theirs[prefix + name]
            shared = (prefix + name).startswith(backbone)
            new = tensor if shared else tensor.detach().to(torch.float32, copy=True)
            held[name] = torch.nn.Parameter(new) if held is module._parameters and not shared else new
