"""Reviewing in the notebook: two answers to a prompt, a person who chooses, and judgements that last."""

from __future__ import annotations

from .desk import Desk
from .opened import open_desk, unseen
from .pair import Pair
from .progress import Progress
from .rating import rate

__all__ = ["Desk", "Pair", "Progress", "open_desk", "rate", "unseen"]
