"""One conversation: turns with a role and a content, as OpenAI or ShareGPT write them, checked and made uniform."""

from __future__ import annotations

from collections.abc import Mapping

from jupyter_ft.errors import did_you_mean

from .checks import kind_of, shown

ROLES = ("system", "user", "assistant", "tool")
_PLAIN_ROLES = {"human": "user", "gpt": "assistant"}
_OTHER_ROLES = {  # of ShareGPT's descendants
    **dict.fromkeys(("prompter", "question", "customer"), "user"),
    **dict.fromkeys(
        ("chatgpt", "bot", "model", "ai", "bing", "bard", "agent", "function_call", "tool_call"), "assistant"
    ),
    **dict.fromkeys(("function", "function_response", "tool_response", "observation", "ipython"), "tool"),
    "developer": "system",
}
_THEIR_ROLES = _PLAIN_ROLES | _OTHER_ROLES
_KNOWN_KEYS = frozenset({"role", "content", "from", "value"})

Turn = dict[str, str]


class RowError(Exception):
    """A row cannot be used: what is wrong (as a noun phrase), the fix, and the turn (from 1) where there is one."""

    def __init__(self, what: str, fix: str, turn: int | None = None) -> None:
        super().__init__(what, fix, turn)
        self.what, self.fix, self.turn = what, fix, turn


def conversation(cell: object) -> tuple[list[Turn], set[str]]:
    """The turns in `cell`, as `role` and `content`, and the names of other keys that hold something.

    Raises `RowError` for a cell that is no list of turns, an unknown role, an empty content, or no assistant turn.
    """
    if cell is None or cell in ([], (), ""):
        raise RowError("no messages", "fill them in or delete the row")
    if not isinstance(cell, (list, tuple)):
        raise RowError(f"{kind_of(cell)} as messages", "write a list of {role, content}")
    turns = [_turn(given, number) for number, given in enumerate(cell, 1)]
    if not any(turn["role"] == "assistant" for turn in turns):
        raise RowError("no turn by the assistant, so nothing to learn", "add an answer or delete the row")
    return turns, {str(key) for given in cell for key in given if key not in _KNOWN_KEYS and given[key]}


def other_roles(cell: object) -> dict[str, str]:
    """The roles in a good `cell` that are named as few do, and which of ours each was taken for."""
    named = {str(given.get("role", given.get("from"))) for given in cell} if isinstance(cell, (list, tuple)) else set()
    return {role: _OTHER_ROLES[role.lower()] for role in sorted(named) if role.lower() in _OTHER_ROLES}


def two_answers(prompt: object, answers: Mapping[str, object]) -> tuple[list[Turn], str, str]:
    """The turns before two answers (`chosen`, `rejected`) and the answers, as TRL's preference rows have them.

    Each may be a text or a list of turns; without a `prompt`, it is what both conversations begin with. Raises
    `RowError` as `conversation` does, and where the two have nothing to answer, or more than an answer besides.
    """
    before = asked_turns(prompt)
    told = [_answer(answers.get(name), name) for name in ("chosen", "rejected")]
    if not before:
        one, other = told
        shared = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))
        shared = min(shared, len(one) - 1, len(other) - 1)
        before, told = one[:shared], [one[shared:], other[shared:]]
    if not before:
        raise RowError("no prompt", "add a column with what was asked: columns: {prompt: …}")
    for name, turns in zip(("chosen", "rejected"), told, strict=True):
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise RowError(
                f"more than one answer as {name}", "let the two conversations differ in the last answer alone"
            )
    return before, told[0][0]["content"], told[1][0]["content"]


def rated_answer(prompt: object, completion: object, messages: object = None) -> tuple[list[Turn], str]:
    """The turns before an answer, and the answer: `prompt` and `completion`, or the last turn of `messages`.

    Prompt and completion may each be a text or a list of turns. Raises `RowError` as `conversation` does, and where
    nothing was asked or the answer is not one turn by the assistant.
    """
    turns = (
        conversation(messages)[0]
        if messages is not None
        else [*asked_turns(prompt), *_answer(completion, "completion")]
    )
    before, last = turns[:-1], turns[-1]
    if last["role"] != "assistant":
        raise RowError("a last turn that is no answer", "end it with the answer that is rated")
    if not before:
        raise RowError("no prompt", "fill it in or delete the row")
    return before, last["content"]


def to_answer(prompt: object, messages: object = None) -> tuple[list[Turn], bool]:
    """The turns to answer, `prompt` (a text or turns) or `messages`, without an answer at their end; whether one was.

    Raises `RowError` where nothing is asked.
    """
    turns = asked_turns(messages if messages is not None else prompt)
    answered = bool(turns) and turns[-1]["role"] == "assistant"
    turns = turns[:-1] if answered else turns
    if not any(turn["role"] != "system" and turn["content"].strip() for turn in turns):
        raise RowError("no prompt", "fill it in or delete the row")
    return turns, answered


def asked_turns(prompt: object) -> list[Turn]:
    """The turns of a prompt, which may be a text or a list of turns; none where there is none. Raises `RowError`."""
    if prompt is None or prompt in ([], (), ""):
        return []
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, (list, tuple)):
        raise RowError(f"{kind_of(prompt)} as prompt", "write it as text or a list of {role, content}")
    return [_turn(given, number) for number, given in enumerate(prompt, 1)]


def _answer(cell: object, name: str) -> list[Turn]:
    if isinstance(cell, str) and cell.strip():
        return [{"role": "assistant", "content": cell}]
    if cell is None or isinstance(cell, str):
        raise RowError(f"no {name}", "fill it in or delete the row")
    try:
        return conversation(cell)[0]
    except RowError as reason:
        raise RowError(f"{reason.what} in {name}", reason.fix, reason.turn) from None


def _turn(given: object, number: int) -> Turn:
    if not isinstance(given, Mapping):
        raise RowError(f"{kind_of(given)} as a turn", "write each turn as {role, content}", number)
    role = given.get("role", given.get("from"))
    content = given.get("content", given.get("value"))
    if not isinstance(role, str):
        raise RowError("no role", f"add one of {', '.join(ROLES)}", number)
    known = _THEIR_ROLES.get(role.lower(), role.lower())
    if known not in ROLES:
        near = did_you_mean(role, [*ROLES, *_THEIR_ROLES])
        raise RowError(f"unknown role {shown(role)}", f"use one of {', '.join(ROLES)}{near}", number)
    if content is None or (known in {"user", "assistant"} and content == ""):
        raise RowError(f"no content ({known})", "fill it in or delete the row", number)
    if not isinstance(content, str):
        raise RowError(f"{kind_of(content)} as content ({known})", "write it as text", number)
    return {"role": known, "content": content}
