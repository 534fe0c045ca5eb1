"""Snapshots of an adapter along a run: copied at a step boundary, written by a thread of their own, thinned with time.

A snapshot is the weights, in PEFT's own format, and the place in the run, megabytes: it can be talked to, compared and
forked, with a fresh optimizer. What exact resumption needs is in the checkpoints, which are fewer.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..aside import copied_aside
from ..event_log import EventLog
from ..messages import Logged, SnapshotSaved
from ..runs import SNAPSHOTS, STATE, RunFolder, listed
from ..weights import ADAPTER, plain_name

Tensors = dict[str, torch.Tensor]

MOST = 2 * SNAPSHOTS  # those of a run that grows beyond are thinned
WAITING = 16 * 2**20  # bytes of copies that may wait for the disk; one always may


@dataclass(frozen=True)
class Copy:
    """What the run was at a step, in memory, until it is written."""

    step: int
    tensors: Tensors
    configs: list[Any]
    place: str
    pinned: frozenset[int]

    @property
    def bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Snapshots:
    """Takes those of one run. Where the disk is much slower than the run, steps are passed over."""

    def __init__(self, folder: RunFolder, log: EventLog, budget: int) -> None:
        self._folder, self._log, self._budget = folder, log, budget
        self._lock = threading.Lock()
        self._waiting: deque[Copy] = deque()  # the first is being written
        self._writer: threading.Thread | None = None  # alive while any wait
        self._complained = False

    def if_due(
        self, step: int, every: int, model: Any, trained: Tensors, *, pinned: Collection[int], place: Callable[[], str]
    ) -> None:
        """Copy the `trained` tensors of `model` (training thread) where its step is one to keep, and have it written.

        `place()` tells where the run is, for a fork to go on from.
        """
        with self._lock:
            waiting = list(self._waiting)
        taken = [*self._folder.snapshots(), *(copy.step for copy in waiting)]
        last = max((at for at in taken if at <= step), default=0)
        if step // every <= last // every:
            return
        size = sum(tensor.nbytes for tensor in trained.values())
        if waiting and size + sum(copy.bytes for copy in waiting) > WAITING:
            return
        try:
            copies = copied_aside(list(trained.values()))
        except OSError as error:  # no memory is left for them
            self._complain(step, error)
            return
        tensors = dict(zip(map(plain_name, trained), copies, strict=True))
        configs = [deepcopy(model.peft_config["default"])]
        inner = model.get_base_model()
        if hasattr(inner, "head_modules"):
            configs.append(deepcopy(inner.config))  # the labels
        with self._lock:
            self._waiting.append(Copy(step, tensors, configs, place(), frozenset(pinned)))
            if len(self._waiting) == 1:
                self._writer = threading.Thread(target=self._write_all, name=f"{self._folder.name} snapshot")
                self._writer.start()

    def finish(self) -> None:
        """Wait until all that were taken are written."""
        if self._writer is not None:
            self._writer.join()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                copy = self._waiting[0]
            self._write(copy)
            del copy
            with self._lock:
                self._waiting.popleft()
                if not self._waiting:
                    return

    def _write(self, copy: Copy) -> None:
        began = time.perf_counter()

        def write(folder: Path) -> None:
            save_file(copy.tensors, folder / ADAPTER, metadata={"format": "pt"})
            for config in copy.configs:
                config.save_pretrained(str(folder))
            (folder / STATE).write_text(copy.place, encoding="utf-8")

        try:
            if copy.bytes > self._budget:
                took, most = copy.bytes / 1e6, self._budget / 1e6
                raise OSError(f"it takes {took:.3g} MB and disk_budget is {most:.3g} MB; give more in the recipe")
            self._make_room(copy.bytes, copy.pinned)
            size = self._folder.keep(copy.step, write)
        except Exception as error:  # noqa: BLE001 - safetensors has errors of its own; a run goes on without snapshots
            self._complain(copy.step, error)
            return
        seconds = time.perf_counter() - began
        kept = self._folder.visitable()
        disk = {"bytes": size, "taken": self._folder.snapshot_bytes(), "budget": self._budget}
        self._log.append(SnapshotSaved(step=copy.step, seconds=seconds, kept=kept, **disk))

    def _complain(self, step: int, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            text = f"no snapshot of step {step}: {str(error).splitlines()[0][:200]}"
            self._log.append(Logged(level="warning", text=text, heed=True))

    def _make_room(self, size: int, pinned: frozenset[int]) -> None:
        """Let go of every other one, but the pinned, where one more, of `size` bytes, would be too many or too much.

        Raises `OSError` where the pinned alone leave no room.
        """
        while steps := self._folder.snapshots():
            taken = self._folder.snapshot_bytes()
            each = max(size, math.ceil(taken / len(steps)))  # on the disk configs come on top of the tensors
            if len(steps) < MOST and taken + each <= self._budget:
                return
            free = [step for step in steps if step not in pinned]
            gone = [step for step in steps[-2::-2] if step in free] or free[:1]
            if not gone:
                kept, most = listed(steps, steps[-1]), self._budget / 1e6
                raise OSError(
                    f"step {kept} is kept and leaves no room in disk_budget, {most:.3g} MB; give more in the recipe"
                )
            for step in gone:
                shutil.rmtree(self._folder.snapshot(step), ignore_errors=True)
