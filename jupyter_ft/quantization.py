"""What a base's weights may be stored in, and the words for it; no torch here.

Quantised are the weights of the linear layers, but for the output layer, by bitsandbytes: `nf4` with its statistics
quantised once more (QLoRA, arXiv 2305.14314), `int8` with a scale for each row (LLM.int8(), arXiv 2208.07339).
Embeddings, norms and biases stay in the base's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from .errors import RecipeError

Quantization = Literal["none", "nf4", "int8"]
WORDS: dict[object, Quantization] = {
    None: "none",
    "4bit": "nf4",
    "4-bit": "nf4",
    4: "nf4",
    "8bit": "int8",
    "8-bit": "int8",
    8: "int8",
}
SAID = {"nf4": "4-bit (NF4)", "int8": "8-bit"}
OTHERS = {  # of PEFT, TRL and transformers, which are no keys here, and what says the same
    "load_in_4bit": "quantization: nf4",
    "load_in_8bit": "quantization: int8",
    "use_rslora": "adapter: rslora",
    "use_dora": "adapter: dora",
}


def bytes_per_weight(quantization: Quantization, plain: int = 4) -> float:
    """Bytes that a weight of a linear layer takes, its statistics included; `plain` is that of the base's dtype.

    NF4: half a byte, one for every 64 weights, four for every 256 of those. int8: the scales of rows are left out.
    """
    return {"none": float(plain), "nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}[quantization]


def without_qlora(asked: Mapping[str, Any]) -> dict[str, Any]:
    """`asked` with `adapter: qlora` written as what it is: lora, over a base in NF4.

    Raises `RecipeError` where another quantization stands beside it.
    """
    adapter, plain = asked.get("adapter"), dict(asked)
    if adapter == "qlora":
        plain["adapter"] = "lora"
    elif isinstance(adapter, Mapping) and adapter.get("kind") == "qlora":
        plain["adapter"] = {**adapter, "kind": "lora"}
    elif asked.get("adapter.kind") == "qlora":
        plain["adapter.kind"] = "lora"
    else:
        return plain
    given = asked.get("quantization", "nf4")
    if quantization_word(given) != "nf4":
        raise RecipeError(f"adapter: qlora is lora over a 4-bit base; with quantization: {given} write adapter: lora")
    return {**plain, "quantization": "nf4"}


def quantization_word(given: Any) -> Any:
    """Our word for what was given, where it has one; else as given."""
    known = not isinstance(given, bool) and isinstance(given, str | int | None)
    return WORDS.get(given, given) if known else given
