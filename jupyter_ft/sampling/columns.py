"""The columns of one question to one run: who speaks with the others in a batch, and what is told of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..event_log import EventLog
from ..messages import Ask, ReplyDone, ReplyPart, ReplyStarted
from .round import Round

if TYPE_CHECKING:
    from .chat import Voices
    from .chorus import Part
    from .generate import Manner, Spoken

PART_SECONDS = 0.1  # text is told of at most this often
Entry = tuple[Ask, float]
"""A question, and when it was asked."""


class Columns:
    """Those of one turn, on the chat thread of `voices`. With a `meeting` they speak with those of other runs.

    Afterwards `alone` are still to be answered, for the reason `why`, and `failed` to be refused.
    """

    def __init__(self, voices: Voices, log: EventLog, meeting: Round | None) -> None:
        self.voices, self.meeting, self._log = voices, meeting, log
        self.alone: list[Entry] = []
        self.failed: list[tuple[Ask, str]] = []
        self.why = ""
        self._joined: list[tuple[Entry, dict[str, Any], Part]] = []
        self._voiced: dict[str, tuple[Any, int]] = {}  # asked for twice, `live` would move below the first

    def leave(self, entries: list[Entry]) -> None:
        """These speak by themselves."""
        self.alone += entries
        if self.meeting is not None:
            self.meeting.less(len(entries))

    def join(self, entry: Entry, prompt: list[int], should_stop: Callable[[], bool]) -> None:
        """One more. Raises what `Voices.voice` does, and `Refused` where there is no room for an answer."""
        from .chorus import Part, layers_of, storage_of
        from .generate import Row, room

        command, voices = entry[0], self.voices
        if command.at not in self._voiced:
            self._voiced[command.at] = voices.voice(command.at)
        model, step = self._voiced[command.at]
        room(model, prompt)
        try:
            layers = layers_of(model)
        except Refused as error:
            self.why = str(error)
            self.leave([entry])
            return
        row = Row(voices.tokenizer, prompt, manner_of(command), Parts(self._log, command.id).tell, should_stop)
        told = about(command, {"step": step, "between_steps": False})
        self._joined.append((entry, told, Part(model, row, layers, storage_of(model))))
        self._log.append(ReplyStarted.model_validate(told))

    def speak(self, *, beside: bool) -> None:
        """Have those that joined speak; `beside` a run that computes, its cores are spared."""
        if not self._joined:
            return

        def lead(parts: list[Part]) -> None:
            from ..threads import sparing
            from .chorus import Stage, speak_parts

            stage = self.voices.stage or Stage()
            with sparing(beside):
                speak_parts(parts, stage)
            mine = any(part.storage == stage.storage for part in own)
            self.voices.stage = stage if mine else None  # the base of another run is not ours to hold

        own = [part for _, _, part in self._joined]
        if self.meeting is None:
            lead(own)
        else:
            self.meeting.meet(own, lead)
        self.voices.settle()
        for (command, asked), told, part in self._joined:
            if part.spoken is None:
                self.failed.append((command, part.error))
                continue
            answer = answer_of(part.spoken, part.began - asked) | {"together": part.together}
            self._log.append(ReplyDone.model_validate(told | answer))


class Parts:
    """Tells the log of new text, at most every `PART_SECONDS`."""

    def __init__(self, log: EventLog, command: str) -> None:
        self._log, self._command = log, command
        self._told, self._last = "", 0.0

    def tell(self, text: str) -> None:
        """The whole text so far."""
        now = time.perf_counter()
        if now - self._last >= PART_SECONDS and text.startswith(self._told) and text != self._told:
            self._log.append(ReplyPart(command=self._command, text=text[len(self._told) :]))
            self._told, self._last = text, now


def about(command: Ask, voice: dict[str, Any]) -> dict[str, Any]:
    """What the events of a reply tell of its question."""
    return voice | {
        "command": command.id,
        "turn": command.turn,
        "thread": command.thread,
        "at": command.at,
        "prompt": command.messages[-1]["content"],
    }


def manner_of(command: Ask) -> Manner:
    """How the answer to a question is to be spoken."""
    from .generate import Manner

    return Manner(command.max_new_tokens, command.temperature, command.top_p, command.top_k, command.seed)


def answer_of(spoken: Spoken, waited: float) -> dict[str, Any]:
    """What `ReplyDone` tells of what was spoken, after `waited` seconds."""
    return {
        "text": spoken.text,
        "tokens": spoken.tokens,
        "tokens_per_second": spoken.tokens / max(spoken.seconds, 1e-9),
        "first_token_seconds": waited + spoken.first_token_seconds,
        "ended": spoken.ended,
    }
