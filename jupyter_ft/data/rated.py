"""From rated answers to token ids: the prompt's, the answer's, and whether the answer is a good one.

The ids equal those of TRL 1.16 for conversational rows (`tokenize_fn` in trl/trainer/kto_trainer.py). A choice between
two answers becomes two rated rows, its rejected one half the data after its chosen one, so that neighbours are good and
bad and answer different prompts; TRL takes rows in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .conversations import Turn
from .edges import common_beginning
from .formats import Examples
from .layout import Tokenizer, bare_prompt, first_ids
from .render import Rendered, Tally, in_groups, numbered, rows_in_words, token_rows
from .together import below, encoded
from .writer import Writer

RatedRow = dict[str, Any]
"""`prompt_ids`, `completion_ids`, `label`."""


class _Rated(NamedTuple):
    """An answer to the turns before it; `number` is its row's, from 1."""

    number: int
    prompt: list[Turn]
    answer: str
    good: bool


@dataclass
class _Tally(Tally):
    """With what the advice about good and bad rows needs."""

    good: int = 0
    changes: int = 0  # from a good row to a bad one, or back
    last: bool | None = None

    def add(self, number: int, row: RatedRow) -> None:
        prompt, answer = len(row["prompt_ids"]), len(row["completion_ids"])
        if prompt >= self.max_length:
            self.drop(number, f"its answer begins beyond max_length {self.max_length} ({prompt} tokens)")
            return
        if not answer:
            self.drop(number, "the chat template leaves its answer out")
            return
        kept = min(answer, self.max_length - prompt)
        self.put(number, row)
        self.truncated += kept < answer
        self.trained += kept
        self.tokens += prompt + kept
        self.good += row["label"]
        self.changes += self.last not in (None, row["label"])
        self.last = row["label"]


def render_rated(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    system: str | None,
    max_length: int,
    progress: Callable[[int, int], None] | None = None,
    file: Path | None = None,
) -> Rendered:
    """Rated answers or choices as `prompt_ids`, `completion_ids` and `label`; arguments and errors as for `render`.

    Rows are not cut: TRL's collator cuts prompt and answer together to `max_length` tokens, which are what is counted.
    """
    paired = examples.format == "preference"
    total = len(examples.rows) * (2 if paired else 1)
    opening = [] if tokenizer.chat_template else first_ids(tokenizer)
    with token_rows(file, ("prompt_ids", "completion_ids"), flags=("label",)) as rows:
        tally, writer = _Tally(rows, max_length), Writer(tokenizer)
        for some in in_groups(_unpaired(examples) if paired else _rated(examples), total, progress):
            rows_of = ((rated.number, rated) for rated in some)
            for number, rated, ids in encoded(rows_of, partial(_texts, writer=writer, system=system), tally, tokenizer):
                tally.add(number, _row(opening, *ids, good=rated.good))
        tally.check(examples.name, total)
    return _concluded(tally, paired)


def _rated(examples: Examples) -> Iterator[_Rated]:
    for number, row in numbered(examples):
        yield _Rated(number, row["prompt"], row["completion"], row["label"])


def _unpaired(examples: Examples) -> Iterator[_Rated]:
    pairs = examples.rows
    numbers = range(1, len(pairs) + 1) if examples.numbers is None else examples.numbers
    for at in range(len(pairs)):
        other = (at + len(pairs) // 2) % len(pairs)
        yield _Rated(int(numbers[at]), pairs[at]["prompt"], pairs[at]["chosen"], good=True)
        yield _Rated(int(numbers[other]), pairs[other]["prompt"], pairs[other]["rejected"], good=False)


def _row(opening: list[int], prompt: list[int], whole: list[int], *, good: bool) -> RatedRow:
    start = common_beginning(prompt, whole)
    return {"prompt_ids": [*opening, *prompt[:start]], "completion_ids": whole[start:], "label": good}


def _texts(rated: _Rated, writer: Writer, system: str | None) -> tuple[str, str]:
    """The prompt as text, and with the answer."""
    tokenizer = writer.tokenizer
    asked = below(system, rated.prompt)
    if not tokenizer.chat_template:
        prompt = bare_prompt(asked)
        return prompt, prompt + rated.answer + (tokenizer.eos_token or "")
    answered = [*asked, {"role": "assistant", "content": rated.answer}]
    return writer.write(asked, answer_next=True), writer.write(answered, answer_next=False)


def _concluded(tally: _Tally, paired: bool) -> Rendered:
    good, bad = tally.good, len(tally.rows) - tally.good
    made = "each choice made into two rated answers: " if paired else ""
    return tally.rendered(
        f"{made}{rows_in_words(len(tally.rows))}, {good:,} good and {bad:,} bad, {tally.tokens:,} tokens, "
        f"{tally.trained:,} of them trained (the answers alone)",
        *filter(None, (balance(good, bad), _order(good, bad, tally.changes))),
        *tally.losses(),
    )


def balance(good: int, bad: int) -> str:
    """The weights that equation 8 of the paper asks for; empty where one and one do.

    It is 1 ≤ (desirable_weight · good) / (undesirable_weight · bad) ≤ 4/3.
    """
    if not good or not bad:
        return f"no row is {'bad' if good else 'good'}, and kto learns from the difference"
    ratio = good / bad
    if 1 <= ratio <= 4 / 3:
        return ""
    return (
        f"for {good:,} to {bad:,} the paper (equation 8) has undesirable_weight {ratio * 3 / 4:.3g} to {ratio:.3g}, "
        f"or else desirable_weight {1 / ratio:.3g} to {4 / 3 / ratio:.3g}"
    )


def _order(good: int, bad: int, changes: int) -> str:
    """What to do where good and bad rows stand apart; by chance they would alternate 2 · good · bad / rows times."""
    if changes * 4 * (good + bad) >= 2 * good * bad or good * bad < 4 * (good + bad):
        return ""
    return (
        "good and bad rows stand apart and are taken in their order; "
        "trainer: {train_sampling_strategy: random} mixes them"
    )
