"""The watch over a run: is what is being learned still sound? One line of state, the step and rows behind it.

It reads the log as any other reader does, so that after a resumption it is rebuilt from what counts. What it sees:

    not finite     a step was refused: amber for 20 steps; 3 of 20: red
    divergence     loss > 3 × its running mean and gradient norm > 10 × its median, 3 steps running: red
                   (with an ordinary gradient: 5 steps running)
    spike          one loss far outside what is usual (robust z-score of its logarithm): amber for 10 steps
    rise           the losses of 8 steps are all above those of the 14 before: amber until they are back
    overfitting    eval_loss up three evaluations running, or the train loss runs away from it: amber
    skipped steps  an fp16 scaler skips some; amber from 5 % of the steps on
    checkpoints    one could not be written: amber until one is
    memory         an estimate above what is free, told before the first step: amber until two steps have fitted

Red is for the run to be paused, by whoever asks here; nothing is ever rolled back or changed by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from .event_log import Cursor, EventLog, News, that_count
from .messages import Advice, CheckpointSaved, EvalDone, Event, Health, SaveFailed, StepRefused

Level = Literal["green", "amber", "red"]
_RANK: dict[Level, int] = {"green": 0, "amber": 1, "red": 2}

WINDOW, MEAN_WINDOW = 32, 8  # steps that "usual" is taken from; the mean follows a run of tens of steps
REFUSED_WINDOW, REFUSED_RED = 20, 3
DIVERGED_LOSS, DIVERGED_NORM = 3.0, 10.0  # times the running mean, times the median
DIVERGED_STEPS, HIGH_STEPS = 3, 5  # running: with the gradient, and whatever the gradient is
BASELINE_STEPS = 4  # before them nothing is "usual" yet
SPIKE_SCORE, SPIKE_RATIO, SPIKE_BASELINE = 6.0, 2.5, 12
SPIKE_AMBER = 10  # steps
RISEN_STEPS, RISEN_BASELINE, RISEN_RATIO = 8, 14, 1.1
LOSS_FLOOR = 0.1  # nats; below this a loss may move by any factor
EVAL_RISES, EVAL_RISE = 3, 0.01  # evaluations running, and by what share in all: a plateau wobbles
_COUNTS = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
GAP_SHARE = 0.5  # of eval_loss; a smaller gap between it and the train loss is no overfitting
SKIPPED_SHARE, SKIPPED_AT_LEAST = 0.05, 4
FITTED_STEPS = 2  # from the second on the optimizer has its state


@dataclass(frozen=True)
class _Concern:
    level: Level
    step: int
    said: str
    rows: tuple[int, ...] = ()
    until: float = math.inf  # the step after which it is over
    best: int | None = None  # the step to go back to


@dataclass
class _Seen:
    """What has been seen of the steps that count."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    norms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RISEN_STEPS + RISEN_BASELINE))
    refused: deque[int] = field(default_factory=deque)
    high: int = 0  # steps running with a loss over three times its mean
    wild: int = 0  # and with the gradient over ten times its median
    before: float = math.inf  # the highest loss before a rise
    steps: int = 0
    skipped: int = 0
    rising: list[tuple[int, float]] = field(default_factory=list)  # step and eval_loss since it last fell
    least_gap: float = math.inf
    saved: int = 0
    concerns: dict[str, _Concern] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The running mean of the loss."""
        last = list(self.losses)[-MEAN_WINDOW:]
        return sum(last) / len(last)


class Watch:
    """The watch over one run. Not thread-safe: it belongs to the training thread.

    Without `by_loss` the loss has no level of its own (a policy's is about 0 whatever it learns): it has to be finite.
    """

    def __init__(self, name: str, *, by_loss: bool = True) -> None:
        self._name, self._by_loss = name, by_loss
        self._cursor = Cursor()
        self._seen = _Seen()
        self._step, self._rate = 0, math.nan
        self._told: tuple[Level, str] = ("green", "")

    @property
    def suspicious(self) -> bool:
        """Whether the weights of this moment may be spoiled: no checkpoint should push out a good one now."""
        return self._seen.high > 0 or any(c.level == "red" for c in self._seen.concerns.values())

    def look(self, log: EventLog, rows: Sequence[int] = ()) -> Health | None:
        """Read what is new; the state where it has changed. `rows` (from 1) are those of the newest step."""
        news, self._cursor = log.read(self._cursor)
        events: Sequence[Event] = news.events
        if news.restart:  # steps were taken back: all of it again, less what they held
            self._seen, self._cursor = _Seen(), Cursor()
            news, self._cursor = log.read(steps="picture")
            events = news.events
        self._take(news, that_count(events, cast(Any, Event)), tuple(rows))
        if self._told[1] == "":
            said = next((e for e in reversed(events) if isinstance(e, Health)), None)  # before a resumption
            self._told = (said.level, said.said) if said is not None else self._told
        return self._changed()

    def go_on(self) -> Health | None:
        """Someone has seen the red and wants the run to go on: what is usual is learned anew."""
        seen = self._seen
        if not any(c.level == "red" for c in seen.concerns.values()):
            return None
        self._seen = _Seen(
            rising=seen.rising, steps=seen.steps, skipped=seen.skipped, saved=seen.saved,
            concerns={key: c for key, c in seen.concerns.items() if c.level != "red"},
        )  # fmt: skip
        return self._changed(f"watched anew from step {self._step}")

    # --- what came ---

    def _take(self, news: News, events: list[Event], rows: tuple[int, ...]) -> None:
        refused = {e.step: e for e in events if isinstance(e, StepRefused)}
        others = deque([e for e in events if isinstance(e, EvalDone | SaveFailed | CheckpointSaved | Health)])
        columns = (news.steps[name].tolist() for name in ("step", "loss", "grad_norm", "learning_rate"))
        for number, loss, norm, rate in zip(*columns, strict=True):
            step = int(number)
            while others and others[0].step < step:
                self._other(others.popleft())
            self._step, self._rate = step, rate
            self._stepped(step, loss, norm, refused.get(step), rows if step == news.steps["step"][-1] else ())
        for event in others:
            self._other(event)

    def _stepped(self, step: int, loss: float, norm: float, refused: StepRefused | None, rows: tuple[int, ...]) -> None:
        seen = self._seen
        seen.steps += 1
        seen.concerns = {key: c for key, c in seen.concerns.items() if step <= c.until}
        if refused is not None or not math.isfinite(loss):
            self._not_finite(step, loss, norm, tuple(refused.rows) if refused is not None and refused.rows else rows)
            return
        if not math.isfinite(norm):  # and nobody refused it: the scaler's to skip
            seen.skipped += 1
        self._scaler(step)
        if not self._by_loss:
            return
        self._diverging(step, loss, norm, rows)
        self._spike(step, loss, rows)
        self._risen(step, loss)
        seen.losses.append(loss if seen.high == 0 else seen.mean)  # a spike moves no mean
        if math.isfinite(norm):
            seen.norms.append(norm)

    def _not_finite(self, step: int, loss: float, norm: float, rows: tuple[int, ...]) -> None:
        refused = self._seen.refused
        refused.append(step)
        while refused[0] <= step - REFUSED_WINDOW:
            refused.popleft()
        what = f"loss {loss:g}" if not math.isfinite(loss) else f"gradient norm {norm:g}"
        if len(refused) >= REFUSED_RED:
            said = (
                f"{len(refused)} of the last {REFUSED_WINDOW} steps were not finite, the last at step {step} ({what})"
            )
            self._seen.concerns["finite"] = _Concern("red", step, said, rows)
        else:
            said = f"step {step} was not finite ({what}); it was kept from the weights"
            self._seen.concerns["finite"] = _Concern("amber", step, said, rows, step + REFUSED_WINDOW)

    def _scaler(self, step: int) -> None:
        seen = self._seen
        if seen.skipped >= SKIPPED_AT_LEAST and seen.skipped > SKIPPED_SHARE * seen.steps:
            said = f"the float16 scaler has skipped more than {SKIPPED_SHARE:.0%} of the steps"
            seen.concerns.setdefault("scaler", _Concern("amber", step, said))
        elif seen.skipped <= SKIPPED_SHARE / 2 * seen.steps:
            seen.concerns.pop("scaler", None)

    def _diverging(self, step: int, loss: float, norm: float, rows: tuple[int, ...]) -> None:
        seen = self._seen
        if len(seen.losses) < BASELINE_STEPS:
            return
        mean, usual = seen.mean, float(np.median(seen.norms)) if seen.norms else math.nan
        high = loss > DIVERGED_LOSS * max(mean, LOSS_FLOOR)
        seen.high = seen.high + 1 if high else 0
        seen.wild = seen.wild + 1 if high and norm > DIVERGED_NORM * usual else 0
        if seen.wild >= DIVERGED_STEPS or seen.high >= HIGH_STEPS:
            since = step - max(seen.high, seen.wild) + 1
            times = loss / max(mean, LOSS_FLOOR)
            said = f"the loss diverges since step {since}: {loss:.3g} at step {step}, {times:.1f} times its mean"
            seen.concerns["divergence"] = _Concern("red", step, said, rows)

    def _spike(self, step: int, loss: float, rows: tuple[int, ...]) -> None:
        losses = self._seen.losses
        if len(losses) < SPIKE_BASELINE or "divergence" in self._seen.concerns:
            return
        usual = np.log(np.maximum(losses, 0.0) + LOSS_FLOOR)  # ratios count, until a loss is next to nothing
        middle = float(np.median(usual))
        spread = 1.4826 * float(np.median(np.abs(usual - middle)))
        above = math.log(max(loss, 0.0) + LOSS_FLOOR) - middle
        if above > max(math.log(SPIKE_RATIO), SPIKE_SCORE * spread):
            said = f"the loss jumped to {loss:.3g} at step {step}, {math.exp(above):.1f} times what is usual"
            self._seen.concerns["spike"] = _Concern("amber", step, said, rows, step + SPIKE_AMBER)

    def _risen(self, step: int, loss: float) -> None:
        seen = self._seen
        seen.recent.append(loss)
        recent = list(seen.recent)
        if "rise" in seen.concerns:
            if float(np.median(recent[-RISEN_STEPS // 2 :])) <= seen.before:
                del seen.concerns["rise"]
        elif len(recent) == RISEN_STEPS + RISEN_BASELINE:
            before, now = recent[:RISEN_BASELINE], recent[RISEN_BASELINE:]
            if min(now) > max(before) and np.median(now) > RISEN_RATIO * np.median(before):
                seen.before, since = max(before), step - RISEN_STEPS + 1
                was = f"{np.median(before):.3g} before"
                said = f"the loss has risen since step {since}: {np.median(now):.3g}, it was {was}"
                seen.concerns["rise"] = _Concern("amber", step, said)

    def _other(self, event: Event) -> None:
        concerns = self._seen.concerns
        if isinstance(event, EvalDone) and "eval_loss" in event.metrics and self._by_loss:
            self._evaluated(event.step, event.metrics["eval_loss"], event.best_step)
        elif isinstance(event, SaveFailed):
            last = f"the last good one is of step {self._seen.saved}" if self._seen.saved else "there is none yet"
            said = f"the checkpoint of step {event.step} could not be written ({event.reason}); {last}"
            concerns["checkpoint"] = _Concern("amber", event.step, said)
        elif isinstance(event, CheckpointSaved):
            self._seen.saved = event.step
            concerns.pop("checkpoint", None)
        elif isinstance(event, Health) and event.step == 0 and event.level == "amber":  # by whoever starts the run
            concerns["memory"] = _Concern("amber", 0, event.said, until=FITTED_STEPS)

    def _evaluated(self, step: int, loss: float, best: int) -> None:
        seen = self._seen
        if not math.isfinite(loss):
            seen.concerns["eval"] = _Concern("amber", step, f"eval_loss is {loss:g} at step {step}")
            return
        seen.rising = [*seen.rising, (step, loss)] if seen.rising and loss > seen.rising[-1][1] else [(step, loss)]
        for key in ("eval", "gap"):
            seen.concerns.pop(key, None)
        (since, lowest), rises = seen.rising[0], len(seen.rising) - 1
        if rises >= EVAL_RISES and loss > lowest * (1 + EVAL_RISE):
            times = f"{_COUNTS.get(rises, rises)} times"
            said = f"held-out loss has risen {times} since step {since}; best is step {best}"
            seen.concerns["eval"] = _Concern("amber", step, said, best=best)
        if not seen.losses:
            return
        train = seen.mean
        gap, before = loss - train, seen.least_gap
        seen.least_gap = min(before, max(gap, 0.0))
        if math.isfinite(before) and step != best and gap > max(2 * seen.least_gap, GAP_SHARE * loss) and loss > 0:
            said = f"held-out loss is {loss:.3g} at step {step}, train loss {train:.3g}; best is step {best}"
            seen.concerns["gap"] = _Concern("amber", step, said, best=best)

    # --- what is said ---

    def _changed(self, sound: str = "") -> Health | None:
        found = sorted(self._seen.concerns.items(), key=lambda item: (_RANK[item[1].level], item[1].step))
        key, worst = (
            found[-1] if found else ("", _Concern("green", self._step, sound or f"sound again at step {self._step}"))
        )
        now = (worst.level, worst.said)
        if now == self._told or (worst.level == self._told[0] == "green"):
            return None
        self._told = now
        step = worst.step if found else self._step
        advice = self._advice(key, worst)
        return Health(step=step, level=worst.level, said=worst.said, rows=list(worst.rows), advice=advice)

    def _advice(self, key: str, of: _Concern) -> list[Advice]:
        """What a person could do now, each a command that exists or the best step to talk to."""
        halve = self._halve()
        if of.level == "red":
            return [*halve, self._verb("resume", "go on"), self._verb("stop", "stop here")]
        if key == "checkpoint":
            return [self._verb("save", "save again")]
        if key == "memory":
            return [self._verb("pause", "pause")]
        if key in ("eval", "gap"):
            return [*self._talk(of.best), self._verb("stop", "stop here"), *halve]
        return [*halve, self._verb("pause", "pause")] if key else []

    def _talk(self, best: int | None) -> list[Advice]:
        if not best:
            return []
        return [Advice(label=f"chat with step {best}", chat=best, cell=f"%%chat {self._name} --at {best},live")]

    def _halve(self) -> list[Advice]:
        if not self._rate > 0:
            return []
        rate = float(f"{self._rate / 2:.3g}")
        return [
            Advice(
                label=f"learning rate {rate:g}",
                command={"kind": "set", "changes": {"learning_rate": rate}},
                cell=f"%ft set {self._name} learning_rate={rate:g}",
            )
        ]

    def _verb(self, verb: str, label: str) -> Advice:
        return Advice(label=label, command={"kind": verb}, cell=f"%ft {verb} {self._name}")
