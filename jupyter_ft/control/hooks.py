"""What a run has done at the boundaries of its steps: the port calls, who lives through the run answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .batches import Batches

if TYPE_CHECKING:
    from .port import Port


@dataclass
class Hooks:
    """What happens at a boundary besides obeying: `publish(step)`, `save(step)`, and restoring at the start.

    `change()` and `changed(step)` come right before and after the optimizer changes the weights, to those of `step`.
    `save(step, asked=True)` is one that a person asked for, and so keeps.
    `rewind(step)` puts the checkpoint of a step back. `speak(step)` answers questions with the live model; the turn is
    given up meanwhile. `probe(step, at_end)` has the weights of the step answer the fixed prompts where it is time, and
    the run waits while `held()`; `measure()` adds to what an evaluation tells. `name` is the run's, for advice;
    `batches` says where those of a step come from; `behind(row)` are the rows as the user counts them (from 1) that are
    in a row of the trainer (from 0); `live` says what a change of a method's own field means to its trainer.
    `join(epoch, step)` gives rows that join at the beginning of an epoch, `joined(count)` the first of those that have.
    """

    publish: Callable[[int], None]
    save: Callable[..., None]
    restore: Callable[[Port], None] | None = None
    change: Callable[[], None] = lambda: None
    changed: Callable[[int], None] = lambda step: None
    rewind: Callable[[int], None] = lambda step: None
    speak: Callable[[int], None] = lambda step: None
    probe: Callable[[int, bool], None] = lambda step, at_end: None
    held: Callable[[], bool] = lambda: False
    measure: Callable[[], dict[str, float]] = dict
    name: str = "run"
    batches: type[Batches] = Batches
    behind: Callable[[int], list[int]] = lambda row: [row + 1]
    live: Mapping[str, Callable[[Any, Any], None]] = field(default_factory=dict)
    join: Callable[[int, int], list[dict[str, Any]]] = lambda epoch, step: []
    joined: Callable[[int], list[dict[str, Any]]] = lambda count: []
