"""What is taken home: the weights of one step of a run, and what of the run belongs to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import Format
from ..demo import HUB_ID
from ..models import Base
from ..recipe import Recipe
from ..runs import RunFolder
from ..sampling.judge import Judging
from ..sampling.probes import Probe

Report = Callable[[str, int, int], None]
"""Told of progress: what, done, total (0 where unknown)."""
_SNAPSHOT = re.compile(r"/models--[^/]+/snapshots/([0-9a-f]{40})$")


@dataclass(frozen=True)
class Origin:
    """The weights of `step`, in `weights` (verified), over `base`; `prompts` are what it is tried on.

    `judging` tells how it scores, where it does not speak; `beside` whether a run computes meanwhile.
    """

    name: str
    step: int
    weights: Path
    recipe: Recipe
    trained_on: Format
    folder: RunFolder
    base: Base
    judging: Judging | None
    prompts: list[Probe]
    beside: bool = False

    @property
    def full(self) -> bool:
        """Whether every weight was trained: there is no adapter."""
        return self.recipe.adapter.kind == "full"

    @property
    def dtype(self) -> Any:
        """The dtype of the base."""
        return self.base.model.config.dtype

    @property
    def hub_base(self) -> tuple[str, str | None] | None:
        """The hub id of the base and its commit, where that is known; None for a folder of one's own."""
        if self.recipe.model == "demo":
            return HUB_ID, None
        if Path(self.recipe.model).expanduser().is_dir():
            return None
        commit = _SNAPSHOT.search(Path(self.base.path).as_posix())
        return self.recipe.model, commit[1] if commit else self.recipe.revision
