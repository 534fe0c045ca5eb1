"""The methods of training, one file each: the columns it needs, how its trainer is built, its headline metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import sft

BUILDERS: dict[str, Callable[..., Any]] = {"sft": sft.build}
"""By method: `build(model, tokenizer, recipe, rows, folder)` gives a trainer that has not begun."""
