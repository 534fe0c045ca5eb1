"""Evaluation on the held-out rows between two steps, by the trainer's own `evaluate`; early stopping; the best step.

It draws from the global generators (a DataLoader's iterator does): they are put back, so that looking does not touch.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from ..errors import RewardFailed
from ..messages import Confusion, EvalDone, Logged, Progress
from ..names import deciding
from .lease import Streams

if TYPE_CHECKING:
    from .port import Port

IN_A_RUN = 10  # evaluations where `eval_steps` is not given
_NOT_METRICS = ("epoch", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_num_tokens")
_COUNTED = set(Confusion.model_fields)


class Evaluation:
    """When to evaluate and what came of it. `exhausted`: early stopping ends the run here.

    `metric` is what is told which step is best by; `best_loss` its value there, negated where more of it is better.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self.metric, self._sign = "eval_loss", 1
        self.last = 0
        self.best_step, self.best_loss = 0, math.inf
        self.worse = 0  # evaluations in a row without a better loss
        self._batches, self._told = 0, 0.0

    def decide_by(self, best_metric: str) -> None:
        """Take the metric of a recipe: its name, after `max` or `min` where its direction is not to be guessed."""
        self.metric, self._sign = deciding(best_metric)

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        patience = self._port.edits.now.early_stopping_patience
        return patience is not None and self.worse >= patience

    def if_due(self, at_end: bool = False) -> bool:
        """Evaluate where it is time; whether these are the best weights so far."""
        port = self._port
        if not port.evaluates or port.trainer.eval_dataset is None or port.step <= self.last:
            return False
        total = int(port.trainer.state.max_steps)
        every = port.edits.now.eval_steps or math.ceil(total / IN_A_RUN)
        if port.step - self.last < every and not at_end:
            return False
        return self._evaluate()

    def _evaluate(self) -> bool:
        port, began = self._port, time.perf_counter()
        self._batches, before = 0, Streams.now()
        try:
            Streams.seeded(port.trainer.args.seed).put()  # what it draws, it draws alike each time
            measured = port.compute(lambda: {**port.trainer.evaluate(), **port.hooks.measure()})
        except RewardFailed as error:
            return self._failed(str(error))
        finally:
            before.put()
        return self.note(measured, time.perf_counter() - began)

    def _failed(self, reason: str) -> bool:
        """Wait for a person where a reward cannot be had; this evaluation is left out."""
        port = self._port
        self.last = port.step
        port.trainer._metrics["eval"].clear()  # what TRL has noted of it
        said = f"no evaluation at step {port.step}: {reason}"
        port.log.append(Logged(level="error", text=said))
        port.obedience.pause_itself(said)
        return False

    def note(self, measured: dict[str, Any], seconds: float = 0.0) -> bool:
        """Tell of an evaluation that took `seconds`; whether these are the best weights so far."""
        port = self._port
        metrics = {k: float(v) for k, v in measured.items() if k not in _NOT_METRICS and isinstance(v, int | float)}
        if self.metric not in metrics and not self.last:
            self._without(metrics)
        worth = self._sign * metrics.get(self.metric, math.nan)
        better = worth < self.best_loss
        if better:
            self.best_step, self.best_loss, self.worse = port.step, worth, 0
        elif self.metric in metrics or self.metric == "eval_loss":  # a function that failed says nothing
            self.worse += 1
        self.last = port.step
        held_out = port.trainer.eval_dataset
        rows = len(held_out) if hasattr(held_out, "__len__") else 0
        counted = measured.get("eval_confusion")
        confusion = (
            Confusion.model_validate(counted) if isinstance(counted, dict) and set(counted) == _COUNTED else None
        )
        told = {"metrics": metrics, "rows": rows, "seconds": seconds, "confusion": confusion}
        port.log.append(EvalDone(step=port.step, best_step=self.best_step, best_metric=self.metric, **told))
        return better

    def _without(self, metrics: dict[str, float]) -> None:
        if self.metric != "eval_loss":
            known = ", ".join(sorted(metrics))
            said = f"best_metric: {self.metric} is not told here, so eval_loss decides; there are {known}"
            self._port.log.append(Logged(level="warning", text=said, heed=True))
        self.metric, self._sign = "eval_loss", 1

    def count(self, batches: int) -> None:
        """One more batch of `batches` is scored."""
        self._batches += 1
        now = time.monotonic()
        if now - self._told > 0.5 or self._batches == batches:
            self._told = now
            self._port.log.append(Progress(what="evaluating", done=self._batches, total=batches))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        best = self.best_loss if math.isfinite(self.best_loss) else None
        decides = f"{'min' if self._sign > 0 else 'max'} {self.metric}"
        kept = {"last": self.last, "best_step": self.best_step, "best_loss": best, "worse": self.worse}
        return kept | {"decides": decides}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Put back what `state()` described (none: a checkpoint of a run that did not evaluate)."""
        if state:
            best = math.inf if state["best_loss"] is None else state["best_loss"]
            self.last, self.worse = state["last"], state["worse"]
            self.best_step, self.best_loss = state["best_step"], best
            self.decide_by(state.get("decides", "eval_loss"))
