"""Stages on one base: a run that starts from the weights of another, whatever method either has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AddressError, CheckpointError, RecipeError
from ..event_log import EventLog
from ..messages import OVER, EvalDone
from ..recipe import ALIASES, Recipe, parse_recipe
from ..runs import RunFolder
from .address import parse_address
from .registry import sessions

INHERITED = ("model", "revision", "dtype", "system", "max_length")
"""What a run has of its parent's recipe, where nothing else is asked; and the adapter with its alpha."""


@dataclass(frozen=True)
class Parent:
    """Where a run starts from: the weights of `step` in `folder`, a verified checkpoint."""

    name: str
    step: int
    folder: Path
    recipe: Recipe

    def about(self) -> dict[str, Any]:
        """What the child's record says of it."""
        return {"run": self.name, "step": self.step, "path": str(self.folder), "method": self.recipe.method}

    def beneath(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`asked` over what is inherited. `RecipeError` for another model or shape of adapter: the weights fit none."""
        given = {ALIASES.get(key, key) for key in asked}
        mine = self.recipe
        inherited = {name: getattr(mine, name) for name in INHERITED if name not in given}
        if not any(key.partition(".")[0] == "adapter" for key in given):
            inherited["adapter"] = mine.adapter.model_dump()
        if mine.adapter.kind == "lora" and "alpha" not in given:
            inherited["alpha"] = mine.hyperparameters.alpha
        whole = {**inherited, **asked}
        wanted = parse_recipe(whole)
        for name in ("model", "revision", "adapter"):
            if getattr(wanted, name) != getattr(mine, name):
                raise RecipeError(
                    f"{name} is another than that of '{self.name}', whose weights would not fit; leave {name} out"
                )
        return whole


def find_parent(address: str) -> Parent:
    """The weights at `address` (`RUN`, `RUN@best`, `RUN@STEP`; a live run is saved first).

    Raises `AddressError` or `CheckpointError`, with what there is, where they cannot be started from.
    """
    asked = parse_address(address)
    if asked.at == "base":
        raise AddressError(f"'{address}': the base is what every run starts from; leave --from away")
    name = asked.session if asked.session is not None else sessions.the_one(None).name
    folder = sessions[name].run_folder if name in sessions else RunFolder.find(name)
    recipe = parse_recipe(folder.read_recipe()[0])
    if asked.at in ("live", "last"):
        _save_now(name)
        step = folder.newest_good()[0]
    else:
        step = _best(folder, name) if asked.at == "best" else int(asked.at)
    return Parent(name, step, folder.visit(step), recipe)


def _save_now(name: str) -> None:
    session = sessions.get(name)
    if session is not None and session.state not in OVER:
        session.save().wait()


def _best(folder: RunFolder, name: str) -> int:
    if name in sessions:
        step = sessions[name].best_step
    else:
        log = EventLog(folder.events)
        evaluated = [event for event in log.read(steps="none")[0].events if isinstance(event, EvalDone)]
        log.close()
        step = evaluated[-1].best_step if evaluated else None
    if step is None:
        raise CheckpointError(f"'{name}' has no best step: nothing was held out (held_out: 10%); name a step, or @last")
    return step
