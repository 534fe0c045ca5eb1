"""A base whose linear layers are in 4 or 8 bits: quantised while it is loaded, one layer after the other, and shared.

The layers are bitsandbytes' own. A copy of the modules shares their weights, and their statistics too.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from .errors import ModelError
from .quantization import SAID, Quantization

_FLAGS = {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}
_OF_TRANSFORMERS = (
    *_FLAGS.values(),
    "is_4bit_serializable",
    "is_8bit_serializable",
    "is_quantized",
    "hf_quantizer",
    "quantization_method",
    "hf_device_map",
)
_OUTLIERS = 6.0  # columns of an input beyond it are multiplied in full (LLM.int8(), section 3.2)


def check_available(kind: Quantization, device: torch.device) -> None:
    """`ModelError` where bitsandbytes cannot be imported, or has nothing for `device`."""
    if kind == "none":
        return
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:  # noqa: BLE001 - whatever its native library says
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"quantization: {kind} needs bitsandbytes, which cannot be imported ({first}): pip install bitsandbytes"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"quantization: {kind} is not available on {device.type}; leave quantization out")


def on_disk(config: Any) -> Quantization:
    """What the files of a model are quantised in already; `ModelError` where that cannot be trained over here."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return "none"
    asked = found if isinstance(found, dict) else found.to_dict()
    if asked.get("load_in_4bit"):
        return "nf4"
    if asked.get("load_in_8bit"):
        return "int8"
    method = getattr(asked.get("quant_method"), "value", asked.get("quant_method"))
    raise ModelError(f"its weights are quantised by {method}; give the original model, with quantization: nf4")


def quantise(
    model: Any,
    kind: Quantization,
    dtype: torch.dtype,
    device: torch.device,
    *,
    keep: Collection[str],
    report: Callable[[str, int, int], None],
) -> None:
    """Put the linear layers of `model` into `kind` on `device`, each computing in `dtype`; the others are left.

    The output layer stays, and layers with a parameter that `keep` names. Raises `ModelError` where none is left.
    """
    layers = list(_layers(model, keep))
    if not layers:
        raise ModelError(f"quantization: {kind}: a {type(model).__name__} has no linear layers that could be quantised")
    for done, name in enumerate(layers):
        if done % max(1, len(layers) // 10) == 0:
            report(f"quantising to {SAID[kind]}", done, len(layers))
        model.set_submodule(name, _quantised(model.get_submodule(name), kind, dtype, device))
    if kind == "int8":
        _hush()


def _layers(model: Any, keep: Collection[str]) -> Iterator[str]:
    head, backbone = model.get_output_embeddings(), f"{model.base_model_prefix}."
    for name, module in model.named_modules():
        beside = head is None and not name.startswith(backbone)  # a head that scores
        kept = any(f"{name}.{own}" in keep for own, _ in module.named_parameters(recurse=False))
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and not beside and not kept:
            yield name


def _quantised(layer: Any, kind: Quantization, dtype: torch.dtype, device: torch.device) -> Any:
    from bitsandbytes import nn

    weight = (layer.weight.detach().T if isinstance(layer, Conv1D) else layer.weight.detach()).to(dtype).contiguous()
    size = {"input_features": weight.shape[1], "output_features": weight.shape[0], "bias": layer.bias is not None}
    made: Any
    if kind == "nf4":
        made = nn.Linear4bit(**size, compute_dtype=dtype, compress_statistics=True, quant_type="nf4", device="meta")
        made.weight = nn.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made
        )
    else:
        made = nn.Linear8bitLt(**size, has_fp16_weights=False, threshold=_OUTLIERS, device="meta")
        made.weight = nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.weight = made.weight.to(device)
    if layer.bias is not None:
        made.bias = torch.nn.Parameter(layer.bias.detach().to(device, dtype), requires_grad=False)
    _settle(made)
    return made


def _settle(layer: Any) -> None:
    """Have a layer change nothing of its own when it is used: others share what it holds."""
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False  # in eval mode it would repack the weights, and lose the gradient
        layer.weight.module = None  # a circle, and from every copy a way back to this one
    if getattr(layer.weight, "CB", None) is not None:
        layer.init_8bit_state()


