"""What is ordered when a run is started: edits at their steps, where it ends, and which rows it is to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..data import Examples
from ..errors import DataError, RecipeError
from ..hyperparameters import Hyperparameters
from ..messages import Set
from ..recipe import as_plain, change


class Ahead(NamedTuple):
    """Edits in the order in which they were given, and after how many steps the run stops (None: at its end)."""

    edits: Sequence[Set] = ()
    until: int | None = None

    def about(self) -> dict[str, Any]:
        """What a run's record says of it; nothing where nothing is ordered."""
        edits = {"edits": [edit.model_dump(mode="json") for edit in self.edits]} if self.edits else {}
        return edits | ({"until": self.until} if self.until is not None else {})


NOTHING_AHEAD = Ahead()


def ordered_ahead(edits: Sequence[Mapping[str, Any]], until: int | None, now: Hyperparameters, done: int = 0) -> Ahead:
    """`edits`, each `{"step": N, …}`, checked in the order of their steps; `done` steps are behind.

    `RecipeError` names the first wrong one.
    """
    if until is not None and (not isinstance(until, int) or isinstance(until, bool) or until <= done):
        raise RecipeError(f"until = {until!r:.60}: should be a number of steps, from {done + 1}")
    if not isinstance(edits, Sequence) or not all(isinstance(edit, Mapping) for edit in edits):
        raise RecipeError(f'edits = {edits!r:.60}: should be a list like [{{"step": 20, "learning_rate": 1e-4}}]')
    made: list[Set] = []
    for number, edit in enumerate(edits, 1):
        step = as_plain(edit.get("step"))
        if not isinstance(step, int) or isinstance(step, bool) or step <= done:
            raise RecipeError(
                f'edits, number {number}: "step" should say before which step it is made, from {done + 1}'
            )
        made.append(Set(changes={key: as_plain(value) for key, value in edit.items() if key != "step"}, step=step))
    for number, one in sorted(enumerate(made, 1), key=lambda each: each[1].step or 0):
        try:
            now = change(now, one.changes)
        except RecipeError as error:
            raise RecipeError(f"edits, number {number} (step {one.step}): {error}") from None
    return Ahead(made, until)


def check_fingerprints(examples: Examples, wanted: Mapping[str, str]) -> None:
    """`DataError` where rows have not the SHA-256 `wanted`: of `data`, or of `held_out` where that is other data."""
    found = {"data": (examples.name, examples.fingerprint)}
    for name, beside in examples.beside.items():
        found["held_out"] = (name, beside.fingerprint)
    for what, digest in wanted.items():
        if what not in found:
            raise DataError(f"fingerprints: there is no {what}; there are: {', '.join(found)}")
        name, now = found[what]
        if now != digest:
            raise DataError(
                f"{what}: {name} has changed (its rows are {now[:12]}… and were {digest[:12]}…); put the old rows back"
            )
