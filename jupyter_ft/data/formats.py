"""From the user's columns to examples of one format: messages, prompt–completion, text, preference, rated, labelled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jupyter_ft.errors import DataError

from .arrow import HELD_OUT_SPLITS
from .checks import kind_of, shown
from .columns import INPUT, PART, PASSED_ON, Format, choose_columns, left_away, passed_over
from .conversations import RowError, conversation, other_roles, rated_answer, to_answer, two_answers
from .ratings import is_good
from .read import REPORT_EVERY, Report, Source
from .spool import Spool

Example = dict[str, Any]
"""`{"messages": [...]}`, `{"prompt", "completion"}` (with `"system"`, and `"answers"` where there are several),
`{"text"}`, `{"text", "label"}`, `{"prompt": [...], "chosen", "rejected"}`, the prompt being the turns that both answers
follow, `{"prompt": [...], "completion", "label"}`, a rated answer to the turns before it, or `{"prompt": [...],
"plain", "columns": {...}}`, turns to answer (`plain`: written as text) and what reward functions are given besides."""

_WORDS = {
    "messages": ("conversation", "conversations"),
    "prompt-completion": ("prompt–completion row", "prompt–completion rows"),
    "text": ("text", "texts"),
    "preference": ("choice between two answers", "choices between two answers"),
    "unpaired-preference": ("rated answer", "rated answers"),
    "unpaired-messages": ("rated conversation", "rated conversations"),
    "labelled": ("text with its label", "texts with their labels"),
    "prompts": ("prompt", "prompts"),
    "prompt-messages": ("conversation to answer", "conversations to answer"),
}
_FILL = "fill it in or delete the row"
SAME = "the same as an earlier row (kept)"


@dataclass(frozen=True)
class Examples:
    """Rows of one format, ready to be rendered.

    `said` is the sentence for the user, with the columns that were taken; `notes` are what they may want to know.
    `name`, `fingerprint` (of the rows as they were found) and `path` are the source's. `beside` holds the data that are
    held out, where they are not of the rows. `numbers` are those of the rows (from 1) where they are a part of them.
    """

    rows: Spool
    format: Format
    said: str
    notes: tuple[str, ...]
    name: str
    fingerprint: str
    path: str | list[str] | None
    beside: Mapping[str, Examples] = field(default_factory=dict)
    numbers: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)


def normalise(
    source: Source, columns: Mapping[str, str], progress: Report | None = None, method: str = "sft"
) -> Examples:
    """The rows of `source` in the format that their columns tell, for `method`; `columns` maps our names to theirs.

    Exact repeats are kept and noted. Raises `DataError` for a column that is missing or ambiguous, and for rows that
    cannot be used: where the first one is, how many there are, and the fix.
    """
    kind, taken = choose_columns(source, columns, method)
    notes: Counter[str] = Counter()
    with Spool() as rows:
        _check(source, kind, taken, rows, notes, progress=progress)
    notes[SAME] = len(rows) - rows.distinct()
    noted = tuple(f"{count:,} {'row' if count == 1 else 'rows'}: {what}" for what, count in notes.items() if count)
    prompt = " + ".join(repr(taken[ours]) for ours in ("context", "prompt", INPUT) if ours in taken)
    named = ", ".join(
        f"{ours} = {prompt if ours == 'prompt' else repr(theirs)}"
        for ours, theirs in taken.items()
        if ours not in ("context", INPUT) and not ours.startswith(PASSED_ON)
    )
    if passed := [repr(theirs) for ours, theirs in taken.items() if ours.startswith(PASSED_ON)]:
        named += f"; passed on to the rewards: {', '.join(passed)}"
    said = f"{len(rows):,} {_WORDS[kind][len(rows) != 1]} from {source.name} ({named})"
    if source.raw:
        said = _documents(source)
    noted += (source.note,) if source.note else ()
    unused = passed_over(source, taken, kind) if method == "sft" else ""
    noted += (*((unused,) if unused else ()), *left_away(source, kind))
    free = [split for split in HELD_OUT_SPLITS if split in source.splits]
    if free:
        noted += (f"the data set has a split '{free[0]}', which is not used; held_out: {free[0]} evaluates on it",)
    return Examples(rows, kind, said, noted, source.name, source.fingerprint, source.path)


def _documents(source: Source) -> str:
    count = len(source.files) or 1
    passages = f", read in {len(source.rows):,} passages" if len(source.rows) > count else ""
    return f"{count:,} document{'s' * (count > 1)} from {source.name}{passages}"


def _check(
    source: Source,
    kind: Format,
    taken: Mapping[str, str],
    rows: Spool,
    notes: Counter[str],
    *,
    progress: Report | None,
) -> None:
    """Put the rows of `source` into `rows` as examples, and what is to be said of them into `notes`."""
    bad: list[tuple[int, RowError]] = []
    alike = 0
    for index, row in enumerate(source.rows):
        if progress and index % REPORT_EVERY == 0:
            progress("checking", index)
        try:
            rows.append(_BUILD[kind]({ours: row.get(theirs) for ours, theirs in taken.items()}, notes))
        except RowError as reason:
            bad = bad or [(index, reason)]
            alike += reason.what == bad[0][1].what
    if bad:
        raise DataError(_complaint(source, *bad[0], alike))


def _complaint(source: Source, index: int, first: RowError, alike: int) -> str:
    turn = f", turn {first.turn}" if first.turn else ""
    where = source.place(index) + turn
    if alike == 1:
        return f"{where}: {first.what}; {first.fix}"
    where = where if source.files else where[len(source.name) + 2 :]
    return f"{source.name}: {first.what} in {alike:,} rows (first: {where}); {first.fix}"


def _pair(cells: dict[str, object], notes: Counter[str]) -> Example:
    several = _answers(cells["completion"])
    cells = cells | {"completion": _answer(cells["completion"], notes)}
    example = {ours: _filled(cells[ours], ours, notes) for ours in ("prompt", "completion")}
    about = "" if cells.get("context") is None else _text(cells["context"], "context", notes)
    if about.strip():
        example["prompt"] = f"{about}\n\n{example['prompt']}"
    more = "" if cells.get(INPUT) is None else _text(cells[INPUT], INPUT, notes)
    if more.strip():
        example["prompt"] += f"\n\n{more}"
    system = _system(cells, notes)
    also: Example = {"answers": several} if len(several) > 1 else {}
    return {**({"system": system} if system else {}), **example, **also}


def _answers(cell: object) -> list[str]:
    """The different answers in a list of them, in their order."""
    several = cell.get("text") if isinstance(cell, Mapping) else cell
    if not isinstance(several, (list, tuple)):
        return []
    return list(dict.fromkeys(one for one in several if isinstance(one, str)))


def _answer(cell: object, notes: Counter[str]) -> object:
    """The answer in `cell`: the first of several, which SQuAD writes as `{"text": [...], "answer_start": [...]}`."""
    several = cell.get("text") if isinstance(cell, Mapping) else cell
    if not isinstance(several, (list, tuple)) or not all(isinstance(one, str) for one in several):
        return cell
    if not several:
        raise RowError(
            "no answer in the list of answers", "write one, or delete the row: what has none teaches nothing"
        )
    notes["of several answers the first is taken"] += len(several) > 1
    return several[0]


def _messages(cells: dict[str, object], notes: Counter[str]) -> Example:
    turns, extra = conversation(cells["messages"])
    system = _system(cells, notes)
    if system and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    for theirs, ours in other_roles(cells["messages"]).items():
        notes[f"turns of {shown(theirs)} are taken for the {ours}'s"] += 1
    if extra:
        notes[f"message keys that are not used: {', '.join(sorted(extra))}"] += 1
    if turns[-1]["role"] != "assistant":
        notes["the last turn is no answer, so it is not trained"] += 1
    return {"messages": turns}


def _preference(cells: dict[str, object], notes: Counter[str]) -> Example:
    system = _system(cells, notes)
    prompt, chosen, rejected = two_answers(cells.get("prompt"), cells)
    if system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    if chosen == rejected:
        raise RowError("the same answer as chosen and rejected", "delete the row")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _rated(cells: dict[str, object], notes: Counter[str]) -> Example:
    system = _system(cells, notes)
    prompt, answer = rated_answer(cells.get("prompt"), cells.get("completion"), cells.get("messages"))
    if system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    return {"prompt": prompt, "completion": answer, "label": is_good(cells["label"])}


def _to_answer(cells: dict[str, object], notes: Counter[str]) -> Example:
    system = _system(cells, notes)
    prompt, answered = to_answer(cells.get("prompt"), cells.get("messages"))
    notes["the last turn is an answer, which is left away: answers are generated"] += answered
    for more in ("context", INPUT):
        text = "" if cells.get(more) is None else _text(cells[more], more, notes)
        if text.strip():
            parts = [text, prompt[-1]["content"]] if more == "context" else [prompt[-1]["content"], text]
            prompt = [*prompt[:-1], {**prompt[-1], "content": "\n\n".join(parts)}]
    if system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    columns = {ours.removeprefix(PASSED_ON): cell for ours, cell in cells.items() if ours.startswith(PASSED_ON)}
    return {"prompt": prompt, "plain": isinstance(cells.get("prompt"), str), "columns": columns}


def _text_row(cells: dict[str, object], notes: Counter[str]) -> Example:
    text = {"text": _filled(cells["text"], "text", notes)}
    return text | {PART: cells[PART]} if cells.get(PART) else text


def _labelled(cells: dict[str, object], notes: Counter[str]) -> Example:
    return {"text": _filled(cells["text"], "text", notes), "label": _label(cells["label"])}


def _label(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():  # whole numbers beside an empty cell
        cell = int(cell)
    if isinstance(cell, int):
        return str(cell).lower()  # true and false, too
    if isinstance(cell, str) and cell.strip():
        return cell.strip()
    if cell is None or isinstance(cell, str) or (isinstance(cell, float) and math.isnan(cell)):
        raise RowError("no label", _FILL)
    raise RowError(f"{kind_of(cell)} as label", "write a word, a whole number or true/false")


def _system(cells: dict[str, object], notes: Counter[str]) -> str:
    cell = cells.get("system")
    return "" if cell is None else _text(cell, "system", notes)


def _filled(cell: object, column: str, notes: Counter[str]) -> str:
    text = "" if cell is None else _text(cell, column, notes)
    if not text.strip():
        raise RowError(f"no {column}", _FILL)
    return text


def _text(cell: object, column: str, notes: Counter[str]) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and not math.isfinite(cell):
        raise RowError(f"{cell} as {column}", _FILL)
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        notes[f"a number in {column} was turned into text"] += 1
        return str(cell)
    raise RowError(f"{kind_of(cell)} as {column}", "write it as text")


_BUILD: dict[Format, Callable[[dict[str, object], Counter[str]], Example]] = {
    "messages": _messages,
    "prompt-completion": _pair,
    "text": _text_row,
    "preference": _preference,
    "unpaired-preference": _rated,
    "unpaired-messages": _rated,
    "labelled": _labelled,
    "prompts": _to_answer,
    "prompt-messages": _to_answer,
}
