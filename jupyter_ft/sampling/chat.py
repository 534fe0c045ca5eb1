"""The chat thread: answers questions one after another, while training goes on, while it is paused, and after it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..capture import captured
from ..data import Format, chat_ids
from ..event_log import EventLog
from ..messages import (
    REVIEW,
    Applied,
    Ask,
    ForChat,
    Hush,
    Logged,
    Message,
    Refused,
    ReplyDone,
    ReplyStarted,
)

if TYPE_CHECKING:
    from .chorus import Stage
    from .judge import Judging

from .columns import Columns, Entry, Parts, about, answer_of, manner_of
from .round import MOST, rounds

GATHERING = 0.2  # seconds that the first column of a question waits for the others


class Voices(Protocol):
    """Who speaks: a tokenizer, and what does something with the model of `live`, `base` or a step's number.

    `do` gets the model, its step, and whether the run waits for it between two steps.
    """

    tokenizer: Any
    trained_on: Format
    judging: Judging | None  # how they score, where they do not speak
    abreast: bool  # whether several of them can be held at once
    stage: Stage | None  # where they speak together, once they have

    def voice(self, at: str) -> tuple[Any, int]: ...  # noqa: D102
    def use(self, at: str, do: Callable[[Any, int, bool], None]) -> None: ...  # noqa: D102
    def settle(self) -> None: ...  # noqa: D102


class Idle(Protocol):
    """What the chat thread does when nobody asks; False: it was broken off (`should_stop`), and is done again."""

    def __call__(self, voices: Any, should_stop: Callable[[], bool]) -> bool: ...  # noqa: D102
    def over(self, failed: str = "") -> None: ...  # noqa: D102


class Chat:
    """A queue of questions and the thread that answers them. Questions may come before there is a voice.

    What is prepared for a review waits behind what people ask, and is begun again where it was in the way of that.

    `beside()` tells whether a run computes at the same time, whose cores are to be spared. With `rewards` answers are
    scored: a conversation may end with one.
    """

    def __init__(
        self, log: EventLog, system: str | None, beside: Callable[[], bool] = lambda: False, rewards: bool = False
    ) -> None:
        self._log = log
        self._system = system
        self._beside = beside
        self._last: tuple[str, ...] = ("user",)
        if rewards:
            self.take_answers()
        self._queue: deque[tuple[Ask, float]] = deque()
        self._idle: deque[Idle] = deque()
        self._changed = threading.Condition()
        self._voices: Voices | None = None
        self._current: tuple[Ask, ...] | None = None
        self._hushed: set[str] = set()  # questions whose reply is to stop
        self._busy = self._broken_off = self._gives_way = False
        self._said: set[str] = set()  # why columns did not speak together
        self._closed = self._resting = ""
        self._thread: threading.Thread | None = None

    def begin(self, voices: Voices, name: str) -> None:
        """Start answering with these voices (or go on with new ones)."""
        with self._changed:
            if self._closed:
                return
            first = self._thread is None
            self._voices, self._resting = voices, ""
            self._changed.notify_all()
        if first:
            self._thread = threading.Thread(target=self._answer_all, name=f"jupyter-ft chat {name}", daemon=True)
            self._thread.start()

    def at_once(self) -> threading.Condition:
        """Inside, questions are only queued; those of one turn are then answered together."""
        return self._changed

    def take_answers(self) -> None:
        """From now on a conversation may end with an answer, which is scored."""
        self._last = ("user", "assistant")

    @property
    def ready(self) -> bool:
        """Whether there are voices to answer with."""
        return self._voices is not None

    def put(self, command: ForChat) -> None:
        """Queue a question, or stop one."""
        with self._changed:
            if self._closed:
                self._refuse_waiting(command, self._closed)
            elif self._resting:
                self._refuse_waiting(command, self._resting)
            elif isinstance(command, Hush):
                self._hush(command)
            elif not command.messages or command.messages[-1].get("role") not in self._last:
                self._refuse_waiting(command, "a question ends with a message of the role 'user'")
            elif command.at not in ("live", "base") and not command.at.isdecimal():
                self._refuse_waiting(command, f"no weights '{command.at}' to talk to here: live, base or a step")
            else:
                self._enqueue(command)
                self._changed.notify_all()

    def afterwards(self, task: Idle) -> None:
        """Queue what is done when no question waits; a question that comes breaks it off."""
        with self._changed:
            if not self._closed:
                self._idle.append(task)
                self._changed.notify_all()

    @property
    def idle(self) -> list[Idle]:
        """What waits to be done when nobody asks, and what is being done."""
        with self._changed:
            return list(self._idle)

    def _enqueue(self, command: Ask) -> None:
        entry = (command, time.perf_counter())
        if command.thread == REVIEW:
            self._queue.append(entry)
            return
        self._queue.insert(self._before_prepared, entry)
        self._gives_way = self._current is not None and self._current[0].thread == REVIEW

    @property
    def _before_prepared(self) -> int:
        return next((at for at, (one, _) in enumerate(self._queue) if one.thread == REVIEW), len(self._queue))

    def fail(self, reason: str) -> None:
        """Refuse what waits: there is no voice to answer with, and for now none will come."""
        with self._changed:
            while self._queue:
                self._refuse_waiting(self._queue.popleft()[0], reason)

    def rest(self, reason: str) -> None:
        """Let go of the voices: what waits and what comes is refused until there are new ones, or until `rest("")`.

        The reply in flight is stopped where it is.
        """
        with self._changed:
            self._resting = reason
            if reason:
                self._voices, self._broken_off = None, True
                self.fail(reason)
                self._changed.wait_for(lambda: not self._busy or bool(self._closed), 60.0)

    def close(self, reason: str, patience: float = 0.0) -> None:
        """Refuse what waits and whatever comes, stop the reply in flight, and let go of the voices.

        Waits up to `patience` seconds for the thread to end.
        """
        with self._changed:
            self._closed, self._broken_off = reason, True
            self._idle.clear()
            self.fail(reason)
            self._changed.notify_all()
        if patience and self._thread is not None:
            self._thread.join(patience)

    def _hush(self, command: Hush) -> None:
        waiting = next((entry for entry in self._queue if entry[0].id == command.target), None)
        if waiting is not None:
            self._queue.remove(waiting)
            self._refuse_waiting(waiting[0], "taken back")
        elif any(command.target == asked.id for asked in self._current or ()):
            self._hushed.add(command.target)
        else:
            self._refuse(command, "that reply is not being spoken")
            return
        self._log.append(Applied(command=command.id, verb="hush", step=0))

    def _refuse_waiting(self, command: ForChat, reason: str) -> None:
        if isinstance(command, Ask) and (meeting := rounds.get(command.turn)) is not None:
            meeting.less(1)
        self._refuse(command, reason)

    def _refuse(self, command: ForChat, reason: str) -> None:
        self._log.append(Refused(command=command.id, verb=command.kind, step=0, reason=reason))

    # --- the thread ---

    def _answer_all(self) -> None:
        while True:
            voices = None  # who waits holds nobody
            with self._changed:
                self._current, self._busy = None, False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._has_work() or bool(self._closed))
                if self._closed:
                    self._voices = None
                    return
                self._wait_for_turn()
                if not self._has_work():  # taken back meanwhile
                    continue
                entries = self._next()
                task = None if entries else self._idle[0]
                self._current, self._busy = tuple(command for command, _ in entries) or None, True
                self._broken_off = self._gives_way = False
                self._hushed.clear()
                voices = self._voices
                self._changed.notify_all()
            if voices is not None:
                with captured(lambda level, line: self._log.append(Logged(level=level, text=line[:4000]))):
                    if entries:
                        self._answer_turn(entries, voices)
                    elif task is not None:
                        self._do(task, voices)

    def _wait_for_turn(self) -> None:
        """The columns of a question may come one by one: give those that are announced the time to."""
        first = self._queue[0][0] if self._queue else None

        def enough() -> bool:
            assert first is not None
            here = sum(command.turn == first.turn for command, _ in self._queue)
            return here >= first.columns or not here or bool(self._closed)

        if first is not None and first.columns > 1:
            self._changed.wait_for(enough, GATHERING)

    def _next(self) -> list[Entry]:
        """The next question, with the other columns of its turn that wait here."""
        if not self._queue:
            return []
        entries, voices = [self._queue.popleft()], self._voices
        first = entries[0][0]
        if first.thread != REVIEW and voices is not None and voices.abreast and voices.judging is None:
            entries += [entry for entry in self._queue if entry[0].turn == first.turn][: MOST - 1]
            for entry in entries[1:]:
                self._queue.remove(entry)
        return entries

    def _has_work(self) -> bool:
        return bool((self._queue or self._idle) and self._voices is not None)

    def _do(self, task: Idle, voices: Voices) -> None:
        failed = ""
        try:
            if not task(voices, lambda: self._broken_off or bool(self._queue)):
                return
        except Exception as error:  # noqa: BLE001 - the thread must go on
            failed = str(error) or type(error).__name__
        with self._changed:
            if task in self._idle:  # else the chat was closed meanwhile
                self._idle.remove(task)
        task.over(failed)

    def _answer_turn(self, entries: list[Entry], voices: Voices) -> None:
        """Answer the columns of one question in one batch where they can, and what cannot one after another."""
        meeting = rounds.get(entries[0][0].turn)
        if meeting is None and len(entries) == 1:
            self._answer(*entries[0], voices)
            return
        columns = Columns(voices, self._log, meeting)
        if voices.abreast and voices.judging is None:
            for entry in entries:
                self._join(columns, entry)
        else:
            columns.leave(entries)
        columns.speak(beside=self._beside())
        for command, reason in columns.failed:
            self._refuse(command, reason)
        if columns.why and columns.why not in self._said:
            self._said.add(columns.why)
            self._log.append(Logged(level="info", text=f"columns are answered one after another: {columns.why}"))
        for command, asked in columns.alone:
            self._answer(command, asked, voices)

    def _join(self, columns: Columns, entry: Entry) -> None:
        command = entry[0]
        try:
            columns.join(entry, self._prompt(command, columns.voices), lambda: self._stops(command))
        except Exception as error:  # noqa: BLE001 - a column that cannot speak is an answer too
            self._refuse(command, str(error) or type(error).__name__)
            if columns.meeting is not None:
                columns.meeting.less(1)

    def _stops(self, command: Ask) -> bool:
        return self._broken_off or command.id in self._hushed

    def _answer(self, command: Ask, asked: float, voices: Voices) -> None:
        def speak(model: Any, step: int, between: bool) -> None:
            self._speak(command, asked, voices, model, {"step": step, "between_steps": between})

        try:
            voices.use(command.at, speak)
        except Exception as error:  # noqa: BLE001 - a failing reply is an answer too, and the thread must go on
            self._refuse(command, str(error) or type(error).__name__)

    def _speak(self, command: Ask, asked: float, voices: Voices, model: Any, voice: dict[str, Any]) -> None:
        from ..threads import sparing

        shared = about(command, voice)
        if command.thread != REVIEW:
            self._log.append(ReplyStarted.model_validate(shared))
        waited = time.perf_counter() - asked
        with sparing(self._beside() and not voice["between_steps"]):
            say = self._spoken if voices.judging is None else self._judged
            answer = say(command, model, voices, waited)
        if not self._put_back(command, asked, answer):
            self._log.append(ReplyDone.model_validate(shared | answer))

    def _put_back(self, command: Ask, asked: float, answer: dict[str, Any]) -> bool:
        """Whether it gave way to a person's question before it was whole: it is answered anew after that."""
        with self._changed:
            broken_off = self._gives_way and answer["ended"] == "stopped" and not self._stops(command)
            if broken_off:
                self._queue.insert(self._before_prepared, (command, asked))
            return broken_off

    def _prompt(self, command: Ask, voices: Voices) -> list[int]:
        messages = with_system(command.messages, self._system)
        return chat_ids(voices.tokenizer, messages, trained_on=voices.trained_on)

    def _spoken(self, command: Ask, model: Any, voices: Voices, waited: float) -> dict[str, Any]:
        from .generate import speak

        spoken = speak(
            model,
            voices.tokenizer,
            self._prompt(command, voices),
            manner_of(command),
            on_text=Parts(self._log, command.id).tell if command.thread != REVIEW else lambda text: None,
            should_stop=lambda: self._stops(command) or self._gives_way,
        )
        return answer_of(spoken, waited)

    def _judged(self, command: Ask, model: Any, voices: Voices, waited: float) -> dict[str, Any]:
        from .judge import judge

        assert voices.judging is not None
        judged = judge(model, voices.tokenizer, with_system(command.messages, self._system), voices.judging)
        return {
            "text": judged.text,
            "tokens": judged.tokens,
            "tokens_per_second": judged.tokens / max(judged.seconds, 1e-9),
            "first_token_seconds": waited + judged.seconds,
            "ended": "eos",
            "scores": judged.scores,
        }


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """The conversation with the recipe's `system` line before it, where it has none of its own."""
    if system is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system}, *messages]
