"""Pairs that are judged while a preference run trains: they join it at its next epoch.

    data/joined.jsonl    a line for each epoch that was begun: {"epoch", "step", "examples", "rows"}

What joined an epoch is on disk before the epoch begins, and a run that goes on from an earlier checkpoint is given the
same rows at the same epoch again, whatever was judged since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data import Example, Examples, Spool, is_feedback, load
from ..errors import DataError, FineTuneError
from ..event_log import EventLog
from ..messages import Logged
from ..recipe import Recipe

Row = dict[str, Any]
Render = Callable[[Examples], Sequence[Any]]
JOINED = "joined.jsonl"
JOINS = ("dpo", "reward")
"""The methods whose runs others' judgements may join: rows of pairs, each for itself."""


class Meanwhile:
    """What joins a run of `recipe`, which began with `examples`; `render(examples)` gives rows for its trainer.

    Judgements of the run that its data name, and of the run itself, but for the held-out fifth.
    """

    def __init__(
        self,
        recipe: Recipe,
        examples: Examples,
        folder: Path,
        log: EventLog,
        render: Render,
    ) -> None:
        self._recipe, self._examples, self._log, self._render = recipe, examples, log, render
        self._sources = (recipe.data, f"feedback:{folder}")
        self._file = folder / "data" / JOINED
        self._begun = self._read()

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        examples: Examples,
        folder: Path,
        log: EventLog,
        render: Render,
    ) -> Meanwhile | None:
        """For a run that may be joined; None for another."""
        came = is_feedback(recipe.data) or (folder / "data" / JOINED).exists()  # the second: a replay of such a run
        may = recipe.method in JOINS and came
        return cls(recipe, examples, folder, log, render) if may else None

    def before(self, count: int) -> list[Row]:
        """The first `count` rows that have joined, for a checkpoint that was written with them."""
        return [row for begun in self._begun for row in begun["rows"]][: max(0, count)]

    def at_epoch(self, epoch: int, step: int) -> list[Row]:
        """What joins at the beginning of `epoch` (from 0), before the step after `step`."""
        begun = next((begun for begun in self._begun if begun["epoch"] == epoch), None)
        if begun is None:
            try:
                begun = self._begin(epoch, step)
            except (FineTuneError, OSError) as error:
                self._say(f"no pair judged meanwhile joins at epoch {epoch + 1}: {error}", "warning")
                return []
        rows = begun["rows"]
        if rows:
            are = "pair judged meanwhile joins" if len(rows) == 1 else "pairs judged meanwhile join"
            where = f"{self._file.parent.name}/{self._file.name}"  # not what they say: the log may be passed on
            self._say(f"{len(rows)} {are} at epoch {epoch + 1}, from step {step + 1} on (named in {where})")
        return list(rows)

    def _begin(self, epoch: int, step: int) -> dict[str, Any]:
        found = self._fresh()
        rows = list(self._render(found)) if found is not None else []
        begun = {"epoch": epoch, "step": step, "examples": list(found.rows) if found else [], "rows": rows}
        self._write([*self._begun, begun])
        self._begun.append(begun)
        return begun

    def _fresh(self) -> Examples | None:
        """The judgements that are not among the rows yet; None where there are none."""
        known = {_key(row) for row in self._examples.rows}
        known |= {_key(row) for begun in self._begun for row in begun["examples"]}
        fresh: Examples | None = None
        for source in dict.fromkeys(self._sources):
            try:
                found = load(source, {}, method=self._recipe.method)
            except DataError:  # nothing (more) is judged there
                continue
            new = [at for at, row in enumerate(found.rows) if _key(row) not in known]
            known |= {_key(found.rows[at]) for at in new}
            fresh = _joined(fresh, found, new)
        return fresh

    # --- the file ---

    def _read(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        begun = []
        for line in self._file.read_text(encoding="utf-8").splitlines():
            try:
                begun.append(json.loads(line))
            except ValueError:
                break  # torn by a kill: that epoch had not begun
        return begun

    def _write(self, begun: list[dict[str, Any]]) -> None:
        """Keep what joins, whole or not at all. Raises `OSError` where the disk refuses."""
        partial = self._file.with_name(f".{self._file.name}.part")
        self._file.parent.mkdir(exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(one) + "\n" for one in begun)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._file)

    def _say(self, text: str, level: str = "info") -> None:
        self._log.append(Logged(level=level, text=text))


def _key(row: Example) -> str:
    return json.dumps(row, sort_keys=True)


def _joined(before: Examples | None, found: Examples, new: list[int]) -> Examples | None:
    if not new:
        return before
    rows = [found.rows[at] for at in new]
    return replace(found, rows=Spool([*(before.rows if before else ()), *rows]), numbers=None)
