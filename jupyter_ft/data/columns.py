"""Which of the user's columns are ours: as they said, or by the names that people give such columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

from jupyter_ft.errors import DataError, did_you_mean

from .checks import shown
from .read import Source

Format = Literal[
    "messages",
    "prompt-completion",
    "text",
    "preference",
    "unpaired-preference",
    "unpaired-messages",
    "labelled",
    "prompts",
    "prompt-messages",
]

FORMATS: dict[str, tuple[Format, ...]] = {
    "sft": ("messages", "prompt-completion", "text"),
    "dpo": ("preference",),
    "reward": ("preference",),
    "classification": ("labelled",),
    "kto": ("unpaired-preference", "unpaired-messages", "preference"),
    "cpt": ("text",),
    "grpo": ("prompt-messages", "prompts"),
    "rloo": ("prompt-messages", "prompts"),
}
"""The formats of rows that each method learns from."""

INPUT = "input"
"""What follows the instruction in the prompt, after a blank line, in rows that are laid out as Alpaca's."""
PART = "part"
"""Which passage of a document it is, in rows of raw text."""
PASSED_ON = "passed on: "
"""Before the name of a column that is neither read nor trained, but passed on to reward functions."""
_GENERATED = ("completion", "completions", "completion_ids")
"""Columns of prompts that are left away: reward functions get what is generated under these names."""
_REWARDS_OWN = ("prompts", "trainer_state", "log_extra", "log_metric", "image", "images", "environment")
"""Names of columns that TRL gives a meaning of its own."""
OURS = ("prompt", "completion", "context", "messages", "text", "chosen", "rejected", "label", "system")
_NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "chat"),
    "prompt": (
        *("prompt", "question", "input", "instruction", "user", "query", "request"),
        *("customer message", "user message", "customer", "human"),
    ),
    "completion": (
        *("completion", "answer", "answers", "response", "output", "reply", "assistant", "target"),
        *("agent reply", "assistant reply", "assistant message", "agent", "gpt"),
    ),
    "context": ("context", "passage"),  # what a question is about; it precedes it in the prompt, after Squad
    "text": ("text", "content", "body"),
    "chosen": ("chosen", "preferred", "winner", "better"),
    "rejected": ("rejected", "dispreferred", "loser", "worse"),
    "label": ("label", "rating", "feedback", "thumbs", "thumb", "vote", "liked", "good", "is good", "desirable"),
    "system": ("system", "system prompt", "system message"),
}
_CLASSES = (
    *("label", "labels", "sentiment", "category", "class", "intent", "topic", "tag", "emotion", "target"),
    *("rating", "stars", "label text"),
)
"""What the label of a text is called, which a classifier learns."""
_CLASSIFIED = ("sentence", "review", "tweet", "comment", "message", "document", "utterance", "headline")
"""What a text with a label is called, where it is not called what `text` or `prompt` are."""
_NEEDED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
    "unpaired-preference": ("prompt", "completion", "label"),
    "unpaired-messages": ("messages", "label"),
    "labelled": ("text", "label"),
    "prompt-messages": ("messages",),
    "prompts": ("prompt",),
}
_OPTIONAL: dict[Format, tuple[str, ...]] = {
    "messages": ("system",),
    "prompt-completion": ("system", "context"),
    "preference": ("prompt", "system"),  # the prompt may be inside of both conversations
    "unpaired-preference": ("system",),
    "unpaired-messages": ("system",),
    "prompt-messages": ("system",),
    "prompts": ("system", "context"),
}
_MAP_LINES: dict[Format, str] = {
    "prompt-completion": "columns: {prompt: …, completion: …} or {text: …}",
    "preference": "columns: {prompt: …, chosen: …, rejected: …}",
    "unpaired-preference": "columns: {prompt: …, completion: …, label: …}",
    "text": "columns: {text: …}",
    "labelled": "columns: {text: …, label: …}",
    "prompts": "columns: {prompt: …}",
}
_FOR: dict[Format, str] = {
    "unpaired-preference": "rated answers; method: kto learns from them",
    "unpaired-messages": "rated answers; method: kto learns from them",
    "labelled": "texts with labels; method: classification learns from them",
    "messages": "conversations; method: supervised learns from them",
    "prompt-completion": "prompts with answers; method: supervised learns from them",
    "text": "texts; method: self-supervised learns from them",
    "prompts": "prompts without answers; method: grpo learns from rewards for its own",
}
"""What rows hold that another method learns from."""


