"""REINFORCE leave-one-out (arXiv 2402.14740): TRL's `RLOOTrainer` on rewards for answers of its own."""

from __future__ import annotations

from functools import partial

from trl import RLOOConfig, RLOOTrainer

from ..data import render_prompts
from .generating import LIVE, build
from .method import Method

METHOD = Method(
    render=render_prompts,
    build=partial(build, kind=(RLOOTrainer, RLOOConfig)),
    headline=("reward", "kl", "completions/mean_length"),
    generates=True,
    live=LIVE,
    judged_by="max eval_reward",
)
