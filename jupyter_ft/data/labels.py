"""Texts with labels: which labels there are and in what order, and the rows as token ids with the label's number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jupyter_ft.errors import DataError

from .checks import shown
from .formats import Example, Examples
from .layout import Tokenizer
from .render import Rendered, Tally, in_groups, numbered, rows_in_words, token_rows

UNEVEN = 3  # times as many rows of one label as of another, from which on it is said
MOST_COUNTED = 12  # labels that the sentence counts one by one


def labels_of(train: Examples, apart: Examples | None = None) -> tuple[str, ...]:
    """The labels of the rows that are trained on: whole numbers in their order, else by the alphabet.

    Raises `DataError` where there is only one, and where a row held out has one that is never trained.
    """
    counts = Counter(row["label"] for row in train.rows)
    if len(counts) == 1:
        only = next(iter(counts))
        raise DataError(
            f"{train.name}: every row to train on has the label {shown(only)}; a classifier needs two at least"
        )
    alone = Counter(row["label"] for row in apart.rows if row["label"] not in counts) if apart else Counter[str]()
    if apart and alone:
        label, count = alone.most_common(1)[0]
        more = f" (and {len(alone) - 1} more labels)" if len(alone) > 1 else ""
        raise DataError(
            f"held_out: the label {shown(label)}{more} is only in the rows held out ({rows_in_words(count)}), so it "
            "cannot be learnt; add rows of it to train on, hold out others (another seed or file), or drop it"
        )
    return in_order(counts)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """`labels` in the order that they are numbered in, the same whatever order they come in."""
    distinct = set(labels)
    if all(label.removeprefix("-").isdecimal() for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    return tuple(sorted(distinct, key=lambda label: (label.casefold(), label)))


def text_ids(tokenizer: Tokenizer, texts: list[str], max_length: int) -> tuple[list[list[int]], list[bool]]:
    """The token ids of each text, as the tokenizer writes it (its own special tokens too), and whether it was cut."""
    found = tokenizer(texts, truncation=True, max_length=max_length, verbose=False)
    ids: list[list[int]] = found["input_ids"]
    encodings = getattr(found, "encodings", None)  # of a slow tokenizer it is not known
    cut = [bool(one.overflowing) for one in encodings] if encodings else [len(one) >= max_length for one in ids]
    return ids, cut


def render_labelled(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    labels: Sequence[str],
    max_length: int,
    system: str | None = None,  # noqa: ARG001 - methods share the call
    progress: Callable[[int, int], None] | None = None,
    file: Path | None = None,
) -> Rendered:
    """Labelled `examples` as `input_ids`, cut to `max_length` tokens, and in `labels` the number of the label.

    A text is tokenised as it is, without a chat template and without `system`. Other arguments and errors as for
    `render`.
    """
    number_of, counts = {label: number for number, label in enumerate(labels)}, Counter[str]()
    with token_rows(file, ("input_ids",), numbers=("labels",)) as rows:
        tally, total = Tally(rows, max_length), len(examples.rows)
        for some in in_groups(numbered(examples), total, progress):
            for (number, example), ids, cut in zip(some, *_ids(some, tokenizer, max_length), strict=True):
                if not ids:
                    tally.drop(number, "no token is left of its text")
                    continue
                tally.put(number, {"input_ids": ids, "labels": number_of[example["label"]]})
                counts[example["label"]] += 1
                tally.truncated, tally.tokens = tally.truncated + cut, tally.tokens + len(ids)
        tally.check(examples.name, total)
    tally.trained = tally.tokens
    counted = f"{rows_in_words(len(rows))}, {tally.tokens:,} tokens; {_counted(counts, labels)}"
    return tally.rendered(counted, *tally.losses())


def _ids(some: list[tuple[int, Example]], tokenizer: Tokenizer, max_length: int) -> tuple[list[list[int]], list[bool]]:
    return text_ids(tokenizer, [example["text"] for _, example in some], max_length)


def _counted(counts: Counter[str], labels: Sequence[str]) -> str:
    """The labels with their rows, and whether they are uneven."""
    if len(labels) <= MOST_COUNTED:
        listed = ", ".join(f"{shown(label)} {counts[label]:,}" for label in labels)
    else:
        most, least = counts.most_common(1)[0], min(counts.items(), key=lambda item: item[1])
        listed = f"{shown(most[0])} {most[1]:,} at most, {shown(least[0])} {least[1]:,} at least"
    times = max(counts.values()) / max(1, min(counts[label] for label in labels))
    uneven = (
        f" (uneven, {times:.1f} times as many of one as of another: look at the recall of each label, not at accuracy)"
    )
    return f"{len(labels):,} labels: {listed}" + (uneven if times > UNEVEN else "")
