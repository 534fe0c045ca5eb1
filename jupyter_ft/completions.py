"""What a policy has answered on its way: some answers of each generation with their rewards, in the run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "completions.jsonl"
PROMPTS = 2  # of each generation, with the best answer and the worst
MOST_CHARACTERS = 4000  # of a prompt or an answer


def keep_some(path: Path, step: int, made: Sequence[dict[str, Any]], answers: int) -> None:
    """Add a few of what was `made` for `step`: `answers` to each prompt, in their order. `OSError` for a full disk."""
    some = []
    for first in range(0, min(len(made), PROMPTS * answers), answers):
        ranked = sorted(made[first : first + answers], key=lambda one: one["advantage"])
        some += [_in_words(ranked[-1]), _in_words(ranked[0])]
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "answers": some}) + "\n")


def _in_words(one: dict[str, Any]) -> dict[str, Any]:
    prompt, answer = one["prompt"], one["completion"]
    return {
        "prompt": (prompt if isinstance(prompt, str) else prompt[-1]["content"])[:MOST_CHARACTERS],
        "completion": (answer if isinstance(answer, str) else answer[0]["content"])[:MOST_CHARACTERS],
        "rewards": one["rewards"],
        "advantage": one["advantage"],
    }


def read_some(path: Path) -> list[dict[str, Any]]:
    """What was kept, in order, less what a resumption took back; `rewards` by name. A torn line is left out."""
    kept: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            generation = json.loads(line)
        except ValueError:
            continue
        while kept and kept[-1]["step"] >= generation["step"]:
            kept.pop()
        kept += [{"step": generation["step"], **one} for one in generation["answers"]]
    return kept
