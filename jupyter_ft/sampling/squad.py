"""Exact match and token F1 as SQuAD's official script has them (evaluate-v1.1.py; arXiv 1606.05250, section 6.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and needless space, in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 where the two are the same when normalised, else 0."""
    return float(normalised(prediction) == normalised(answer))


def token_f1(prediction: str, answer: str) -> float:
    """F1 over the bags of words of the two when normalised, from 0 to 1."""
    said, right = normalised(prediction).split(), normalised(answer).split()
    shared = sum((Counter(said) & Counter(right)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(said), shared / len(right)
    return 2 * precision * recall / (precision + recall)


BUILT_IN: dict[str, Callable[[str, str], float]] = {"exact_match": exact_match, "token_f1": token_f1}


def over(score: Callable[[str, str], float], predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """The mean over rows of the best score against any of a row's answers, from 0 to 1 (the script says percent)."""
    best = [max(score(said, right) for right in rights) for said, rights in zip(predictions, answers, strict=True)]
    return sum(best) / len(best)
