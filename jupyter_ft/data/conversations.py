"""One conversation: turns with a role and a content, as OpenAI or ShareGPT write them, checked and made uniform."""

from __future__ import annotations

from collections.abc import Mapping

from jupyter_ft.errors import did_you_mean

from .checks import kind_of, shown

ROLES = ("system", "user", "assistant", "tool")
_THEIR_ROLES = {"human": "user", "gpt": "assistant"}
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
