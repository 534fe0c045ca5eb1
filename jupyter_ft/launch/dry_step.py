"""Two optimizer steps on the longest row, on weights that are thrown away, with the memory that they take counted.

Two, because the optimizer has its state from the second on. It is TRL's or transformers' own loop; nothing of a session
is there. It waits for its turn as a run does, and nothing is left of it but the base in the pool, where somebody holds
it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from ..capture import captured
from ..control.accelerated import own_state
from ..control.accounting import Accounting
from ..control.lease import LEASE, seeded_streams
from ..control.memory import free_memory, is_out_of_memory
from ..heads import masked_model, scoring_model
from ..hyperparameters import PolicyHyperparameters
from ..memory.asked import lengths_of, some_reward
from ..memory.fit import Measured
from ..methods import method_of
from ..methods.packing import pack
from ..models import POOL, Base
from ..recipe import Recipe
from .thread import aside

Row = Mapping[str, Any]


def measure(recipe: Recipe, rows: Sequence[Row], labels: tuple[str, ...] = (), start: Path | None = None) -> Measured:
    """What a step of `recipe` takes with the longest of `rows`, a whole micro-batch of it.

    The last row of the micro-batch is a shorter one where there is any, so that rows are padded as in the run. Raises
    what building the trainer raises; memory that runs out is told in the answer.
    """
    future: Future[Measured] = Future()

    def work() -> None:
        try:
            with captured(lambda level, line: None), own_state():
                future.set_result(_measure(recipe, rows, labels, start))
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            future.set_exception(error)

    aside(work, "dry step")  # on a thread of its own, as a run is; Ctrl-C stops waiting for it
    return future.result()


def _measure(recipe: Recipe, rows: Sequence[Row], labels: tuple[str, ...], start: Path | None) -> Measured:
    asked = {key: getattr(recipe, key) for key in ("revision", "dtype", "quantization") if hasattr(recipe, key)}
    base = POOL.get(recipe.model, report=lambda *_: None, turn=LEASE, **asked)
    batch = _worst(recipe, rows)
    length = lengths_of(batch)[0].longest
    began, failure = time.perf_counter(), ""
    peak = weights = 0
    with LEASE, seeded_streams(recipe.seed), tempfile.TemporaryDirectory() as folder:
        try:
            method = method_of(recipe, base.speaks)
            masked = masked_model if method.masks else Base.shell
            model = scoring_model(base, labels) if method.scores else masked(base)
            peak, weights = _counted(base, model, _two_steps(recipe), batch, Path(folder), start=start)
            del model
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        free_memory()
    return Measured(peak, weights, len(batch), length, time.perf_counter() - began, failure)


def _worst(recipe: Recipe, rows: Sequence[Row]) -> list[Row]:
    """A micro-batch of the longest row, its last place taken by a shorter one."""
    if recipe.packing:
        rows = pack(list(rows), recipe.max_length)[0]
    rows = [dict(row) for row in rows]
    at, size = lengths_of(rows)[1], recipe.hyperparameters.batch_size
    shorter = min(rows, key=lambda row: lengths_of([row])[0].longest)
    return [rows[at]] * (size - 1) + [shorter if size > 1 else rows[at]]


def _two_steps(recipe: Recipe) -> Recipe:
    live, passed = recipe.hyperparameters, {**recipe.trainer}
    changed: dict[str, Any] = {"accumulation": min(live.accumulation, 2), "max_steps": 2, "epochs": 1.0}
    if isinstance(live, PolicyHyperparameters):
        del changed["accumulation"]  # it decides how many answers are made at once
        changed["reward_weights"] = (1.0,)
        passed["generation_kwargs"] = {"min_new_tokens": live.max_completion_length}  # the longest that there can be
    else:
        passed["train_sampling_strategy"] = "sequential"
    return recipe.model_copy(update={"hyperparameters": live.model_copy(update=changed), "trainer": passed})


def _counted(
    base: Base, model: Any, recipe: Recipe, batch: list[Row], folder: Path, *, start: Path | None
) -> tuple[int, int]:
    """The peak in bytes, and those of the base."""
    live, method = recipe.hyperparameters, method_of(recipe, base.speaks)
    rows = batch * (2 * live.accumulation)
    more: dict[str, Any] = {"rewards": [some_reward]} if method.generates else {}
    if isinstance(live, PolicyHyperparameters):
        rows = batch * (2 * live.geometry.prompts)
    held = [*base.model.parameters(), *base.model.buffers(), *model.parameters(), *model.buffers()]  # a head's as well
    held += [tensor for weight in base.model.parameters() for tensor in _statistics(weight)]
    count = _Count(held[0].device)
    with count:
        weights = count.hold(held)
        trainer = method.build(model, base.new_tokenizer(), recipe, rows, folder, start=start, **more)
        trainer.train()
    return count.peak, weights


def _statistics(weight: Any) -> list[torch.Tensor]:
    """What bitsandbytes keeps beside a quantised weight: the scales of its blocks or rows, and theirs."""
    state, found = getattr(weight, "quant_state", None), [getattr(weight, "SCB", None)]
    while state is not None:
        found += vars(state).values()
        state = getattr(state, "state2", None)
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]


class _Count:
    """CUDA's own count of the bytes that live, where it exists; else `Accounting`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._accounting = None if self._cuda else Accounting()
        self._before = self._held = self.peak = 0

    def __enter__(self) -> _Count:
        if self._accounting is not None:
            self._accounting.__enter__()  # type: ignore[no-untyped-call]
        else:
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._before = torch.cuda.memory_allocated(self._cuda)
        return self

    def hold(self, tensors: list[torch.Tensor]) -> int:
        """Count these as well, which are there already; what they take."""
        if self._accounting is not None:
            return self._accounting.hold(tensors)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self._held = sum(storages.values())
        return self._held

    def __exit__(self, *error: Any) -> None:
        if self._accounting is not None:
            self._accounting.__exit__(*error)  # type: ignore[no-untyped-call]
            self.peak = self._accounting.peak
        else:
            self.peak = torch.cuda.max_memory_allocated(self._cuda) - self._before + self._held
