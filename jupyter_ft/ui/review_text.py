"""A review as text, for a terminal and for where nobody looks: the pair on the table, and how to judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_ft.ui.watched import printable

if TYPE_CHECKING:
    from jupyter_ft.session.review import Desk


def review_text(desk: Desk) -> str:
    """The pair on the table and how far the review is; which weights gave an answer only where it is not blind."""
    pair, progress = desk.pair(), desk.progress
    whose = f" by {desk.reviewer}" if desk.reviewer else ""
    lines = [f"review of {desk.session.name}{whose} · {progress.said}"]
    if pair is None:
        lines.append(f"  {desk.error or ('no pair is left' if desk.done else 'the first pair is being prepared')}")
    else:
        told = ("", "") if desk.blind else (f" ({pair.left_at})", f" ({pair.right_at})")
        lines += [
            f"  {pair.number}. {pair.question}",
            f"  left{told[0]}:  {pair.left}",
            f"  right{told[1]}: {pair.right}",
        ]
        lines.append(f"  {desk.session.name}.desk.judge('left'), or right, tie, both_bad, skip; .undo() takes it back")
    return printable("\n".join(lines))
