"""Snapshots of an adapter along a run: copied at a step boundary, written by a thread of their own, thinned with time.

A snapshot is the weights, in PEFT's own format, and the place in the run, megabytes: it can be talked to, compared and
forked, with a fresh optimizer. What exact resumption needs is in the checkpoints, which are fewer.
"""

from __future__ import annotations

import copy
import shutil
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..event_log import EventLog
from ..messages import Logged, SnapshotSaved
from ..runs import STATE, RunFolder
from ..weights import ADAPTER, plain_name

MOST = 50  # of a run, spread over it; those that grow beyond twice as many are thinned


class Snapshots:
    """Takes those of one run. Written one at a time; where the disk is slower than the run, steps are passed over."""

    def __init__(self, folder: RunFolder, log: EventLog, budget: int) -> None:
        self._folder, self._log, self._budget = folder, log, budget
        self._writing: threading.Thread | None = None
        self._size = 0  # bytes of the last
        self._complained = False

    def if_due(self, step: int, every: int, model: Any, *, pinned: Collection[int], place: Callable[[], str]) -> None:
        """Copy the adapter of `model` (training thread) where its step is one to keep, and have it written.

        `place()` tells where the run is, for a fork to go on from.
        """
        last = max((at for at in self._folder.snapshots() if at <= step), default=0)
        if step // every <= last // every:
            return
        if self._writing is not None and self._writing.is_alive():
            return
        tensors = {
            plain_name(name): p.detach().to("cpu", copy=True).contiguous()
            for name, p in model.named_parameters()
            if p.requires_grad
        }
        configs = [copy.deepcopy(model.peft_config["default"])]
        inner = model.get_base_model()
        if hasattr(inner, "head_modules"):
            configs.append(copy.deepcopy(inner.config))  # the labels
        args = (step, tensors, configs, place(), frozenset(pinned))
        self._writing = threading.Thread(target=self._write, args=args, name=f"{self._folder.name} snapshot")
        self._writing.start()

    def finish(self) -> None:
        """Wait for the one that is being written."""
        if self._writing is not None:
            self._writing.join()

    def _write(
        self, step: int, tensors: dict[str, torch.Tensor], configs: list[Any], place: str, pinned: frozenset[int]
    ) -> None:
        began = time.perf_counter()

        def write(folder: Path) -> None:
            save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
            for config in configs:
                config.save_pretrained(str(folder))
            (folder / STATE).write_text(place, encoding="utf-8")

        try:
            self._size = sum(t.numel() * t.element_size() for t in tensors.values())
            if self._size > self._budget:
                took, most = self._size / 1e6, self._budget / 1e6
                raise OSError(f"it takes {took:.3g} MB and disk_budget is {most:.3g} MB; give more in the recipe")
            self._thin(pinned)
            size = self._folder.keep(step, write)
        except Exception as error:  # noqa: BLE001 - safetensors has errors of its own; a run goes on without snapshots
            if not self._complained:
                self._complained = True
                text = f"no snapshot of step {step}: {str(error).splitlines()[0][:200]}"
                self._log.append(Logged(level="warning", text=text, heed=True))
            return
        seconds = time.perf_counter() - began
        kept = self._folder.visitable()
        disk = {"bytes": size, "taken": self._folder.snapshot_bytes(), "budget": self._budget}
        self._log.append(SnapshotSaved(step=step, seconds=seconds, kept=kept, **disk))

    def _thin(self, pinned: frozenset[int]) -> None:
        """Let go of every other one, but the pinned, where one more would be too many or too much."""
        steps = self._folder.snapshots()
        most = min(2 * MOST, max(1, self._budget // max(1, self._size)))
        while len(steps) >= most and len(steps) > 1:
            gone = [step for step in steps[-2::-2] if step not in pinned]
            if not gone:
                return
            for step in gone:
                shutil.rmtree(self._folder.snapshot(step), ignore_errors=True)
            steps = self._folder.snapshots()
