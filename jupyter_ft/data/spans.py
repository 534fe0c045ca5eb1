"""Which part of a row is trained: its text and the spans of the answers in it, before any tokenising.

No generation markers are needed in the chat template: the answer of turn i is what `write(messages[:i + 1])` has beyond
`write(messages[:i], answer_next=True)`. Where a template rewrites earlier turns (strips their thoughts, moves the
system turn), only the last answer is trained.
"""

from __future__ import annotations

from itertools import takewhile

from .conversations import Turn
from .formats import Example
from .layout import Layout, LayoutError, bare_prompt
from .writer import Writer

LAST_ONLY = "only the last answer trained, because the chat template rewrites earlier turns"
OPENS_OTHERWISE = "the chat template opens an answer otherwise in chat than in training"


def lay_out(row: Example, writer: Writer, system: str | None) -> Layout:
    """`row` as text with its trained spans; `system` where it has none of its own.

    Raises `LayoutError` where the chat template refuses the row or leaves no trace of the answer.
    """
    end = writer.tokenizer.eos_token or ""
    if "text" in row:
        text = row["text"] + end
        return Layout(text, ((0, len(text)),), templated=False)
    if "messages" in row:
        turns: list[Turn] = row["messages"]
        first = [] if any(turn["role"] == "system" for turn in turns) else _system_turn(system)
        return _conversation([*first, *turns], writer)
    asked = [*_system_turn(row.get("system") or system), {"role": "user", "content": row["prompt"]}]
    if writer.tokenizer.chat_template:
        return _conversation([*asked, {"role": "assistant", "content": row["completion"]}], writer)
    before = bare_prompt(asked)
    text = before + row["completion"] + end
    return Layout(text, ((len(before), len(text)),), templated=False)


def _system_turn(content: str | None) -> list[Turn]:
    return [{"role": "system", "content": content}] if content else []


def _conversation(turns: list[Turn], writer: Writer) -> Layout:
    templated = bool(writer.tokenizer.chat_template)
    text = _stopped(writer.write(turns, answer_next=False), turns, writer)
    answers = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    spans = [_span(turns, at, text, writer) for at in answers]
    if None not in spans:
        return Layout(text, tuple(span for span in spans if span), templated)
    *_, last = answers
    if spans[-1]:
        return Layout(text, (spans[-1],), templated, LAST_ONLY)
    return Layout(text, (_diverging_span(turns, last, text, writer),), templated, OPENS_OTHERWISE)


def _stopped(text: str, turns: list[Turn], writer: Writer) -> str:
    """`text`, with the end-of-text token where the template writes nothing after the last answer."""
    answer = turns[-1]["content"].rstrip()
    bare = turns[-1]["role"] == "assistant" and text.rstrip().endswith(answer)
    return text.rstrip() + writer.tokenizer.eos_token if bare and writer.tokenizer.eos_token else text


def _span(turns: list[Turn], at: int, text: str, writer: Writer) -> tuple[int, int] | None:
    """The answer of turn `at` in `text`; None where what precedes or ends it is written differently there."""
    try:
        before = writer.write(turns[:at], answer_next=True)
        whole = text if at == len(turns) - 1 else writer.write(turns[: at + 1], answer_next=False)
    except LayoutError:
        return None
    fits = text.startswith(whole) and whole.startswith(before) and len(before) < len(whole)
    return (len(before), len(whole)) if fits else None


def _diverging_span(turns: list[Turn], at: int, text: str, writer: Writer) -> tuple[int, int]:
    """From where the text parts from what chat would write, as TRL does it, if the answer alone lies beyond."""
    asked = writer.write(turns[:at], answer_next=False)
    answer = text.find(turns[at]["content"].strip(), len(asked))
    if turns[at]["content"].strip() not in text:
        raise LayoutError("the chat template leaves the answer, or part of it, out")
    in_chat = writer.write(turns[:at], answer_next=True)
    parting = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(in_chat, text, strict=False)))
    start = min(parting, answer)  # an answer may open with the very words that chat would write before it
    if at < len(turns) - 1 or start < len(asked):
        raise LayoutError("the chat template rewrites the conversation once it is answered")
    return start, len(text)
