"""What was ordered when a run was started: edits, each at its step, and after how many steps it ends.

They are in the run's record, so that they are known before its first step, whenever and wherever that is made.
"""

from __future__ import annotations

from ..control.port import Port
from ..event_log import EventLog
from ..messages import Refused, Set
from ..runs import RunFolder


def ordered(port: Port, folder: RunFolder, *, anew: bool) -> None:
    """Have a trainer that is about to begin do what was ordered. Begun `anew`, all the edits wait for their steps."""
    _, about = folder.read_recipe()
    port.obedience.until = about.get("until")
    if anew:
        port.obedience.scheduled = edits_ordered(port.log, folder)


def edits_ordered(log: EventLog, folder: RunFolder) -> list[Set]:
    """The edits that a run was started with, but for those that were refused."""
    _, about = folder.read_recipe()
    edits = [Set.model_validate(edit) for edit in about.get("edits") or ()]
    return [edit for edit in edits if not isinstance(log.answer(edit.id), Refused)]
