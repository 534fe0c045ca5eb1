"""The names that TRL's and transformers' configurations have, read from their source.

A wrong key under `trainer:` is found before torch is imported; importing TRL to ask it would take ten seconds.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import RecipeError, did_you_mean
from .names import TRAINER_KEYS_TAKEN

_CONFIGS = {
    "sft": ("trl/trainer/sft_config.py", "SFTConfig"),
    "dpo": ("trl/trainer/dpo_config.py", "DPOConfig"),
    "reward": ("trl/trainer/reward_config.py", "RewardConfig"),
    "classification": ("transformers/training_args.py", "TrainingArguments"),
    "kto": ("trl/trainer/kto_config.py", "KTOConfig"),
    "cpt": ("trl/trainer/sft_config.py", "SFTConfig"),
    "grpo": ("trl/trainer/grpo_config.py", "GRPOConfig"),
    "rloo": ("trl/trainer/rloo_config.py", "RLOOConfig"),
}
_BASES = {"_BaseConfig": "trl/trainer/base_config.py", "TrainingArguments": "transformers/training_args.py"}


def check_trainer_fields(method: str, passed: Mapping[str, Any]) -> None:
    """Raises `RecipeError` for a key that the method's configuration does not have, with the nearest one that it has.

    Says nothing where the source cannot be read; the configuration itself refuses the key then.
    """
    if not passed:
        return
    file, name = _CONFIGS[method]
    known, package = fields_of(file, name), file.partition("/")[0]
    owner = {"trl": "TRL's", "transformers": "transformers'"}[package]
    for key in passed if known else ():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            if near and near[0] in TRAINER_KEYS_TAKEN:
                ours = TRAINER_KEYS_TAKEN[near[0]]
                raise RecipeError(f"trainer.{key} is unknown; did you mean '{ours}'? write it at the top level")
            hint = did_you_mean(key, known) or f"; what it takes: help({package}.{name})"
            raise RecipeError(f"trainer.{key}: {owner} {name} has no such field{hint}")


@cache
def fields_of(file: str, name: str) -> frozenset[str]:
    """The annotated names in the body of class `name` in `PACKAGE/…` and of its bases; empty where one is not found."""
    package, _, inside = file.partition("/")
    spec = find_spec(package)
    try:
        folder = Path(next(iter((spec and spec.submodule_search_locations) or ())))
        module = ast.parse((folder / inside).read_text(encoding="utf-8"))
        found = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)
        inherited = [fields_of(_BASES[base.id], base.id) for base in found.bases if isinstance(base, ast.Name)]
    except (StopIteration, OSError, SyntaxError, KeyError):
        return frozenset()
    if not all(inherited):
        return frozenset()
    own = [
        node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    return frozenset(own).union(*inherited)
