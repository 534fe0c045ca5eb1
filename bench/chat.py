"""How long a chat waits for its first token while the model trains, and what it takes from the training."""

from __future__ import annotations

import random
import statistics
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from .figures import percentile, report

ASKS, ROUNDS, STEPS = 20, 3, 3
QUESTION = "I haven't received my order yet."


def measure(data: Path, asked: dict[str, Any]) -> None:
    """Print the figures of this module, of one run that trains, pauses and chats in turns."""
    import jupyter_ft

    session = jupyter_ft.finetune("demo", data, "chat", **(asked | {"max_steps": 10_000}))
    session.wait(step=2)
    _ask(session, 16)
    first_token(session)
    throughput(session)
    session.close()


def _ask(session: Any, tokens: int) -> tuple[float, float]:
    reply = session.chat(QUESTION, max_new_tokens=tokens)
    return reply.first_token_seconds, reply.tokens_per_second


class Boundaries:
    """When each step of a run ended."""

    def __init__(self, session: Any) -> None:
        self._session, self.ends, self._over = session, [time.perf_counter()], False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over:
            step = self._session.step
            if self._session.log.wait_for(lambda: self._session.step > step, 1):  # noqa: B023
                self.ends.append(time.perf_counter())

    def undisturbed(self, steps: int) -> float:
        """Seconds a step, the median of the next `steps`; nothing else may happen meanwhile."""
        self._session.wait(step=self._session.step + 1)
        seen = len(self.ends)
        self._session.wait(step=self._session.step + steps)
        ends = self.ends[seen - 1 :]
        return statistics.median(b - a for a, b in pairwise(ends))

    def close(self) -> None:
        """Watch no longer."""
        self._over = True


def first_token(session: Any) -> None:
    """Beside the training, against idle, and against what a reply served at the next boundary would have waited.

    The last is reckoned for the same questions: what was left of the step (at the pace of a step that nothing
    disturbs) and a first token as fast as an idle one.
    """
    training, idle, left = [], [], []
    rates: dict[str, list[float]] = {"training": [], "idle": []}
    boundaries = Boundaries(session)
    step = boundaries.undisturbed(STEPS)
    for _ in range(ASKS):
        session.wait(step=session.step + 1)
        time.sleep(random.random() * step)
        left.append(max(0.0, boundaries.ends[-1] + step - time.perf_counter()))
        first, rate = _ask(session, 8)
        training.append(first)
        rates["training"].append(rate)
    session.pause().wait()
    for _ in range(ASKS):
        first, rate = _ask(session, 8)
        idle.append(first)
        rates["idle"].append(rate)
    session.resume().wait()
    boundaries.close()
    served = [wait + statistics.median(idle) for wait in left]
    print(f"an undisturbed step: {step:.3f} s")
    for at, aim in ((50, "no aim"), (95, "aim 3 or less")):
        what = f"first chat token at the {at}th percentile while training against idle ({ASKS} each)"
        report(what, [percentile(training, at)], [percentile(idle, at)], "s", aim)
    what = "first chat token at the 95th percentile beside the training against served at step boundaries"
    report(what, [percentile(training, 95)], [percentile(served, 95)], "s", "aim 0.25 or less")
    report("chat tokens/s while training against idle", rates["training"], rates["idle"], "tok/s", "no aim")


def throughput(session: Any) -> None:
    """Tokens per second that are trained while somebody chats without a pause, against nobody chatting, in turns."""
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(_trained(session))
        stop = threading.Event()
        talker = threading.Thread(target=_talk, args=(session, stop))
        talker.start()
        beside.append(_trained(session))
        stop.set()
        talker.join()
    report("tokens trained a second while chatting without a pause against alone", beside, alone, "tok/s", "aim 0.8")


def _talk(session: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        _ask(session, 64)


def _trained(session: Any) -> float:
    session.wait(step=session.step + 1)
    first, began = session.step, time.perf_counter()
    session.wait(step=first + STEPS)
    took, last = time.perf_counter() - began, session.step
    return float(session.metrics["tokens"].loc[first + 1 : last].sum()) / took
