"""Stages on one base: a run that starts from the weights of another, whatever method either has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AddressError, CheckpointError, RecipeError, Refused
from ..event_log import read_events, that_count
from ..hyperparameters import METHOD_WORDS
from ..messages import OVER, EvalDone, Save
from ..recipe import ALIASES, Recipe, inner_aliases, lift, parse_recipe
from ..runs import RunFolder
from .address import parse_address
from .registry import sessions

SHAPED = ("adapter", "adapter.kind", "adapter.r", "adapter.targets")
INHERITED = ("model", "revision", "dtype", "quantization", "system", "max_length")
"""What a run has of its parent's recipe, where nothing else is asked; and the adapter with its alpha."""


START = "@start"


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
        asked = before = lift(asked)
        asked = {key: value for key, value in asked.items() if (key, value) != ("adapter", {})}
        given = {ALIASES.get(key, key) for key in asked}
        mine = self.recipe
        inherited = {name: getattr(mine, name) for name in INHERITED if name not in given}
        method = str(asked.get("method", "sft"))
        if METHOD_WORDS.get(method, method) == "classification":
            inherited.pop("system", None)  # a text is classified as it is
        asked = {key: value for key, value in asked.items() if ALIASES.get(key, key) not in SHAPED}
        inherited["adapter"] = self._adapter(before)
        if mine.adapter.kind != "full" and "alpha" not in given:
            inherited["alpha"] = self._alpha()  # it may have been changed since the start
        whole = {**inherited, **asked}
        wanted = parse_recipe(whole)
        for name in ("model", "revision"):
            if getattr(wanted, name) != getattr(mine, name):
                raise RecipeError(
                    f"'{self.name}' was trained with another {name}, so its weights do not fit; leave {name} out"
                )
        kinds = {wanted.adapter.kind, mine.adapter.kind}
        if len(kinds) > 1 and kinds != {"lora", "rslora"}:
            raise RecipeError(
                f"'{self.name}' was trained with adapter.kind = {mine.adapter.kind}, so its weights do not fit; "
                "leave it out, or start a new run from the base"
            )
        return whole

    def _adapter(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The adapter of this run with what is `asked` otherwise: its weights are put into another rank."""
        adapter = self.recipe.adapter.model_dump()
        given = asked.get("adapter") or {}
        adapter |= inner_aliases(given) if isinstance(given, Mapping) else {"kind": given}
        names = {ALIASES.get(key, key): value for key, value in asked.items()}
        return adapter | {name.removeprefix("adapter."): names[name] for name in SHAPED[1:] if name in names}

    def _alpha(self) -> float:
        config = self.folder / "adapter_config.json"
        if not config.is_file():  # `look_at` a live run: nothing of its step is saved
            return float(self.recipe.hyperparameters.alpha)
        return float(json.loads(config.read_text(encoding="utf-8"))["lora_alpha"])


def find_parent(address: str, *, save: bool = True) -> Parent:
    """The weights at `address` (`RUN`, `RUN@best`, `RUN@STEP`; a live run is saved first, but for a mere look).

    `RUN@start` are those that a run itself began with, which it keeps: of the run that was its parent.

    Raises `AddressError` or `CheckpointError`, with what there is, where they cannot be started from.
    """
    if address.endswith(START):
        return _began_with(address.removesuffix(START))
    asked = parse_address(address)
    if asked.at == "base":
        raise AddressError(f"'{address}': the base is what every run starts from; leave --from away")
    name = asked.session if asked.session is not None else sessions.the_one(None).name
    folder = sessions[name].run_folder if name in sessions else RunFolder.find(name)
    recipe = parse_recipe(folder.read_recipe()[0])
    if asked.at in ("live", "last"):
        if save:
            _save_now(name)
        step = folder.newest_good()[0]
    else:
        step = _best(folder, name) if asked.at == "best" else int(asked.at)
        if name in sessions:
            sessions[name].keeps(step)  # what is being written is waited for
    return Parent(name, step, folder.visit(step), recipe)


def look_at(address: str) -> Parent:
    """The run at `address` as it is, to check what is asked of it: a live one is not saved for that. Raises likewise.

    Its `folder` may not be there.
    """
    asked = None if address.endswith(START) else parse_address(address)
    if asked is not None and asked.at in ("live", "last"):
        session = sessions.the_one(None) if asked.session is None else sessions.get(asked.session)
        if session is not None and session.state not in OVER:
            now = session.recipe.model_copy(update={"hyperparameters": session.hyperparameters})
            return Parent(session.name, session.step, session.run_folder.checkpoint(session.step), now)
    return find_parent(address, save=False)


def _began_with(name: str) -> Parent:
    folder = RunFolder.find(name)
    asked, about = folder.read_recipe()
    if "parent" not in about or not folder.start.is_dir():
        raise CheckpointError(f"'{name}' did not begin with weights of another run, so there is no {name}{START}")
    before = about["parent"]
    return Parent(before["run"], int(before["step"]), folder.start, parse_recipe(asked))


def known_parent(child: str, address: str) -> Parent | None:
    """The parent of a run that is there, by what that run keeps of it; None where it began with another address."""
    folder = RunFolder.find(child)
    asked, about = folder.read_recipe()
    if asked.get("start_from") != address or "parent" not in about:
        return None
    return Parent(about["parent"]["run"], int(about["parent"]["step"]), folder.start, parse_recipe(asked))


def _save_now(name: str) -> None:
    if name in sessions and sessions[name].state not in OVER:
        with suppress(Refused):  # it has ended meanwhile, and its last checkpoint is there
            sessions[name].submit(Save(keep=False)).wait()  # nobody asked for it to stay


def _best(folder: RunFolder, name: str) -> int:
    if name in sessions:
        step = sessions[name].best_step
    else:
        size = folder.events.stat().st_size  # read only: another process may be writing to it
        evaluated = that_count(read_events(folder.events, size), EvalDone)
        step = evaluated[-1].best_step if evaluated else None
    if step is None:
        held_out = folder.read_recipe()[0].get("held_out") is not None
        why = "it has not been evaluated yet" if held_out else "nothing was held out (held_out: 10%)"
        raise CheckpointError(f"'{name}' has no best step: {why}; name a step, or @last")
    return step
