"""Group relative policy optimisation (arXiv 2402.03300): TRL's `GRPOTrainer` on rewards for answers of its own."""

from __future__ import annotations

from functools import partial

from trl import GRPOConfig, GRPOTrainer

from ..data import render_prompts
from .generating import LIVE, build
from .method import Method

METHOD = Method(
    render=render_prompts,
    build=partial(build, kind=(GRPOTrainer, GRPOConfig)),
    headline=("reward", "kl", "completions/mean_length"),
    generates=True,
    live=LIVE,
    judged_by="max eval_reward",
)
