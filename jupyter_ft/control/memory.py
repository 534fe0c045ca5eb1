"""Memory that runs out in the middle of a step: the same rows again, half as many at a time.

Where that cannot be, and where a reward cannot be had, the run waits before the step for a person.

What is kept of the failure is text. An exception holds the frames that it went through, and with them the activations
that have to be freed first; so the `except` block is left before anything is done.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from ..errors import RewardFailed
from ..heap import HEAP
from ..messages import Logged, MemoryShort
from .lease import Streams

if TYPE_CHECKING:
    from .port import Port

Parts = list[dict[str, Any]]
"""The collated micro-batches of an optimizer step."""
ADVICE = "free some: close other sessions or notebooks, or give a smaller model, max_length or batch_size"


class Halted(Exception):
    """The run was told to stop while a step could not be done; its rows come next on resumption."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and (should_reduce_batch_size(error) or "not enough memory" in str(error))


def free_memory() -> None:
    """Collect what nobody holds and give the devices' caches and the C heap back."""
    gc.collect()
    with suppress(Exception):  # a device in a bad state must not hide why
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    HEAP.give_back()


class Patience:
    """Does the micro-batches of a step; where memory runs out, does them again in smaller ones."""

    def __init__(self, port: Port) -> None:
        self._port = port

    def step(self, parts: Parts, items: Any, do: Callable[[Parts, Any], torch.Tensor]) -> torch.Tensor:
        """What `do(parts, items)` gives: the loss of the step, its gradients left in the weights.

        Waits for a person where no smaller micro-batch is possible; raises `Halted` where they say stop.
        """
        port = self._port
        draws = Streams.now() if port.turn.draws else None
        metrics = {name: len(values) for name, values in _noted(port.trainer).items()}
        mark = port.batching.mark()
        while True:
            loss, failure = self._attempt(parts, items, do)
            if loss is not None:
                return loss
            _forget(port.trainer, metrics)
            port.batching.back_to(mark)
            if not isinstance(failure, RewardFailed):
                free_memory()
            if draws is not None:
                draws.put()
            if not isinstance(failure, RewardFailed) and self._halved(items):
                parts, items = port.again()
            else:
                self._wait(failure)
                parts, items = port.anew()
                mark = port.batching.mark()
                draws = Streams.now() if port.turn.draws else None

    def _attempt(
        self, parts: Parts, items: Any, do: Callable[[Parts, Any], torch.Tensor]
    ) -> tuple[torch.Tensor | None, str | RewardFailed]:
        try:
            return do(parts, items), ""
        except RewardFailed as error:
            return None, RewardFailed(str(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None, str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

    def _halved(self, items: Any) -> bool:
        """Set the micro-batches to half of what failed. False where one row is too much, or a split changes the loss.

        With a count of `items` the loss is a sum over rows that is divided by it, however the rows are split.
        """
        cursor = self._port.cursor
        most = max(map(len, self._port.batches))
        if most <= 1 or items is None:
            return False
        cursor.at_most = most // 2
        step = self._port.step + 1
        said = (
            f"memory ran out at step {step} with {most} rows at once; the same rows go on in micro-batches of "
            f"{cursor.at_most}, the step stays as large as it was"
        )
        self._port.log.append(MemoryShort(step=step, micro_batch=cursor.at_most, said=said))
        return True

    def _wait(self, failure: str | RewardFailed) -> None:
        """Pause at the boundary before this step, its rows given back."""
        port = self._port
        port.cursor.give_back(port.batches)
        step, most = port.step + 1, max(map(len, port.batches))
        if isinstance(failure, RewardFailed):
            said = f"step {step} has no reward: {failure}"
            port.log.append(Logged(level="error", text=said))
        else:
            why = "a single row" if most <= 1 else f"{most} rows whose loss cannot be split"
            said = f"memory ran out at step {step} with {why} ({failure}); {ADVICE}, then resume"
            port.log.append(MemoryShort(step=step, micro_batch=0, said=said))
        port.obedience.pause_itself(said)
        if not port.give_way():
            raise Halted


def _noted(trainer: Any) -> dict[str, list[Any]]:
    """The metrics of this step that TRL has noted so far (`_metrics`: lists that it averages when it logs)."""
    noted = getattr(trainer, "_metrics", None)
    lists = noted.get("train", {}) if isinstance(noted, dict) else {}
    return {name: values for name, values in lists.items() if isinstance(values, list)}


def _forget(trainer: Any, lengths: dict[str, int]) -> None:
    """Drop the gradients of a step that failed, and the metrics that were noted since they were `lengths` long."""
    trainer.model.zero_grad(set_to_none=True)
    for name, values in _noted(trainer).items():
        del values[lengths.get(name, 0) :]
