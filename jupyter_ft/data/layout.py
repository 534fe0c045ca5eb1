"""How a conversation is written as text for a tokenizer: by its chat template, or plainly where it has none.

Training and chat both come through here, so that they agree to the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jupyter_ft.errors import DataError

from .columns import Format
from .conversations import Turn

SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool"}


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any
    bos_token_id: int | None
    eos_token: str | None
    added_tokens_decoder: Any

    def __call__(self, text: Any, **options: Any) -> Any:
        """Token ids for a text, or for each text of a list."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The conversation as the template writes it."""

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """The text of token ids."""


class LayoutError(Exception):
    """The chat template cannot write these messages; the message says why."""


@dataclass(frozen=True)
class Layout:
    """A row as text, and which characters of it are trained. `note` says where the row is not trained as usual."""

    text: str
    spans: tuple[tuple[int, int], ...]
    templated: bool
    note: str = ""


def write(tokenizer: Tokenizer, messages: Sequence[Turn], *, answer_next: bool) -> str:
    """`messages` as text; with `answer_next`, up to where the answer begins.

    A template that has no place for a system turn (Gemma's first) gets it at the head of the first user turn. Raises
    `LayoutError` where the template refuses the messages.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return _plain(tokenizer, messages, answer_next=answer_next)
    refusal: Exception | None = None
    for attempt in (list(messages), _system_folded(messages)):
        try:
            text = tokenizer.apply_chat_template(attempt, tokenize=False, add_generation_prompt=answer_next)
            return str(text)
        except (TemplateError, TypeError, IndexError, KeyError, ValueError) as error:
            refusal = refusal or error
    raise LayoutError(f"the chat template refuses it ({' '.join(str(refusal).split())})")


def folded(tokenizer: Tokenizer, messages: Sequence[Turn]) -> list[Turn]:
    """`messages` as a template takes them that has no place for a system turn; as they are where it has."""
    try:
        tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception:  # noqa: BLE001 - whatever it is, `write` says it
        return _system_folded(messages)
    return list(messages)


def _system_folded(messages: Sequence[Turn]) -> list[Turn]:
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return list(messages)
    joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": joined}, *messages[2:]]


def _plain(tokenizer: Tokenizer, messages: Sequence[Turn], *, answer_next: bool) -> str:
    end = tokenizer.eos_token or ""
    lines = []
    for turn in messages:
        after = end if turn["role"] == "assistant" else ""
        says = turn["content"] + "\n" if turn["role"] == "system" else f"{SPEAKERS[turn['role']]}: {turn['content']}"
        lines.append(says + after)
    return "\n".join([*lines, "Assistant:"] if answer_next else lines)


def bare_prompt(messages: Sequence[Turn]) -> str:
    """What precedes the answer where nothing marks the turns: the contents, a blank line between them."""
    return "\n\n".join(turn["content"] for turn in messages)


def chat_text(tokenizer: Tokenizer, messages: Sequence[Turn], trained_on: Format = "messages") -> str:
    """`messages` as the model has seen them in training, up to where its answer begins.

    `trained_on` matters only without a chat template: models trained on prompt–completion rows or on text get the
    prompt as it is. Raises `DataError` where the chat template refuses the messages.
    """
    if not tokenizer.chat_template and trained_on != "messages":
        return bare_prompt(messages)
    try:
        return write(tokenizer, messages, answer_next=True)
    except LayoutError as reason:
        raise DataError(f"the conversation cannot be put to the model: {reason}") from None


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Turn], trained_on: Format = "messages") -> list[int]:
    """The token ids of `chat_text`, with the tokenizer's own first token where no template writes it."""
    text = chat_text(tokenizer, messages, trained_on)
    first = [] if tokenizer.chat_template else first_ids(tokenizer)
    return [*first, *encode(tokenizer, [text])[0]]


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, nothing added; special tokens written in it count as such."""
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return found


def first_ids(tokenizer: Tokenizer) -> list[int]:
    """The beginning-of-text token, where the tokenizer puts one before plain text; else nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and list(tokenizer("a")["input_ids"][:1]) == [bos] else []