def keep_unpacked(model: Any) -> None:
    """Forbid the 4-bit layers of a model to repack their weights for evaluation: no gradient would come through.

    bitsandbytes does so on CPUs with AVX512-BF16, in place and for good.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def as_ours(model: Any, dtype: torch.dtype) -> None:
    """A model that transformers loaded with quantised layers, as `quantise` leaves one: what is not, in `dtype`."""
    for name in _OF_TRANSFORMERS:
        vars(model).pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for module in model.modules():
        if is_quantised(module):
            _settle(module)
            if hasattr(module, "compute_dtype"):
                module.compute_dtype, module.compute_type_is_set = dtype, True
                module.weight.quant_state.dtype = dtype
    for tensor in model.parameters():
        if tensor.is_floating_point() and getattr(tensor, "quant_state", None) is None:
            tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype


def is_quantised(module: Any) -> bool:
    """Whether it is one of bitsandbytes' layers."""
    weight = module._parameters.get("weight")  # an adapter's layer passes its base's on, under the same name
    return getattr(weight, "quant_state", None) is not None or hasattr(weight, "SCB")


def whole_copy(model: Any) -> Any:
    """A copy of `model` on the CPU with storage of its own; what is quantised becomes linear layers in its dtype."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        if is_quantised(module):
            memo[id(module)] = _linear(module, model.config.dtype)
        else:
            held = [t for own in (module._parameters, module._buffers) for t in own.values() if t is not None]
            memo |= {id(t): _on_cpu(t) for t in held if id(t) not in memo}
    return copy.deepcopy(model, memo)


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    own = tensor.detach().to("cpu", copy=True)
    return torch.nn.Parameter(own, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else own


def _linear(layer: Any, dtype: torch.dtype) -> torch.nn.Linear:
    from peft.utils.integrations import dequantize_bnb_weight

    weight = dequantize_bnb_weight(layer.weight, state=getattr(layer, "state", None)).to("cpu", dtype)
    made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        made.bias = torch.nn.Parameter(layer.bias.detach().to("cpu", dtype), requires_grad=False)
    return made


def kind_of(model: Any) -> Quantization:
    """What the linear layers of a model are in."""
    for module in model.modules():
        if is_quantised(module):
            return "int8" if hasattr(module.weight, "SCB") else "nf4"
    return "none"


def shared(model: Any) -> dict[int, Any]:
    """The memo of `copy.deepcopy` under which a copy of `model` shares what is quantised.

    An 8-bit layer puts its data into its parameter at each use, so that each copy has a parameter of its own, over the
    same storage.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        if not is_quantised(module):
            continue
        weight = module.weight
        if hasattr(weight, "quant_state"):
            memo |= {id(weight): weight, id(weight.quant_state): weight.quant_state}
        else:
            held = [t for t in (weight.CB, weight.SCB, module.state.CB, module.state.SCB) if t is not None]
            memo |= {id(tensor): tensor for tensor in held}
            memo[id(weight)] = type(weight)(
                weight.data, requires_grad=False, has_fp16_weights=False, CB=weight.CB, SCB=weight.SCB
            )
    return memo


@contextmanager
def told_to_peft(model: Any, kind: Quantization) -> Iterator[None]:
    """Inside, `model` has the flag by which PEFT takes its own layers for those of bitsandbytes.

    TRL would take it for a wish to train the adapter in bfloat16, so it is not left there.
    """
    if kind == "none":
        yield
        return
    setattr(model, _FLAGS[kind], True)
    try:
        yield
    finally:
        delattr(model, _FLAGS[kind])


def size(model: Any) -> tuple[int, int]:
    """The weights of a model, and the bytes that they take with their statistics."""
    weights = held = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        weights += parameter.numel() if state is None else state.shape.numel()
        held += parameter.numel() * parameter.element_size()
    for module in model.modules():
        if is_quantised(module):
            held += sum(t.numel() * t.element_size() for t in _statistics(module))
    return weights, held


def _statistics(module: Any) -> list[torch.Tensor]:
    state = getattr(module.weight, "quant_state", None)
    if state is None:
        return [t for t in (module.weight.SCB, module.state.SCB) if t is not None]
    inner = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
    return [state.absmax, state.code, *inner]


class _CastIsMeant(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "inputs will be cast" not in str(record.msg)


def _hush() -> None:
    """Keep bitsandbytes from saying at each 8-bit layer of each forward that it computes in float16."""
    log = logging.getLogger("bitsandbytes.autograd._functions")
    if not any(isinstance(one, _CastIsMeant) for one in log.filters):
        log.addFilter(_CastIsMeant())
