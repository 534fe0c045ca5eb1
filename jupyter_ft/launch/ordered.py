"""What was ordered when a run was started: edits, each at its step, and after how many steps it ends.

They are in the run's record, so that they are known before its first step, whenever and wherever that is made.
"""

from __future__ import annotations

from ..control.port import Port
from ..messages import Set
from ..runs import RunFolder


def ordered(port: Port, folder: RunFolder, *, anew: bool) -> None:
    """Have a trainer that is about to begin do what was ordered. Begun `anew`, all the edits wait for their steps."""
    _, about = folder.read_recipe()
    port.obedience.until = about.get("until")
    if anew:
        await_ordered(port, folder)


def await_ordered(port: Port, folder: RunFolder) -> None:
    """Have the ordered edits that are not answered yet wait for their steps, after those that wait already."""
    _, about = folder.read_recipe()
    waiting = {edit.id for edit in port.obedience.scheduled}
    edits = [Set.model_validate(edit) for edit in about.get("edits") or ()]
    port.obedience.scheduled += [edit for edit in edits if edit.id not in waiting and port.log.answer(edit.id) is None]
