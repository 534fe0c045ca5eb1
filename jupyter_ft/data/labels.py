"""Texts with labels: which labels there are and in what order, and the rows as token ids with the label's number."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from jupyter_ft.errors import DataError

from .checks import shown
from .formats import Example, Examples
from .layout import Tokenizer
from .render import MOST_REASONS, REPORT_EVERY, TOGETHER, Rendered, numbered, rows_in_words
from .tokens import TokenFile

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
    total, number_of = len(examples.rows), {label: number for number, label in enumerate(labels)}
    every = max(REPORT_EVERY, total // 100 // TOGETHER * TOGETHER)
    counts, dropped, left_out, truncated, tokens = Counter[str](), list[tuple[int, str]](), 0, 0, 0
    kept, found, done = array("I"), numbered(examples), 0
    with nullcontext(list[Any]()) if file is None else TokenFile(file, ("input_ids",), numbers=("labels",)) as rows:
        while some := list(islice(found, TOGETHER)):
            for (number, example), ids, cut in zip(some, *_ids(some, tokenizer, max_length), strict=True):
                if not ids:
                    left_out += 1
                    dropped += [(number, "no token is left of its text")][: MOST_REASONS - len(dropped)]
                    continue
                rows.append({"input_ids": ids, "labels": number_of[example["label"]]})
                kept.append(number)
                counts[example["label"]] += 1
                truncated, tokens = truncated + cut, tokens + len(ids)
            done += len(some)
            if progress and (done % every == 0 or done == total):
                progress(done, total)
        if not len(rows):
            raise DataError(
                f"{examples.name}: no row of {total:,} can be trained (row {dropped[0][0]}: {dropped[0][1]})"
            )
    said = [f"{rows_in_words(len(rows))}, {tokens:,} tokens; {_counted(counts, labels)}"]
    said += [f"{rows_in_words(truncated)} cut at max_length {max_length}"] * bool(truncated)
    said += [f"{rows_in_words(left_out)} left out (no token is left of the text)"] * bool(left_out)
    ready = rows if isinstance(rows, list) else rows.dataset()
    return Rendered(ready, kept, dropped, left_out, truncated, tokens, tokens, "; ".join(said))


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
