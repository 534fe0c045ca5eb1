"""What a session does with the steps that it keeps; `Session` adds what it is and how it is steered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..messages import OVER, Applied, Command, Rewind, Set, SnapshotSaved
from ..runs import STATE, steps_between
from .answers import Receipt

if TYPE_CHECKING:
    from ..event_log import EventLog
    from ..hyperparameters import Hyperparameters
    from ..recipe import Recipe
    from ..runs import RunFolder
    from .handle import Session

WRITING = 5.0  # seconds that a snapshot may take to be written, before it is said not to be there


class Travelling:
    """Going on from a step that is kept."""

    run_folder: RunFolder
    recipe: Recipe
    log: EventLog

    if TYPE_CHECKING:  # Session's

        @property
        def name(self) -> str: ...  # noqa: D102
        @property
        def step(self) -> int: ...  # noqa: D102
        @property
        def state(self) -> str: ...  # noqa: D102
        @property
        def total_steps(self) -> int: ...  # noqa: D102
        @property
        def hyperparameters(self) -> Hyperparameters: ...  # noqa: D102
        def submit(self, command: Command) -> Receipt: ...  # noqa: D102

    @property
    def steps(self) -> list[int]:
        """The steps with a checkpoint from which the run can be resumed."""
        return self.run_folder.checkpoints()

    @property
    def saved(self) -> list[int]:
        """Those of `steps` that were saved by `save()`: they stay, however many come after them."""
        return self.run_folder.saved()

    @property
    def visitable(self) -> list[int]:
        """The steps whose weights are kept: to be talked to, compared and forked."""
        return self.run_folder.visitable()

    def keeps(self, step: int) -> bool:
        """Whether the weights of `step` are kept. Waits for those of a step just done, which are being written."""
        if step not in self.visitable and self._writes(step):
            self.log.wait_for(lambda: step in self.visitable or not self._writes(step), WRITING)
        return step in self.visitable

    def _writes(self, step: int) -> bool:
        last = self.log.newest(SnapshotSaved)
        if self.state in OVER or not (last.step if last is not None else 0) < step <= self.step:
            return False
        every = self.hyperparameters.snapshot_steps or steps_between(self.total_steps)
        return step % every == 0 and self.recipe.adapter.kind != "full" and self.recipe.method != "attached"

    def rewind(self, step: int) -> Receipt:
        """Take back the steps after `step` (one of `steps`), with their edits and checkpoints, and go on from there.

        Paused, the run stays so; over, it goes on. Raises `CheckpointError` for a step that has no checkpoint.
        """
        if step not in self.steps:
            kept = ", ".join(map(str, self.steps)) or "none yet"
            fork = f"; of {step} the weights alone are kept: fork it" if step in self.visitable else ""
            raise CheckpointError(f"'{self.name}' cannot go back to step {step}; it can to: {kept}{fork}")
        if step == self.step and self.state in OVER:
            go_on = "" if self.state == "finished" else f"; %ft resume {self.name} goes on"
            raise CheckpointError(f"'{self.name}' is {self.state} at step {step}: nothing after it to take back{go_on}")
        return self.submit(Rewind(step=step))

    def fork(
        self,
        name: str,
        at: str | int = "live",
        *,
        fresh_optimizer: bool = False,
        edits: Sequence[Mapping[str, Any]] = (),
        until: int | None = None,
        **changes: Any,
    ) -> Session:
        """A new run that goes on from the weights at `at` (`live`, `best` or a step of `visitable`) with `changes`.

        Where live settings alone are changed, the optimizer, the schedule and the place in the rows come along. With
        fixed ones (`data`, `method`, `max_length`, …) it starts from the weights, with a fresh optimizer. With
        `fresh_optimizer` the optimizer stays behind though it is kept: the fork is to the bit that of a snapshot of
        the step. `edits` and `until` as in `finetune`. Raises as that does, and `AddressError` or `CheckpointError` for
        weights that are not kept.
        """
        from .fork import fork

        return fork(f"{self.name}@{at}", name, changes, fresh_optimizer=fresh_optimizer, edits=edits, until=until)

    def replay(self, to: str | Path | None = None) -> Path:
        """Write a Python script that trains this run again, with every change made by hand, and give its path.

        It goes to `to`, else to `replay.py` in the run folder. Raises `RunFolderError` as `replay_script` does.
        """
        from .replay import replay_script

        return replay_script(self.run_folder.path, to)


def unmade(session: Session) -> list[Set]:
    """The changes that a fork is to begin with, until they are made: it may be stopped or killed before that."""
    fork = session.run_folder.read_recipe()[1].get("fork") or {}
    command = fork.get("command")
    if command is None or session.step > fork["step"] or isinstance(session.log.answer(command), Applied):
        return []
    return [Set(id=command, changes=fork["changes"], step=None)]


def ahead_of(folder: RunFolder, step: int) -> list[str]:
    """The edits that were in force for the step after `step` when its checkpoint was written."""
    state = json.loads((folder.checkpoint(step) / STATE).read_text(encoding="utf-8"))
    return [str(command) for command in state["ahead"]]
