"""What a model that scores answers: the labels with their probabilities, or the score of a reward model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..data import judged_ids, text_ids
from ..errors import Refused
from ..messages import Message

MOST_TOLD = 5  # labels in the text of an answer


@dataclass(frozen=True)
class Judging:
    """How a model scores. `labels` in their order (none: a reward model); a text is read up to `max_length` tokens."""

    labels: tuple[str, ...]
    max_length: int


@dataclass(frozen=True)
class Judged:
    """The answer. `scores` are probabilities by label, or `{"score": …}`; `tokens` were read, in `seconds`."""

    text: str
    scores: dict[str, float]
    tokens: int
    seconds: float


def judge(model: Any, tokenizer: Any, messages: Sequence[Message], how: Judging) -> Judged:
    """Score the last message of a classifier's conversation, or the whole one of a reward model.

    What ends with a question is scored by that question alone: the answers before it are scores and no answers. Raises
    `Refused` where it is longer than the model was trained on.
    """
    began = time.perf_counter()
    ids = _ids(tokenizer, messages, how)
    row = torch.tensor([ids], device=model.device)
    dtype = model.get_input_embeddings().weight.dtype
    mixed = torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32)  # as the trainer evaluates
    with torch.no_grad(), mixed:
        logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].float()
    if how.labels:
        scores = dict(zip(how.labels, logits.softmax(-1).tolist(), strict=True))
        text = _told(scores)
    else:
        scores = {"score": logits.item()}
        text = f"score {scores['score']:.3g}"
    return Judged(text, scores, len(ids), time.perf_counter() - began)


def _ids(tokenizer: Any, messages: Sequence[Message], how: Judging) -> list[int]:
    if how.labels:
        return text_ids(tokenizer, [messages[-1]["content"]], how.max_length)[0][0]
    if messages[-1]["role"] == "user":
        messages = [*(m for m in messages[:1] if m["role"] == "system"), messages[-1]]
    ids = judged_ids(tokenizer, messages)
    if len(ids) > how.max_length:
        raise Refused(f"the conversation has {len(ids)} tokens, more than max_length {how.max_length}")
    return ids


def _told(scores: dict[str, float]) -> str:
    """`positive 0.93 · negative 0.07`, the likeliest first."""
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    more = f" · {len(ranked) - MOST_TOLD} more" if len(ranked) > MOST_TOLD else ""
    return " · ".join(f"{label} {chance:.2f}" for label, chance in ranked[:MOST_TOLD]) + more