def choose_columns(source: Source, asked: Mapping[str, str], method: str = "sft") -> tuple[Format, dict[str, str]]:
    """The format, one of those of `method`, and the columns that make it up: our name → theirs, optional ones last.

    What is asked for is taken; what is not is found by name, whatever its case. Our own name wins over a synonym, and
    prompt–completion over text. Alpaca's instruction and input together are the prompt; `input` is among the columns
    then. Raises `DataError` for a column that is not there, a choice that is ambiguous, or none.
    """
    theirs = list(source.columns)
    _check_asked(asked, theirs, source.name)
    if source.raw:
        _check_raw(source.name, method)
        return "text", {"text": "text", PART: "part"}
    found = {ours: _candidates(ours, theirs, asked) for ours in OURS}
    context = _alpaca(found["prompt"])
    if context:
        found["prompt"] = [column for column in found["prompt"] if column != context]
    if method == "classification":
        found["label"] = _candidates("label", theirs, asked, _CLASSES)
        found["text"] = found["text"] or found["prompt"] or _candidates("text", theirs, asked, _CLASSIFIED)
    kind = _format(found, asked, theirs, source.name, method)
    taken: dict[str, str] = {}
    for ours in (*_NEEDED[kind], *_OPTIONAL.get(kind, ())):
        if len(found[ours]) > 1:
            several = " and ".join(shown(column) for column in found[ours])
            raise DataError(f"{source.name}: {several} could each be the {ours}; write {_line(kind, ours, found)}")
        if found[ours]:
            taken[ours] = found[ours][0]
    taken |= {INPUT: context} if context and kind in ("prompt-completion", "prompts") else {}
    if kind in FORMATS["grpo"]:
        kept = [column for column in theirs if column not in (*taken.values(), *_GENERATED, *_REWARDS_OWN)]
        taken |= {f"{PASSED_ON}{column}": column for column in kept}
    return kind, taken


def _check_raw(name: str, method: str) -> None:
    if method != "cpt":  # supervised tuning would cut a document off at max_length
        line = next(_MAP_LINES[kind] for kind in FORMATS[method] if kind in _MAP_LINES)
        raise DataError(
            f"{name} is raw text, which method: self-supervised learns from; {method} takes a table with {line}"
        )


def _alpaca(prompts: list[str]) -> str:
    """The column that Alpaca's layout (instruction, input, output) calls input; empty where it is another layout."""
    plain = {_plain(column): column for column in prompts}
    return plain["input"] if len(prompts) == 2 and plain.keys() == {"instruction", "input"} else ""


def _check_asked(asked: Mapping[str, str], theirs: list[str], name: str) -> None:
    for ours, column in asked.items():
        if ours not in OURS:
            near = did_you_mean(str(ours), OURS) or f"; our names are {', '.join(OURS)}"
            raise DataError(f"columns: {shown(str(ours))} is none of our names{near}")
        if column not in theirs:
            raise DataError(f"{name} has no column {shown(str(column))}{_nearest(str(column), theirs)}{_list(theirs)}")


def _nearest(wrong: str, theirs: list[str]) -> str:
    by_case = {column.lower(): column for column in reversed(theirs)}
    near = get_close_matches(wrong.lower(), by_case, n=1)
    return f"; did you mean '{by_case[near[0]]}'?" if near else "; name one that is there"


