"""Judgements as rows to train on, in the formats that the data readers know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..errors import DataError
from .judgement import Judgement

Row = dict[str, Any]
TO_TRAIN = 20  # judgements from which there is something to learn


def pairs(judgements: Iterable[Judgement]) -> list[Row]:
    """`prompt`, `chosen`, `rejected`: of each choice, and of an edit over each of the answers that it was made from."""
    return [
        {"prompt": one.prompt, "chosen": better, "rejected": worse}
        for one in judgements
        for better, worse in _orders(one)
        if worse.strip() and better != worse
    ]


def _orders(one: Judgement) -> Iterator[tuple[str, str]]:
    if one.edited:
        yield from ((one.edited, answer.text) for answer in one.answers)
    elif one.preferred is not None and one.passed_over is not None:
        yield one.preferred.text, one.passed_over.text


def rated(judgements: Iterable[Judgement]) -> list[Row]:
    """`prompt`, `completion`, `label`: of each thumb, and of a better answer that was written to what it was under."""
    return [
        {"prompt": one.prompt, "completion": text, "label": label}
        for one in judgements
        if one.good is not None
        for text, label in [(one.answers[0].text, one.good), *([(one.edited, True)] if one.edited else [])]
        if text.strip()
    ]


def rated_from_choices(judgements: Iterable[Judgement]) -> list[Row]:
    """The same of choices: the better one good, the other bad, both bad where both are. Good and bad are mixed evenly.

    Neighbours answer different prompts where that can be: TRL's KTO takes its divergence from such pairs.
    """
    sides: dict[bool, list[Row]] = {True: [], False: []}
    for one in judgements:
        for text, label in _labels(one):
            if text.strip():
                sides[label].append({"prompt": one.prompt, "completion": text, "label": label})
    half = len(sides[False]) // 2
    sides[False] = sides[False][half:] + sides[False][:half]
    placed = [((at + 0.5) / len(side), row) for side in sides.values() for at, row in enumerate(side)]
    rows = [row for _, row in sorted(placed, key=lambda each: each[0])]
    for at in range(1, len(rows)):
        if rows[at]["prompt"] == rows[at - 1]["prompt"]:
            other = next((k for k in range(at + 1, len(rows)) if rows[k]["prompt"] != rows[at]["prompt"]), at)
            rows[at], rows[other] = rows[other], rows[at]
    return rows


def _labels(one: Judgement) -> Iterator[tuple[str, bool]]:
    if one.edited:
        yield one.edited, True
        yield from ((answer.text, False) for answer in one.answers)
    elif one.choice == "both_bad":
        yield from ((answer.text, False) for answer in one.answers)
    elif one.preferred is not None and one.passed_over is not None:
        yield one.preferred.text, True
        yield one.passed_over.text, False


def answers(judgements: Iterable[Judgement]) -> list[Row]:
    """`messages`: each prompt with the answer that a person wrote, chose or liked; each once."""
    found: dict[tuple[str, str], Row] = {}
    for one in judgements:
        liked = one.answers[0].text if one.good else one.preferred.text if one.preferred else ""
        text = one.edited or liked
        if text.strip():
            row = {"messages": [*one.prompt, {"role": "assistant", "content": text}]}
            found.setdefault((str(one.prompt), text), row)
    return list(found.values())


def prompts(judgements: Iterable[Judgement]) -> list[Row]:
    """`prompt`: what was judged, each once, for a policy that answers by itself."""
    return list({str(one.prompt): {"prompt": one.prompt} for one in judgements}.values())


View = Callable[[Iterable[Judgement]], list[Row]]


def view_for(method: str, judgements: Sequence[Judgement]) -> tuple[View, str]:
    """How `method` takes judgements, and what to say of that. `DataError` for a method that does not learn from them.

    kto learns from thumbs, and where nobody gave any from choices.
    """
    if method in ("dpo", "reward"):
        return pairs, ""
    if method == "kto":
        if any(one.good is not None for one in judgements):
            unused = sum(1 for one in judgements if any(_orders(one)) and one.good is None)
            return rated, f"{_count(unused, 'choice')} beside the thumbs not used; dpo learns from them" * bool(unused)
        return rated_from_choices, "no thumbs: each choice is taken for one good answer and one bad one"
    if method == "sft":
        return answers, "the answers that people wrote, chose or liked"
    if method in ("grpo", "rloo"):
        return prompts, "the prompts alone"
    raise DataError(f"{method} does not learn from judgements; method: dpo, reward, kto or supervised does")


def why_none(judgements: Sequence[Judgement]) -> str:
    """What there is instead of anything that can be learnt from: `3 choices, all ties`."""
    if not judgements:
        return "no judgement yet; %ft review makes some"
    words = {"tie": "ties", "skip": "skipped", "both_bad": "both bad", "left": "decided", "right": "decided"}
    choices = Counter(words[one.choice] for one in judgements if one.choice is not None)
    thumbs = Counter("up" if one.good else "down" for one in judgements if one.good is not None)
    return " and ".join(_counts(told, word) for told, word in ((choices, "choice"), (thumbs, "thumb")) if told)


def _counts(told: Counter[str], word: str) -> str:
    kinds = [f"all {next(iter(told))}"] if len(told) == 1 else [f"{count} {kind}" for kind, count in told.items()]
    return f"{_count(told.total(), word)}, {', '.join(kinds)}"


def _count(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"
