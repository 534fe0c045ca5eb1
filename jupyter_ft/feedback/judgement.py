"""One judgement of a person: a choice between two answers, an answer written better, or a rating of one answer."""

from __future__ import annotations

import json
import time as _time
import uuid
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from ..messages import Message

Choice = Literal["left", "right", "tie", "both_bad", "skip"]
Kind = Literal["choice", "edit", "rating"]
Text = Annotated[str, AfterValidator(lambda text: text.replace("\0", "\ufffd"))]
"""A text that every reader of rows takes: models may say NUL."""
HELD_OUT_ONE_IN = 5


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Record):
    """What was judged: its text, the run, address and step that spoke it, and how it was sampled."""

    text: Text
    run: str = ""
    at: str = ""
    step: int | None = None
    tokens: int | None = None
    sampling: dict[str, JsonValue] = Field(default_factory=dict)


class Judgement(_Record):
    """Who judged what, and how. `answers` are as they stood: of a pair the left one, then the right one.

    `choice` is of a pair, `good` of a rating (one answer), `edited` the answer as the reviewer would have it. `shown`
    are the places that left and right had before they were shuffled. `held_out` follows from the prompt alone.
    """

    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12], min_length=1)
    kind: Kind
    prompt: list[Message] = Field(min_length=1)
    answers: list[Answer] = Field(min_length=1, max_length=2)
    choice: Choice | None = None
    good: bool | None = None
    edited: Text = ""
    tags: list[str] = Field(default_factory=list)
    comment: Text = ""
    reviewer: Text = ""
    time: float = Field(default_factory=_time.time)  # seconds since the epoch
    blind: bool = False
    held_out: bool = False
    shown: list[int] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, given: object) -> object:
        """A prompt may be a text; whether it is held out is found, and an `id` where there is none, from the rest."""
        if not isinstance(given, Mapping) or not given.get("prompt"):
            return given
        found: dict[str, Any] = {**given}
        if isinstance(found["prompt"], str):
            found["prompt"] = [{"role": "user", "content": found["prompt"]}]
        found["held_out"] = is_held_out(found["prompt"])
        return found

    @model_validator(mode="after")
    def _fits(self) -> Judgement:
        pair = self.kind == "choice" or (self.kind == "edit" and self.choice is not None)
        if pair and (self.choice is None or len(self.answers) != 2):
            raise ValueError("a choice is between two answers: left, right, tie, both_bad or skip")
        if self.choice in ("left", "right") and self.answers[0].text == self.answers[-1].text:
            raise ValueError("both answers are the same, so neither is the better one")
        if self.choice in ("left", "right") and not all(answer.text.strip() for answer in self.answers):
            raise ValueError("one of the answers is empty; a choice needs two")
        if self.kind == "rating" and (self.good is None or len(self.answers) != 1):
            raise ValueError("a rating is of one answer, and good or not")
        if self.kind == "edit" and not self.edited.strip():
            raise ValueError("an edit without a text; write the better answer")
        if self.prompt[-1].get("role") == "assistant":
            raise ValueError("the prompt ends with an answer; end it with what was asked")
        return self

    def __repr__(self) -> str:
        """What was judged, in a line that does not tell which weights said what."""
        rated = "good" if self.good else "bad"
        verdict = rated if self.good is not None else self.choice or "edited"
        return f"<Judgement {self.id}: {verdict} · {self.prompt[-1]['content']:.60}>"

    @property
    def preferred(self) -> Answer | None:
        """The answer of a pair that was chosen; None where neither was."""
        return {"left": self.answers[0], "right": self.answers[-1]}.get(self.choice or "")

    @property
    def passed_over(self) -> Answer | None:
        """The answer of a pair that was not chosen; None where neither was."""
        return {"left": self.answers[-1], "right": self.answers[0]}.get(self.choice or "")


def prompt_key(prompt: object) -> str:
    """The same for the same prompt, in whichever run or kernel it is judged."""
    return sha256(json.dumps(prompt, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def is_held_out(prompt: object) -> bool:
    """Whether judgements of `prompt` are kept out of training: a fifth of prompts, always the same ones."""
    return int(prompt_key(prompt)[:8], 16) % HELD_OUT_ONE_IN == 0
