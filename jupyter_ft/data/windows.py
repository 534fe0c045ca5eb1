"""From raw text to token ids: documents one after the other, cut into windows of one length, every token trained.

Each document ends with the end-of-text token. Passages that follow each other in a document are joined as they were;
where one between them is held out, a document ends. Nothing is lost or filled up: the last window is what remains.

For a model that guesses masked tokens each window is framed by the tokens that its tokenizer puts around a text
([CLS] and [SEP]), and a document ends with the latter (arXiv 1907.11692, 4.2: FULL-SENTENCES).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_ft.errors import DataError

from .formats import Example, Examples
from .layout import Tokenizer, encode, first_ids
from .render import REPORT_EVERY, TOGETHER, Rendered, numbered, token_rows
from .tokens import TokenFile

MASKED = "some of them masked anew each time"
_MOST_CHARACTERS = 2**20  # of texts that are tokenised together


@dataclass
class _Cutter:
    """Takes token ids and gives windows of `length`, with the tokens around them, where they have such."""

    rows: list[Any] | TokenFile
    length: int
    around: tuple[list[int], list[int]] | None = None
    held: list[int] = field(default_factory=list)
    begun: int = 1  # the number of the example that the held ids began with
    numbers: array[int] = field(default_factory=lambda: array("I"))
    tokens: int = 0

    def add(self, number: int, ids: list[int]) -> None:
        self.begun = self.begun if self.held else number
        held = self.held + ids
        whole = len(held) - len(held) % self.length
        for start in range(0, whole, self.length):
            self._put(held[start : start + self.length])
            self.begun = number
        self.held = held[whole:]

    def end(self) -> None:
        if len(self.held) > 1:  # a single token has nothing to predict
            self._put(self.held)

    def _put(self, ids: list[int]) -> None:
        if self.around is not None:
            ids = [*self.around[0], *ids, *self.around[1]]
        self.rows.append({"input_ids": ids} if self.around else {"input_ids": ids, "labels": ids})
        self.numbers.append(self.begun)
        self.tokens += len(ids)


def render_windows(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    system: str | None,  # noqa: ARG001 - for the seam; texts have none
    max_length: int,
    progress: Callable[[int, int], None] | None = None,
    file: Path | None = None,
    framed: bool = False,
) -> Rendered:
    """Texts as windows (`input_ids`, `labels`) of `max_length` tokens; arguments and errors as for `render`.

    Windows are no longer than the tokenizer says that the model can read. `framed`: for a model that guesses masked
    tokens; there are no `labels` then, the trainer draws what is masked.
    """
    total = len(examples.rows)
    every = max(REPORT_EVERY, total // 100 // TOGETHER * TOGETHER)
    number = 0
    length = min(max_length, getattr(tokenizer, "model_max_length", max_length))
    around = frame(tokenizer) if framed else None
    opening, end = first_ids(tokenizer), encode(tokenizer, [tokenizer.eos_token or ""])[0]
    if around:
        opening, end, length = [], around[1], max(2, length - len(around[0]) - len(around[1]))
    with token_rows(file, ("input_ids",) if framed else ("input_ids", "labels")) as rows:
        cutter, documents, done, before, begun = _Cutter(rows, length, around), set[Any](), 0, None, False
        for some in _together(examples):
            texts = encode(tokenizer, [example["text"] for _, example in some])
            for (number, example), ids in zip(some, texts, strict=True):
                part = example.get("part")
                documents.add(part[0] if part else f"row {number}")
                if not _follows(part, before):
                    cutter.add(number, [*(end if begun else []), *opening])
                cutter.add(number, ids)
                before, begun = part, True
            done += len(some)
            if progress and (done % every < len(some) or done == total):
                progress(done, total)
        cutter.add(number, [] if framed else end)
        cutter.end()
        if not len(rows):
            raise DataError(f"{examples.name}: there is no text to learn from; give more than one token of it")
    return _concluded(cutter, rows if isinstance(rows, list) else rows.dataset(), len(documents), tokenizer)


render_framed_windows = partial(render_windows, framed=True)
"""`render_windows` for a model that guesses masked tokens."""


def frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before a text and after it."""
    whole, bare = list(tokenizer("a")["input_ids"]), encode(tokenizer, ["a"])[0]
    found = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    at = next(found, None)
    return ([], []) if at is None else (whole[:at], whole[at + len(bare) :])


def _follows(part: list[Any] | None, before: list[Any] | None) -> bool:
    return bool(part and before and part[0] == before[0] and part[1] == before[1] + 1)


def _together(examples: Examples) -> Iterator[list[tuple[int, Example]]]:
    """The examples in groups that are not too large to be tokenised at once."""
    held: list[tuple[int, Example]] = []
    characters = 0
    for number, example in numbered(examples):
        held.append((number, example))
        characters += len(example["text"])
        if len(held) == TOGETHER or characters > _MOST_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _concluded(cutter: _Cutter, rows: Any, documents: int, tokenizer: Tokenizer) -> Rendered:
    extra = 0 if cutter.around is None else sum(map(len, cutter.around))
    how = "every token trained" if cutter.around is None else f"{MASKED}, and those are trained"
    said = (
        f"{documents:,} document{'s' * (documents != 1)}, {cutter.tokens:,} tokens in {len(rows):,} "
        f"window{'s' * (len(rows) != 1)} of up to {cutter.length + extra:,}, {how}"
    )
    if cutter.around is None and not tokenizer.eos_token:
        said += "; the tokenizer has no end-of-text token, so nothing marks where a document ends"
    return Rendered(
        rows=rows,
        dropped=[],
        left_out=0,
        truncated=0,
        tokens=cutter.tokens,
        trained_tokens=cutter.tokens - extra * len(rows),
        said=said,
        numbers=cutter.numbers,
    )
