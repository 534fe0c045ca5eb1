"""What a model answers that scores: labels with probabilities, a reward model's score, or guesses at masked words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..data import judged_ids, text_ids
from ..errors import Refused
from ..heads import masked_model, scoring_model
from ..messages import Message
from ..models import Base

MOST_TOLD = 5  # labels in the text of an answer


@dataclass(frozen=True)
class Judging:
    """How a model scores. `labels` in their order (none: a reward model); a text is read up to `max_length` tokens.

    With `masks` it guesses masked tokens; with `plain` a score is that of a text and not of a conversation.
    """

    labels: tuple[str, ...]
    max_length: int
    masks: bool = False
    plain: bool = False


@dataclass(frozen=True)
class Judged:
    """The answer. `scores` are probabilities by label, or `{"score": …}`; `tokens` were read, in `seconds`."""

    text: str
    scores: dict[str, float]
    tokens: int
    seconds: float


def shell_for(base: Base, how: Judging | None) -> Any:
    """A model over the base's storage of the class that is trained: one that speaks, scores, or guesses."""
    if how is None:
        return base.shell()
    return masked_model(base) if how.masks else scoring_model(base, how.labels)


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
    if how.masks:
        text, scores = _guessed(tokenizer, logits[row[0] == tokenizer.mask_token_id])
    elif how.labels:
        scores = dict(zip(how.labels, logits.softmax(-1).tolist(), strict=True))
        text = _told(scores)
    else:
        scores = {"score": logits.item()}
        text = f"score {scores['score']:.3g}"
    return Judged(text, scores, len(ids), time.perf_counter() - began)


def _ids(tokenizer: Any, messages: Sequence[Message], how: Judging) -> list[int]:
    if how.masks:
        text = messages[-1]["content"].replace("[MASK]", tokenizer.mask_token)
        ids: list[int] = text_ids(tokenizer, [text], how.max_length)[0][0]
        if tokenizer.mask_token_id not in ids:
            raise Refused(f"it guesses words that are left out: put {tokenizer.mask_token} in the place of one")
        return ids
    if how.labels or how.plain:
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


def _guessed(tokenizer: Any, logits: torch.Tensor) -> tuple[str, dict[str, float]]:
    """The likeliest tokens at each mask (`logits`: masks, vocabulary), a line each; `1 word`, `2 word` of several."""
    lines, scores = [], dict[str, float]()
    for number, chances in enumerate(logits.softmax(-1), 1):
        top = chances.topk(min(MOST_TOLD, len(chances)))
        found = dict[str, float]()
        for chance, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            word = str(tokenizer.decode([token])).strip() or str(tokenizer.convert_ids_to_tokens(token))
            found[word] = found.get(word, 0.0) + chance
        lines.append(" · ".join(f"{word} {chance:.2f}" for word, chance in found.items()))
        scores |= found if len(logits) == 1 else {f"{number} {word}": chance for word, chance in found.items()}
    if len(lines) > 1:
        lines = [f"{number}: {line}" for number, line in enumerate(lines, 1)]
    return "\n".join(lines), scores
