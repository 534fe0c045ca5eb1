"""What the ui asks of a session, and what its log says when read from the start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jupyter_ft.event_log import EventLog, Floats
from jupyter_ft.hyperparameters import Hyperparameters
from jupyter_ft.messages import (
    REVIEW,
    Applied,
    CheckpointSaved,
    Command,
    Crashed,
    DataReady,
    EvalDone,
    Event,
    Health,
    Logged,
    MemoryShort,
    Probed,
    ReplyDone,
    Resumed,
    StateChanged,
    StepRefused,
)
from jupyter_ft.recipe import Recipe

if TYPE_CHECKING:
    from jupyter_ft.feedback import Feedback
    from jupyter_ft.session.review import Desk


class Watched(Protocol):
    """A run that can be looked at and told things; `session.Session` is one."""

    @property
    def name(self) -> str:
        """Name of the run."""

    @property
    def log(self) -> EventLog:
        """Everything that has happened."""

    @property
    def recipe(self) -> Recipe:
        """What was asked at the start."""

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The live values as they are now."""

    @property
    def state(self) -> str:
        """One of `messages.RunState`."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps in all; 0 while unknown."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def steps(self) -> list[int]:
        """The steps that the run can go back to."""

    @property
    def visitable(self) -> list[int]:
        """The steps whose weights are kept, to be talked to."""

    @property
    def feedback(self) -> Feedback:
        """What was judged of it."""

    @property
    def desk(self) -> Desk | None:
        """The review that was opened last."""

    def review_desk(
        self, prompts: Any = None, at: str | Sequence[str | int] = ("live", "live"), reviewer: str | None = None
    ) -> Desk:
        """Open a review."""

    def rate(self, reply: str, good: bool | None = True) -> object:
        """Keep a thumb for the reply to a question."""

    def submit(self, command: Command) -> object:
        """Put a command in the inbox and return at once."""


@dataclass
class Past:
    """A log, sorted for showing; what a resumed run took back is left out."""

    steps: dict[str, Floats]
    changes: list[Applied] = field(default_factory=list)
    checkpoints: list[CheckpointSaved] = field(default_factory=list)
    refused: list[StepRefused] = field(default_factory=list)
    bad_steps: list[int] = field(default_factory=list)
    evals: list[EvalDone] = field(default_factory=list)
    notices: list[Health | MemoryShort] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of the package itself: what is left out, and why
    data: str = ""
    replies: list[ReplyDone] = field(default_factory=list)
    probes: list[Probed] = field(default_factory=list)
    crash: Crashed | None = None
    abandoned: list[tuple[Floats, Floats]] = field(default_factory=list)  # steps taken back and their losses
    why: str = ""  # it waits, is paused or ended, where that is not obvious; of a failure `crash` tells

    def keep(self, event: Event) -> None:
        """Sort one event in."""
        if isinstance(event, Applied) and event.verb == "set":
            self.changes.append(event)
        elif isinstance(event, CheckpointSaved):
            self.checkpoints.append(event)
        elif isinstance(event, StepRefused):
            self.refused.append(event)
        elif isinstance(event, EvalDone):
            self.evals.append(event)
        elif isinstance(event, Health | MemoryShort):
            self.notices.append(event)
        elif isinstance(event, StateChanged):
            self.why = event.note if event.state in ("queued", "paused", "stopped", "finished") else ""
        elif isinstance(event, DataReady):
            self.data = event.said
        elif isinstance(event, ReplyDone) and event.thread != REVIEW:
            self.replies.append(event)
        elif isinstance(event, Logged):
            self.warnings += [event.text] if event.heed else []
        elif isinstance(event, Probed):
            self.probes.append(event)
        elif isinstance(event, Crashed):
            self.crash = event
        elif isinstance(event, Resumed):
            self._take_back(event.step, event.ahead)

    def _take_back(self, last: int, ahead: list[str]) -> None:
        self.changes = [change for change in self.changes if change.step <= last or change.command in ahead]
        self.checkpoints = [saved for saved in self.checkpoints if saved.step <= last]
        self.refused = [refusal for refusal in self.refused if refusal.step <= last]
        self.probes = [answer for answer in self.probes if answer.step <= last]
        self.evals = [scored for scored in self.evals if scored.step <= last]
        self.notices = [notice for notice in self.notices if notice.step <= last]
        self.crash = None


def past_of(session: Watched) -> Past:
    """The log of a session; of many steps the picture. Those with a loss that is not finite are among `bad_steps`."""
    return past_in(session.log)


def past_in(log: EventLog) -> Past:
    """The same of a log alone."""
    news, _ = log.read(steps="picture")
    past = Past(news.steps, abandoned=log.abandoned)
    for event in news.events:
        past.keep(event)
    bad = news.steps["step"][~np.isfinite(news.steps["loss"])]
    past.bad_steps = sorted({*(refusal.step for refusal in past.refused), *(int(step) for step in bad)})
    return past


def held_out(past: Past) -> tuple[list[int], list[float]]:
    """The steps at which the held-out rows were scored, and their `eval_loss`."""
    scored = [(event.step, event.metrics["eval_loss"]) for event in past.evals if "eval_loss" in event.metrics]
    return [step for step, _ in scored], [loss for _, loss in scored]


def printable(text: str) -> str:
    """Without control characters: what a model or a file says must not steer the terminal that prints it."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def shown(value: object) -> str:
    """A value as people write it: `2e-4`, `0.1`, `linear`, `none`."""
    if value is None:
        return "none"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.4g}"
    if value != 0 and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return text


def typed(text: str) -> Any:
    """A value as people type it: a number, true, none, or a word; whether it fits is the recipe's to say."""
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def change_text(change: Applied) -> str:
    """`learning_rate 2e-4 → 5e-5, batch_size 8 → 4`."""
    return ", ".join(f"{name} {shown(old)} → {shown(new)}" for name, (old, new) in change.changes.items())
