"""An encoder asked to do what it cannot, found out by its configuration before anything is loaded."""

from __future__ import annotations

import json

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
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named, kind = list(config.get("architectures") or ()), str(config.get("model_type", ""))
    except (OSError, ValueError, AttributeError, TypeError):
        return  # told where it is loaded
    speaks = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in named)
    if not speaks and (any(str(n).endswith(_HEADS) for n in named) or any(word in kind for word in _FAMILIES)):
        raise RecipeError(
            f"{recipe.model} is an encoder ({kind or named[0]}): it writes no text, as {recipe.method} wants; "
            "method: classification (or reward) scores with it, method: cpt goes on with its pre-training"
        )
