"""Addresses of weights: `[SESSION][@STEP]`, STEP one of `live best last` or a number; `base` is the base model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import AddressError

_WORDS = ("live", "best", "last")
_ADDRESS = re.compile(r"(?:(?P<session>[A-Za-z][A-Za-z0-9_.-]*))?(?:@(?P<step>[A-Za-z]+|\d+))?")


@dataclass(frozen=True)
class Address:
    """`session` is None where it was left out; `at` is `base`, `live`, `best`, `last` or a step."""

    session: str | None
    at: str | int


def called(asked: str, where: str) -> str:
    """What a column is called that was asked for as `asked` and is answered by the weights at `where`."""
    return f"{asked} (nothing held out: live)" if where == "live" and asked.endswith("best") else asked


def parse_address(text: str) -> Address:
    """The address in `text`; `AddressError` where it is none. A bare word or number is a step of the open session."""
    text = text.strip()
    if text.isdigit():
        return Address(None, int(text))
    if text == "base" or text in _WORDS:
        return Address(None, text)
    match = _ADDRESS.fullmatch(text)
    if not text or match is None:
        raise AddressError(f"'{text[:80]}' is no address: write NAME, NAME@STEP, a step number, live or base")
    step = match["step"]
    if step is None:
        return Address(match["session"], "live")
    if not step.isdigit() and step not in (*_WORDS, "base"):
        raise AddressError(f"'{text}': @{step} is no step: write a number, best, live, last or base")
    return Address(match["session"], int(step) if step.isdigit() else step)
