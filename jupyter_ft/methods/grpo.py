"""Group relative policy optimisation (arXiv 2402.03300): TRL's `GRPOTrainer` on rewards for answers of its own."""

from __future__ import annotations

from .generating import policy

METHOD = policy("GRPO")