def _candidates(ours: str, theirs: list[str], asked: Mapping[str, str], names: Sequence[str] = ()) -> list[str]:
    if ours in asked:
        return [asked[ours]]
    free = [column for column in theirs if column not in asked.values()]
    exact = [column for column in free if column.strip().lower() == ours]
    return exact or [column for column in free if _plain(column) in (names or _NAMES[ours])]


def candidates_for_prompt(theirs: Sequence[str]) -> list[str]:
    """The columns that are called what prompts are, the likeliest first."""
    return _candidates("prompt", list(theirs), {})


def _plain(column: str) -> str:
    return " ".join(column.replace("_", " ").replace("-", " ").lower().split())


def _format(found: dict[str, list[str]], asked: Mapping[str, str], theirs: list[str], name: str, method: str) -> Format:
    every: list[Format] = [kind for kind, needed in _NEEDED.items() if all(found[ours] for ours in needed)]
    whole = [kind for kind in every if kind in FORMATS[method]]
    meant = [kind for kind in FORMATS[method] if any(ours in asked for ours in _NEEDED[kind])]
    fitting = [kind for kind in meant if {*asked} <= {*_NEEDED[kind], *_OPTIONAL.get(kind, ())}]
    meant = [kind for kind in fitting if kind in whole][:1] or fitting[:1] or meant
    line = next(_MAP_LINES[kind] for kind in (*meant, *FORMATS[method]) if kind in _MAP_LINES)
    if len(meant) > 1:
        raise DataError(f"columns: {' and '.join(asked)} belong to different formats; keep one ({line})")
    if meant and meant[0] not in whole:
        lacking = next(ours for ours in _NEEDED[meant[0]] if not found[ours])
        raise DataError(f"{name}: no column is mapped to {lacking}; write {line}{_list(theirs)}")
    if meant:
        return meant[0]
    if "messages" in whole and "prompt-completion" in whole:
        fix = f"columns: {{messages: {found['messages'][0]}}} or {_line('prompt-completion', '', found)}"
        raise DataError(f"{name} has both messages and prompt–completion columns; write {fix}")
    if "preference" in every and "preference" not in FORMATS[method]:
        raise DataError(f"{name} holds choices between two answers; method: dpo learns from them{_list(theirs)}")
    meant_for = next((_FOR[kind] for kind in _FOR if kind in every), "")
    if not whole and meant_for:
        raise DataError(f"{name} holds {meant_for}, or for {method} write {line}{_list(theirs)}")
    if not whole:
        what = "no column is known by its name" if not every else f"its rows are not what {method} learns from"
        raise DataError(f"{name}: {what}; write {line}{_list(theirs)}")
    return whole[0]  # the order of _NEEDED: text is taken only where there is nothing else


def passed_over(source: Source, taken: Mapping[str, str], kind: Format) -> str:
    """A column of labels that is not used, and what would learn from it; empty where there is none."""
    free = [column for column in source.columns if column not in taken.values()]
    names, method = (_CLASSES, "classification") if kind == "text" else (_NAMES["label"], "kto")
    found = _candidates("label", free, {}, names)
    return f"the column {shown(found[0])} is not used; method: {method} learns from it" if found else ""


def left_away(source: Source, kind: Format) -> list[str]:
    """What is said of columns beside prompts that are not passed on."""
    if kind not in FORMATS["grpo"]:
        return []
    said = [
        (_GENERATED, "is left away: the answers are generated"),
        (_REWARDS_OWN, "is left away: TRL has a meaning of its own for that name; rename it to pass it on"),
    ]
    return [f"the column {shown(name)} {why}" for names, why in said for name in source.columns if name in names]


def _line(kind: Format, unsure: str, found: dict[str, list[str]]) -> str:
    needed = [*_NEEDED[kind], *([unsure] if unsure and unsure not in _NEEDED[kind] else [])]
    return f"columns: {{{', '.join(f'{ours}: {found[ours][0]}' for ours in needed)}}} or the like"


def _list(theirs: Iterable[str]) -> str:
    names = [shown(column, 40) for column in theirs]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f" (columns: {', '.join(names[:12])}{more})"
