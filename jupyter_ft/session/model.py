"""The model that a recipe names, looked for before anything is loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..errors import ModelError, RecipeError
from ..optimizers import BITSANDBYTES
from ..recipe import Recipe


def check_bitsandbytes(recipe: Recipe) -> None:
    """`RecipeError` where a recipe needs bitsandbytes and it is not installed (an install without dependencies)."""
    needing = {f"quantization: {recipe.quantization}": recipe.quantization != "none"}
    needing |= {f"optim: {recipe.trainer.get('optim')}": recipe.trainer.get("optim") in BITSANDBYTES}
    for what, needed in needing.items():
        if needed and find_spec("bitsandbytes") is None:
            raise RecipeError(f"{what} needs bitsandbytes, which is not installed: pip install bitsandbytes")


def check_model(model: str) -> None:
    """Find out early that a local folder is not there or holds no model. `ModelError`."""
    folder = Path(model).expanduser()
    looks_local = model.startswith((".", "/", "~")) or folder.exists()
    if model == "demo":
        return
    if looks_local and not folder.is_dir():
        wrong = "is a file, and no folder" if folder.exists() else "does not exist"
        raise ModelError(
            f"model {model} {wrong}; give a folder with config.json in it, a hub id (OWNER/NAME), or: demo"
        )
    if looks_local and not (folder / "config.json").is_file():
        raise ModelError(f"{model} holds no model: there is no config.json in it")
    if not looks_local and model.count("/") != 1:
        raise ModelError(f"model '{model}' is no folder here and no hub id (OWNER/NAME); the built-in one is: demo")
