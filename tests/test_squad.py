"""Exact match and token F1 are those of SQuAD's official script."""

from __future__ import annotations

import random
import re
import string
from collections import Counter

import pytest

from jupyter_ft.sampling.squad import exact_match, normalised, over, token_f1


def official_normalize(s: str) -> str:
    """`normalize_answer` of evaluate-v1.1.py."""

    def remove_articles(text: str) -> str:
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text: str) -> str:
        return " ".join(text.split())

    def remove_punc(text: str) -> str:
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def official_f1(prediction: str, ground_truth: str) -> float:
    """`f1_score` of evaluate-v1.1.py."""
    prediction_tokens = official_normalize(prediction).split()
    ground_truth_tokens = official_normalize(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def test_they_are_the_scripts() -> None:
    draw = random.Random(3)
    words = ["The", "a", "an", "cat", "Cat's", "the-cat", "sat", "—", "42", "4.2", "", "U.S.", "theory", "A."]
    for _ in range(2000):
        said, right = (" ".join(draw.choices(words, k=draw.randint(0, 5))) for _ in range(2))
        assert normalised(said) == official_normalize(said)
        assert exact_match(said, right) == (official_normalize(said) == official_normalize(right))
        assert token_f1(said, right) == official_f1(said, right)


def test_the_best_of_several_answers_counts() -> None:
    answers = [["Paris", "the city of Paris"], ["42"]]
    assert over(exact_match, ["The city of Paris.", "43"], answers) == 0.5
    assert over(token_f1, ["city", "42!"], answers) == pytest.approx((2 * 1 * (1 / 3) / (4 / 3) + 1) / 2)
