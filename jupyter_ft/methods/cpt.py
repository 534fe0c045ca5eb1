"""Continued pre-training (self-supervised): TRL's `SFTTrainer` on windows of raw text, every token of it trained."""

from __future__ import annotations

from ..data import render_windows
from . import sft
from .method import Method

METHOD = Method(render=render_windows, build=sft.build, headline=("loss", "eval_perplexity"))
