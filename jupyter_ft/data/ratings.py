"""A rating of one answer, in whatever words a table has for it: good or bad."""

from __future__ import annotations

from .checks import kind_of, shown
from .conversations import RowError

_GOOD = (
    *("true", "1", "1.0", "+1", "yes", "y", "good", "up", "thumbs up", "thumbsup", "thumb up", "like", "liked", "+"),
    *("positive", "desirable", "accepted", "accept", "chosen", "preferred", "correct", "helpful", "👍", "✓", "✔", "✅"),
)
_BAD = (
    *("false", "0", "0.0", "-1", "-1.0", "no", "n", "bad", "down", "thumbs down", "thumbsdown", "thumb down", "-"),
    *("dislike", "disliked", "negative", "undesirable", "rejected", "reject", "dispreferred", "incorrect", "wrong"),
    *("unhelpful", "👎", "✗", "✘", "❌"),
)
_KNOWN = dict.fromkeys(_GOOD, True) | dict.fromkeys(_BAD, False)
_ACCEPTED = "write true or false, 1 or 0, good or bad, or up or down"


def is_good(cell: object) -> bool:
    """Whether `cell` (true, 1, "good", "thumbs up", 👍 and the like) says that the answer is a good one.

    Raises `RowError` for an empty cell and for what is neither good nor bad, such as three of five stars.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise RowError("no label", "rate it or delete the row")
    if not isinstance(cell, (str, int, float)):
        raise RowError(f"{kind_of(cell)} as label", _ACCEPTED)
    written = str(cell).strip().lower().strip(":").rstrip("\ufe0f🏻🏼🏽🏾🏿")  # an emoji may carry a colour
    for word in (written, " ".join(written.replace("_", " ").replace("-", " ").split())):
        if word in _KNOWN:
            return _KNOWN[word]
    raise RowError(f"{shown(str(cell))} as label", _ACCEPTED)
