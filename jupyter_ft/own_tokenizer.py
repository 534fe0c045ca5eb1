"""A tokenizer for each thread: the Rust one is not safe to share, but the vocabulary in it is.

A copy by `copy.deepcopy` goes through JSON and holds the vocabulary once more (SmolLM2: 0.24 s and 11 MB a copy).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def own_tokenizer(tokenizer: Any) -> Any:
    """A copy of transformers' `tokenizer` whose state is its own; the vocabulary is shared where that can be had."""
    from tokenizers import Tokenizer

    core = getattr(tokenizer, "_tokenizer", None)
    if not isinstance(core, Tokenizer):
        return copy.deepcopy(tokenizer)
    return copy.deepcopy(tokenizer, {id(core): own_core(core)})


def own_core(core: Tokenizer) -> Tokenizer:
    """A copy of `core` over the same model (a reference-counted lock in Rust, only read here)."""
    own, added = type(core)(core.model), core.get_added_tokens_decoder()
    for part in _PARTS:
        if (held := getattr(core, part)) is not None:
            setattr(own, part, _own_part(held))
    for _, token in sorted(added.items()):
        (own.add_special_tokens if token.special else own.add_tokens)([token])
    own.encode_special_tokens = core.encode_special_tokens
    if core.truncation is not None:
        own.enable_truncation(**core.truncation)
    if core.padding is not None:
        own.enable_padding(**core.padding)
    same = own.get_added_tokens_decoder() == added and own.get_vocab_size() == core.get_vocab_size()
    return own if same else copy.deepcopy(core)


def _own_part(part: Any) -> Any:
    """A copy, so that nobody sees what is set on another; a part that is written in Python is shared."""
    try:
        return copy.deepcopy(part)
    except Exception:  # noqa: BLE001 - tokenizers raises a bare one: it cannot be written as JSON
        return part
