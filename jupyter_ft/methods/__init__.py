"""The methods of training, one file each: how its rows are made, how its trainer is built, its live fields, metrics."""

from __future__ import annotations

from . import classification, cpt, dpo, grpo, kto, reward, rloo, sft
from .method import Method

METHODS: dict[str, Method] = {
    "sft": sft.METHOD,
    "dpo": dpo.METHOD,
    "reward": reward.METHOD,
    "classification": classification.METHOD,
    "kto": kto.METHOD,
    "cpt": cpt.METHOD,
    "grpo": grpo.METHOD,
    "rloo": rloo.METHOD,
}
