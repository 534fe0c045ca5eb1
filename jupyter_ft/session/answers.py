"""What a verb gives back: a receipt for a command, the words of a reply."""

from __future__ import annotations

from ..errors import Refused as RefusedError
from ..event_log import EventLog
from ..messages import Applied, Command, Refused, ReplyDone


class Receipt:
    """A command that was handed in. It is answered once."""

    def __init__(self, log: EventLog, command: Command) -> None:
        self._log, self.command = log, command

    @property
    def answer(self) -> Applied | Refused | ReplyDone | None:
        """The event that answered it, or None while there is none."""
        return self._log.answer(self.command.id)

    def wait(self, timeout: float | None = None) -> int:
        """Block until it is answered: the step at which it took effect.

        Raises `Refused` with the reason, or `TimeoutError` after `timeout` seconds.
        """
        if not self._log.wait_for(lambda: self.answer is not None, timeout):
            raise TimeoutError(f"{self.command.kind}: no answer within {timeout} s; it takes effect at a step boundary")
        answer = self.answer
        if isinstance(answer, Refused):
            raise RefusedError(f"{answer.verb}: {answer.reason}")
        return answer.step if answer is not None else 0

    def __repr__(self) -> str:
        answer = self.answer
        if answer is None:
            return f"<{self.command.kind}: requested>"
        if isinstance(answer, Refused):
            return f"<{self.command.kind}: refused, {answer.reason}>"
        return f"<{self.command.kind}: applied at step {answer.step}>"


class Reply(str):
    """What the model said; also which weights said it (`at`, `step`) and how fast (`tokens_per_second`).

    `between_steps`: chat has no copy of the weights, and the run waited while this was spoken.
    `scores` are a classifier's probabilities by label, or the `score` of a reward model; of others empty.
    """

    command: str
    step: int
    at: str
    tokens: int
    tokens_per_second: float
    first_token_seconds: float
    ended: str
    between_steps: bool
    scores: dict[str, float]

    @classmethod
    def of(cls, event: ReplyDone) -> Reply:
        """The reply that an event tells of."""
        reply = cls(event.text)
        for name in ("command", "step", "at", "tokens", "tokens_per_second", "first_token_seconds", "ended"):
            setattr(reply, name, getattr(event, name))
        reply.between_steps, reply.scores = event.between_steps, event.scores
        return reply
