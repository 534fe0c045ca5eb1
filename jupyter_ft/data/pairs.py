"""From choices between two answers to token ids: the prompt's, and those of the chosen and of the rejected answer.

The ids equal those of TRL 1.16 for conversational rows (`tokenize_fn` in trl/trainer/dpo_trainer.py): prompt and answer
are written as one text, and the answers begin where their ids part from those of the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from jupyter_ft.errors import DataError

from .conversations import Turn
from .edges import common_beginning
from .formats import Example, Examples
from .layout import LayoutError, Tokenizer, bare_prompt, encode, first_ids, write
from .render import Rendered, Tally, in_groups, numbered, token_rows
from .together import below, encoded
from .writer import Writer

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
WHOLE = ("chosen_ids", "rejected_ids")
SAME = "its two answers come out the same as the chat template writes them"
PairRow = dict[str, list[int]]


class _Tally(Tally):
    """What has been rendered so far."""

    def add(self, number: int, row: PairRow) -> None:
        if row["chosen_ids"] == row["rejected_ids"]:
            self.drop(number, SAME)
            return
        prompt, answers = len(row["prompt_ids"]), [len(row["chosen_ids"]), len(row["rejected_ids"])]
        if prompt >= self.max_length:
            self.drop(number, f"its answers begin beyond max_length {self.max_length} ({prompt} tokens)")
            return
        kept = [min(answer, self.max_length - prompt) for answer in answers]
        self.put(number, row)
        self.truncated += kept != answers
        self.trained += sum(kept)
        self.tokens += 2 * prompt + sum(kept)


class _Whole(_Tally):
    """The same for conversations that are scored from their beginning to their end."""

    def add(self, number: int, row: PairRow) -> None:
        if row["chosen_ids"] == row["rejected_ids"]:
            self.drop(number, SAME)
            return
        whole = {name: row["prompt_ids"] + row[name] for name in WHOLE}
        longest = max(map(len, whole.values()))
        if longest > self.max_length:  # TRL leaves them out, too: what is cut off may be what made the difference
            self.drop(number, f"longer than max_length {self.max_length} ({longest} tokens)")
            return
        self.put(number, whole)
        self.tokens += sum(map(len, whole.values()))
        self.trained = self.tokens


def render_pairs(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    system: str | None,
    max_length: int,
    progress: Callable[[int, int], None] | None = None,
    file: Path | None = None,
    whole: bool = False,
) -> Rendered:
    """Preference `examples` as `prompt_ids`, `chosen_ids` and `rejected_ids`; arguments and errors as for `render`.

    Rows are not cut: TRL's collator cuts prompt and answer together to `max_length` tokens, which are what is counted.
    With `whole`, `chosen_ids` and `rejected_ids` are those of the whole conversations, and longer ones are left out.
    """
    opening = [] if tokenizer.chat_template else first_ids(tokenizer)
    columns, kind = (WHOLE, _Whole) if whole else (COLUMNS, _Tally)
    with token_rows(file, columns) as rows:
        tally, writer, total = kind(rows, max_length), Writer(tokenizer), len(examples.rows)
        for some in in_groups(numbered(examples), total, progress):
            for number, _, ids in encoded(some, partial(_texts, writer=writer, system=system), tally, tokenizer):
                tally.add(number, _row(opening, *ids))
        tally.check(examples.name, total)
    return _concluded(tally)


render_whole_pairs = partial(render_pairs, whole=True)
"""`render_pairs` for what scores a conversation from its beginning to its end."""


def judged_ids(tokenizer: Tokenizer, messages: Sequence[Turn]) -> list[int]:
    """The token ids of a conversation as `render_whole_pairs` writes it; one that has no answer yet, up to there.

    Raises `DataError` where the chat template refuses it.
    """
    if not tokenizer.chat_template:
        *asked, last = messages
        answered = last["role"] == "assistant"
        end = last["content"] + (tokenizer.eos_token or "") if answered else ""
        text = bare_prompt(asked if answered else messages) + end
        return [*first_ids(tokenizer), *encode(tokenizer, [text])[0]]
    try:
        return encode(tokenizer, [write(tokenizer, messages, answer_next=False)])[0]
    except LayoutError as reason:
        raise DataError(f"the conversation cannot be put to the model: {reason}") from None


def _row(opening: list[int], prompt: list[int], chosen: list[int], rejected: list[int]) -> PairRow:
    start = min(common_beginning(prompt, chosen), common_beginning(prompt, rejected))
    return {
        "prompt_ids": [*opening, *prompt[:start]],
        "chosen_ids": chosen[start:],
        "rejected_ids": rejected[start:],
    }


def _texts(example: Example, writer: Writer, system: str | None) -> list[str]:
    """The prompt as text, and with each of the answers."""
    tokenizer = writer.tokenizer
    asked = below(system, example["prompt"])
    if not tokenizer.chat_template:
        prompt, end = bare_prompt(asked), tokenizer.eos_token or ""
        return [prompt, *(prompt + example[name] + end for name in ("chosen", "rejected"))]
    answered = [[*asked, {"role": "assistant", "content": example[name]}] for name in ("chosen", "rejected")]
    return [
        writer.write(asked, answer_next=True),
        *(writer.write(turns, answer_next=False) for turns in answered),
    ]


def _concluded(tally: _Tally) -> Rendered:
    count = len(tally.rows)
    what = "scored whole" if isinstance(tally, _Whole) else f"{tally.trained:,} of them trained (the answers alone)"
    pairs = f"{count:,} {'pair' if count == 1 else 'pairs'}, {tally.tokens:,} tokens, {what}"
    return tally.rendered(pairs, *tally.losses())
