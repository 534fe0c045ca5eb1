"""Probes: fixed prompts, answered along a run by exactly the weights of the step that each answer names.

At a boundary where they are due the training thread leaves the adapter in the run folder (megabytes); the chat thread
answers with it when nobody asks anything, however far the run has gone meanwhile, and a run that was killed answers
what it owes when it is resumed. Of full weights no copy is made: there the run waits at the boundary, obeying as ever,
until they are answered. Greedy always, so that a run that is resumed has the same strip.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import Example, asked, chat_ids, spread
from ..event_log import EventLog, that_count
from ..messages import Logged, Message, Probed
from .chat import Chat, with_system

if TYPE_CHECKING:
    from ..data import Examples
    from .twin import Voices

IN_A_RUN = 10  # times that they are answered where `probe_steps` is not given
MOST_TIMES = 200
MOST_TOKENS = 96
MOST_HELD = 8  # steps whose copies wait for their answers; for more the run waits


@dataclass(frozen=True)
class Probe:
    """A prompt as it is put to the model, and as it is shown."""

    messages: list[Message]
    shown: str


def probes_of(wanted: int | Sequence[str], held_out: Examples | None, method: str) -> list[Probe]:
    """The prompts that are written out, or those of so many held-out rows; a reward model is asked with the answer."""
    if not isinstance(wanted, int):
        return [Probe([{"role": "user", "content": prompt}], prompt) for prompt in wanted]
    return [_probe(row, method) for row in spread(held_out, wanted)] if held_out is not None else []


def _probe(row: Example, method: str) -> Probe:
    turns = asked(row, classified=method == "classification")
    if method == "reward" and "chosen" in row:
        turns = [*turns, {"role": "assistant", "content": row["chosen"]}]
        return Probe(turns, f"{turns[-2]['content']}\n\n{row['chosen']}")
    return Probe(turns, turns[-1]["content"])


@dataclass(eq=False)
class Asking:
    """One probe on its way: to the `base`, to the weights of a step that are `held` in a folder, or to what is live."""

    of: Probes
    number: int
    step: int
    base: bool = False
    held: Path | None = None
    taken_back: bool = False

    @property
    def waits(self) -> bool:
        """Whether the run has to stay where it is for it."""
        return not self.base and self.held is None

    def __call__(self, voices: Voices, should_stop: Callable[[], bool]) -> bool:
        """Answer it (chat thread); False where it was broken off, to be asked again."""
        answered = True
        if self.taken_back:
            return True

        def speak(model: Any, step: int, _between: bool) -> None:
            nonlocal answered
            if self.base or step == self.step:  # else the weights that were meant are gone
                answered = self.of.answer(self, model, voices, should_stop)

        if self.held is not None:
            speak(voices.recall(self.held), self.step, False)
        else:
            voices.use("base" if self.base else "live", speak)
        if answered:
            self.of.let_go(self)
        return answered

    def over(self, failed: str = "") -> None:
        """It is answered, or cannot be."""
        self.of.over(self, failed)


class Probes:
    """The probes of a run, which hold weights in `folder`. `nudge` wakes a training thread that waits for them."""

    def __init__(
        self,
        probes: Sequence[Probe],
        folder: Path,
        *,
        log: EventLog,
        chat: Chat,
        nudge: Callable[[], None],
        system: str | None,
    ) -> None:
        self._probes, self._folder, self._system = probes, folder, system
        self._log, self._chat, self._nudge = log, chat, nudge
        self._answered = {(e.at == "base", e.step, e.number) for e in that_count(log.history(), Probed)}
        self._complained: set[str] = set()
        self._said_seldom = False

    # --- the training thread ---

    def begin(self, voices: Voices, step: int) -> None:
        """Ask the base (a head that has learnt nothing is not asked), and again what is owed of the steps up to `step`.

        What an earlier part of the run left in the queue is taken over, or back; later steps come again.
        """
        self._answered = {key for key in self._answered if key[0] or key[1] <= step}
        for task in self._chat.idle:
            if isinstance(task, Asking):
                task.of, task.taken_back = self, task.step > step
        if voices.judging is None or voices.judging.masks:
            self._ask(0, base=True)
        for held in sorted(self._folder.glob("step-*")):
            of = int(held.name.removeprefix("step-"))
            if of <= step:
                self._ask(of, held=held)
            else:
                shutil.rmtree(held, ignore_errors=True)

    def every(self, wanted: int | None, total: int) -> int:
        """Steps between two answers of a run of `total` steps; answers are `MOST_TIMES` at most."""
        least = math.ceil(total / MOST_TIMES)
        if wanted is not None and wanted < least and not self._said_seldom:
            self._said_seldom = True
            said = f"probes are answered {MOST_TIMES} times in a run at most: every {least} steps"
            self._log.append(Logged(level="info", text=said))
        return max(1, wanted if wanted is not None else math.ceil(total / IN_A_RUN), least)

    def at(self, step: int, voices: Voices, model: Any) -> None:
        """Ask the weights of `step`, those of `model`, which have just been published."""
        try:
            self._ask(step, held=self._hold(step, model) if voices.recalls else None)
        except OSError as error:
            said = f"the probes of step {step} are left out: {error.strerror or error}"
            self._log.append(Logged(level="warning", text=said, heed=True))

    def _hold(self, step: int, model: Any) -> Path:
        from ..weights import write_weights  # torch comes with it

        held = self._folder / f"step-{step:06d}"
        if not held.exists():
            staging = self._folder / f".step-{step:06d}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            write_weights(model, staging)
            staging.rename(held)
        return held

    def _ask(self, step: int, **how: Any) -> None:
        """All that are not answered and not on their way."""
        there = {(task.base, task.step, task.number) for task in self._waiting()}
        for number in range(len(self._probes)):
            key = (bool(how.get("base")), step, number)
            if key not in there and key not in self._answered:
                self._chat.afterwards(Asking(self, number, step, **how))

    def _waiting(self) -> list[Asking]:
        return [
            task for task in self._chat.idle if isinstance(task, Asking) and task.of is self and not task.taken_back
        ]

    @property
    def left(self) -> int:
        """How many are not answered yet."""
        return len(self._waiting())

    @property
    def hold(self) -> bool:
        """Whether the run has to wait at this boundary."""
        waiting = self._waiting()
        return any(task.waits for task in waiting) or len({task.step for task in waiting if task.held}) > MOST_HELD

    # --- the chat thread ---

    def answer(self, task: Asking, model: Any, voices: Voices, should_stop: Callable[[], bool]) -> bool:
        """Have `model` answer a probe and tell of it; False where it was broken off."""
        from ..threads import sparing
        from .generate import Manner, speak
        from .judge import judge

        probe = self._probes[task.number]
        messages = with_system(probe.messages, self._system)
        with sparing(True):  # the same threads whenever it is answered: another number of them, other last bits
            if voices.judging is not None:
                judged = judge(model, voices.tokenizer, messages, voices.judging)
                text, tokens, ended = judged.text, judged.tokens, "eos"
            else:
                ids = chat_ids(voices.tokenizer, messages, trained_on=voices.trained_on)
                spoken = speak(model, voices.tokenizer, ids, Manner(MOST_TOKENS), should_stop=should_stop)
                text, tokens, ended = spoken.text, spoken.tokens, spoken.ended
        if ended == "stopped" or task.taken_back:
            return task.taken_back
        self._answered.add((task.base, task.step, task.number))
        said = {"number": task.number, "prompt": probe.shown, "text": text, "tokens": tokens, "ended": ended}
        self._log.append(Probed(step=task.step, at="base" if task.base else "live", **said))
        return True

    def over(self, task: Asking, failed: str = "") -> None:
        """`task` is off the queue; why it cannot be answered is said once."""
        if failed and failed not in self._complained:
            self._complained.add(failed)
            said = f"probe {task.number + 1} at step {task.step}: {failed}"
            self._log.append(Logged(level="warning", text=said, heed=True))
        if failed:
            self.let_go(task)
        self._nudge()

    def let_go(self, task: Asking) -> None:
        """Remove the weights that `task` needed where no other needs them; before it is off the queue."""
        others = [other for other in self._waiting() if other is not task and other.held == task.held]
        if task.held is not None and not others:
            shutil.rmtree(task.held, ignore_errors=True)
