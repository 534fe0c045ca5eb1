"""Pairs prepared ahead: a thread that puts prompts to two weights through their chat, and waits for the answers."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ...errors import FineTuneError
from ...feedback import Answer, prompt_key
from ...launch.thread import aside
from ...messages import REVIEW, Hush, Logged, Message, Refused, ReplyDone
from .pair import Pair

if TYPE_CHECKING:
    from ..answers import Receipt
    from ..handle import Session

AHEAD = 2  # pairs that wait beside the one on the table
TRIES = 4  # seeds, until two answers differ
LOOK_AGAIN = 1.0  # seconds
REFUSALS = 3  # in a row: it is not the prompt
WARM = 0.8  # the temperature of answers that must not be the same
WARMER = 0.2  # more at each further try


@dataclass(frozen=True)
class Voice:
    """Weights that answer: the address `at` of `session`, called `called` by whoever asked for them."""

    session: Session
    at: str
    called: str


class Supply:
    """Prepares pairs of answers to `prompts`, `AHEAD` of them beyond the one on the table.

    `seed` draws the answers and, with `reviewer`, the sides; the same weights and seed give the same answers again.
    What goes wrong is in `error`.
    """

    def __init__(
        self,
        prompts: Sequence[list[Message]],
        voices: tuple[Voice, Voice],
        sampling: Mapping[str, Any],
        *,
        seed: str,
        reviewer: str,
        first: int,
    ) -> None:
        self.error = ""
        self.alike = 0  # prompts passed over, because both answers were the same, or one empty
        self.ready: deque[Pair] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self._todo = deque(prompts)
        self._voices, self._sampling = voices, dict(sampling)
        self._seed, self._reviewer = seed, reviewer
        self._tell: Callable[[], None] = lambda: None
        self._number = first
        self._refused: list[list[Message]] = []
        self._waiting: list[tuple[Voice, Receipt]] = []
        self._preparing = False
        self._reason = ""

    def begin(self, tell: Callable[[], None]) -> None:
        """Start preparing; `tell` is called when something is new, on the thread that prepares."""
        self._tell = tell
        aside(self._prepare_all, f"review of {self._voices[0].session.name}")

    @property
    def left(self) -> int:
        """Prompts to come, those with a pair that waits among them."""
        with self.changed:
            return len(self._todo) + len(self._refused) + len(self.ready) + self._preparing

    def close(self) -> None:
        """Prepare nothing more, and take back what is asked."""
        with self.changed:
            self.closed = True
            waiting, self._waiting = self._waiting, []
            self.changed.notify_all()
        for voice, receipt in waiting:
            if receipt.answer is None:
                voice.session.submit(Hush(target=receipt.command.id))

    # --- the thread ---

    def _prepare_all(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or (bool(self._todo) and len(self.ready) <= AHEAD))
                if self.closed:
                    return
                prompt = self._todo.popleft()
                self._preparing = True
            try:
                self._prepare(prompt)
            except Exception as error:  # noqa: BLE001 - it is told, and the thread must go on
                self._note_refusal(prompt, str(error) or type(error).__name__)
            with self.changed:
                self._preparing = False
                self.changed.notify_all()
            self._tell()
            if len(self._refused) >= REFUSALS or (self._refused and not self._todo):
                self._wait_for_better()

    def _prepare(self, prompt: list[Message]) -> None:
        answers = self._two_answers(prompt)
        with self.changed:
            for _ in self._refused:  # others can be answered, so it is these prompts
                self._voices[0].session.log.append(
                    Logged(level="warning", text=f"review: a prompt is passed over: {self._reason}"[:500])
                )
            self._refused, self.error = [], ""
            if answers is None:
                self.alike += 1
                if not self._todo and not self.ready:
                    self.error = "both sides give the same answers; review other weights, or with a higher temperature"
                return
            self._number += 1
            seed = f"{self._seed} {self._reviewer} {prompt_key(prompt)}"
            self.ready.append(Pair.shuffled(uuid.uuid4().hex[:12], self._number, prompt, answers, seed))

    def _two_answers(self, prompt: list[Message]) -> tuple[Answer, Answer] | None:
        """Two answers that differ, both not empty; None where some seeds did not give any. Raises `Refused`."""
        alike = self._same_weights()
        first, second = self._asked(prompt, [(0, 0, alike), (1, 0, alike)])
        for attempt in range(1, TRIES):
            if not first.text.strip():
                (first,) = self._asked(prompt, [(0, attempt, True)])
            if not second.text.strip() or first.text.strip() == second.text.strip():
                (second,) = self._asked(prompt, [(1, attempt, True)])
        good = first.text.strip() and second.text.strip() and first.text.strip() != second.text.strip()
        return (first, second) if good else None

    def _same_weights(self) -> bool:
        one, other = self._voices
        return (one.session, one.at) == (other.session, other.at)

    def _asked(self, prompt: list[Message], sides: list[tuple[int, int, bool]]) -> list[Answer]:
        """The answers of these sides, each at its attempt, drawn with some warmth where it must be."""
        asked = []
        for side, attempt, warm in sides:
            voice = self._voices[side]
            settings = dict(self._sampling)
            if warm:
                settings["temperature"] = max(settings.get("temperature", 0.0), WARM) + WARMER * attempt
                settings["top_p"] = settings.get("top_p", 0.95)
            settings["seed"] = _seed_of(f"{self._seed} {prompt_key(prompt)} {side} {attempt}")
            asked.append((voice, settings, voice.session.ask(prompt, voice.at, thread=REVIEW, **settings)))
        with self.changed:
            self._waiting = [(voice, receipt) for voice, _, receipt in asked]
        if self.closed:
            self.close()  # it has been closed while they were asked: they are taken back now
        return [self._answer(voice, settings, receipt) for voice, settings, receipt in asked]

    def _answer(self, voice: Voice, settings: dict[str, Any], receipt: Receipt) -> Answer:
        voice.session.log.wait_for(lambda: receipt.answer is not None)
        answer = receipt.answer
        if not isinstance(answer, ReplyDone):
            raise NoAnswer(answer.reason if isinstance(answer, Refused) else "no answer")
        return Answer(
            text=answer.text,
            run=voice.session.name,
            at=voice.called,
            step=answer.step,
            tokens=answer.tokens,
            sampling=settings,
        )

    # --- where it fails ---

    def _note_refusal(self, prompt: list[Message], reason: str) -> None:
        with self.changed:
            self._refused.append(prompt)
            self._reason = reason
            if len(self._refused) >= REFUSALS or not self._todo:
                self.error = reason

    def _wait_for_better(self) -> None:
        """Until the run is in another state, or was closed: then what was refused is tried again."""
        sessions = [voice.session for voice in self._voices]
        before = [session.state for session in sessions]
        with self.changed:
            while not self.closed and [session.state for session in sessions] == before:
                self.changed.wait(LOOK_AGAIN)
            self._todo.extendleft(reversed(self._refused))
            self._refused, self.error = [], ""


class NoAnswer(FineTuneError):
    """A question of ours was refused, and why."""


def _seed_of(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big") >> 1
