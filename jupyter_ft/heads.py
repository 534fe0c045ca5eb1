"""A head that scores on a base: transformers' sequence-classification class over the base's own storage."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

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
    model.head_modules = sorted(head)
    return model.requires_grad_(False).eval().to(base.model.device)


def _share_quantised(model: Any, theirs: Any, backbone: str) -> None:
    """Put copies of the layers of `theirs` that are quantised in the place of those of `model`, over one storage."""
    memo = {id(p): p for p in theirs.parameters()} | shared(theirs)
    for path, module in theirs.named_modules():
        if path.startswith(backbone) and is_quantised(module):
            model.set_submodule(path, copy.deepcopy(module, memo))


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
