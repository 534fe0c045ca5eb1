"""What a session does with the steps that it keeps; `Session` adds what it is and how it is steered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..runs import RunFolder
    from .handle import Session


class Travelling:
    """Going on from a step that is kept."""

    run_folder: RunFolder

    if TYPE_CHECKING:  # Session's

        @property
        def name(self) -> str: ...  # noqa: D102

    @property
    def steps(self) -> list[int]:
        """The steps with a checkpoint from which the run can be resumed."""
        return self.run_folder.checkpoints()

    def fork(self, name: str, at: str | int = "live", **changes: Any) -> Session:
        """A new run that goes on from the weights at `at` (`live`, `best` or a step of `steps`) with `changes`.

        Where live settings alone are changed, the optimizer, the schedule and the place in the rows come along. With
        fixed ones (`data`, `method`, `max_length`, …) it starts from the weights, with a fresh optimizer. Raises as
        `finetune` does, and `AddressError` or `CheckpointError` for weights that are not kept.
        """
        from .fork import fork

        return fork(f"{self.name}@{at}", name, changes)
