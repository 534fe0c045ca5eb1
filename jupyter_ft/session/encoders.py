"""An encoder asked to do what it cannot, found out by its configuration before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import RecipeError
from ..memory.shape import find_folder
from ..recipe import Recipe

_HEADS = ("ForMaskedLM", "ForPreTraining")
_FAMILIES = ("bert", "electra", "deberta")  # of which a bare `BertModel` does not tell
_TAKE_ENCODERS = ("cpt", "classification", "reward")


def check_speaks(recipe: Recipe) -> None:
    """Raises `RecipeError` where the method has to have texts written, and the model is one that writes none."""
    folder = find_folder(recipe.model, recipe.revision)
    if recipe.method in _TAKE_ENCODERS or folder is None:
        return
    if (kind := _encoder(folder)) is not None:
        raise RecipeError(
            f"{recipe.model} is an encoder ({kind}): it writes no text, as {recipe.method} wants; "
            "method: classification (or reward) scores with it, method: cpt goes on with its pre-training"
        )


def check_probes(recipe: Recipe) -> None:
    """Raises `RecipeError` for a probe that leaves no word out, where the model can only guess what is left out."""
    folder = find_folder(recipe.model, recipe.revision)
    if recipe.method != "cpt" or recipe.probes is None or folder is None or _encoder(folder) is None:
        return
    mask = _mask_token(folder)
    if mask is None:  # told where the tokenizer is loaded
        return
    does = f"{recipe.model} is an encoder, which guesses words that are left out"
    if isinstance(recipe.probes, int):
        raise RecipeError(
            f"probes = {recipe.probes}: {does}, and rows leave none out; write prompts with {mask} in them"
        )
    for number, prompt in enumerate(recipe.probes, 1):
        if "[MASK]" not in prompt and mask not in prompt:
            raise RecipeError(f"probe {number} ({prompt:.60}): {does}; put {mask} in the place of one")


def _encoder(folder: Path) -> str | None:
    """The kind of the encoder in a model folder; None for what speaks, and for what does not tell."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named, kind = list(config.get("architectures") or ()), str(config.get("model_type", ""))
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # told where it is loaded
    if any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in named):
        return None
    found = any(str(n).endswith(_HEADS) for n in named) or any(word in kind for word in _FAMILIES)
    return (kind or str(named[0])) if found else None


def _mask_token(folder: Path) -> str | None:
    """What stands for a word that is left out, by the files of the tokenizer."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("mask_token")
        except (OSError, ValueError, AttributeError):
            continue
        found = found.get("content") if isinstance(found, dict) else found
        if isinstance(found, str) and found:
            return found
    return None
