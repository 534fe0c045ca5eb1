"""The optimizers of a recipe, by transformers' names: those whose state a checkpoint keeps exactly; no torch here."""

from __future__ import annotations

from .errors import RecipeError, did_you_mean

WORDS = {"adamw": "adamw_torch", "adam": "adamw_torch", "adamw_bnb_8bit": "adamw_8bit"}
PLAIN = ("adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "sgd", "rmsprop")
BITSANDBYTES = (
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
)
_NAMES = (*PLAIN, *BITSANDBYTES)
_KNOWN = (*WORDS, *_NAMES)


def optimizer(given: object) -> str:
    """transformers' name for an optimizer; `RecipeError` for one that is unknown, or whose state is not kept."""
    if given not in _KNOWN:
        hint = did_you_mean(str(given), _KNOWN) or "; take adamw_torch"
        raise RecipeError(
            f"optim = {given!r:.40}: should be one whose state can be saved exactly: {', '.join(_NAMES[:-1])} or "
            f"{_NAMES[-1]}{hint}"
        )
    return WORDS.get(str(given), str(given))
