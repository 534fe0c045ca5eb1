"""REINFORCE leave-one-out (arXiv 2402.14740): TRL's `RLOOTrainer` on rewards for answers of its own."""

from __future__ import annotations

from .generating import policy

METHOD = policy("RLOO")
