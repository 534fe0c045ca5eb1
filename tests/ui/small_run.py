"""A session-like object over a real event log, and a wire that carries a panel's real messages."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comm.base_comm import BaseComm

from jupyter_ft.event_log import EventLog, that_count
from jupyter_ft.feedback import Feedback
from jupyter_ft.hyperparameters import Hyperparameters
from jupyter_ft.messages import (
    Applied,
    Ask,
    CheckpointSaved,
    Command,
    Confusion,
    EvalDone,
    Probed,
    ReplyDone,
    ReplyPart,
    ReplyStarted,
    SnapshotSaved,
    StateChanged,
    StepDone,
)
from jupyter_ft.recipe import Recipe, change, parse_recipe
from jupyter_ft.runs import RunFolder
from jupyter_ft.session.answers import Receipt
from jupyter_ft.session.review import Desk, open_desk, rate

XSS = [
    "<script>window.__pwned=1</script>",
    "<img src=x onerror=window.__pwned=2>",
    "<svg onload=window.__pwned=3>",
    "<svg><script>window.__pwned=4</script></svg>",
    "<iframe srcdoc='<script>parent.__pwned=5</script>'></iframe>",
    "[click](javascript:window.__pwned=6)",
    "[click](data:text/html,<script>window.__pwned=7</script>)",
    "![x](http://evil.example/leak.png)",
    "![x](javascript:window.__pwned=8)",
    "<a href='javascript:window.__pwned=9'>x</a>",
    "<body onload=window.__pwned=10>",
    "<math><mtext></table><mglyph><style><img src=x onerror=window.__pwned=11>",
    "<style>@import 'http://evil.example/x.css'</style>",
    "<form action=javascript:window.__pwned=12><input type=submit autofocus onfocus=window.__pwned=13>",
    "<details open ontoggle=window.__pwned=14>",
    "`<img src=x onerror=window.__pwned=15>`",
    "```html\n<img src=x onerror=window.__pwned=16>\n```",
    "<video><source onerror=window.__pwned=17></video>",
    '"><img src=x onerror=window.__pwned=18>',
    "'><img src=x onerror=window.__pwned=19>",
    "<http://evil.example/auto> <javascript:window.__pwned=20>",
    "[ref]\n\n[ref]: javascript:window.__pwned=21",
    "<link rel=stylesheet href=http://evil.example/y.css>",
    "<object data=http://evil.example/z></object><embed src=http://evil.example/w>",
    "<base href=http://evil.example/>",
]


@dataclass
class SmallRun:
    """What a panel needs of a session; the values follow from the log's `Applied` events."""

    name: str = "support"
    recipe: Recipe = field(default_factory=lambda: parse_recipe({}))
    log: EventLog = field(default_factory=EventLog)
    state: str = "running"
    step: int = 0
    total_steps: int = 400
    folder: Path = Path("runs/support")
    said: list[Command] = field(default_factory=list)
    answers: Iterator[str] = field(default_factory=lambda: (f"Answer {n}" for n in itertools.count(1)))
    desk: Desk | None = None
    hyperparameters: Hyperparameters = field(init=False)

    def __post_init__(self) -> None:
        self.hyperparameters = self.recipe.hyperparameters

    def submit(self, command: Command) -> None:
        self.said.append(command)

    @property
    def steps(self) -> list[int]:
        return [saved.step for saved in that_count(self.log.history(), CheckpointSaved)]

    @property
    def visitable(self) -> list[int]:
        return RunFolder(self.folder).visitable()

    @property
    def feedback(self) -> Feedback:
        return Feedback(self.folder)

    def chat_address(self, text: str | int) -> str:
        return str(text)

    def ask(self, messages: list[dict[str, str]], at: str = "live", **more: Any) -> Receipt:
        """A question that is answered at once, by the next of `answers`."""
        asked = Ask(messages=messages, at=at, **more)
        self.reply(asked.id, messages[-1]["content"], next(self.answers), at, asked.turn, thread=asked.thread)
        return Receipt(self.log, asked)

    def review_desk(self, prompts: Any = None, at: Any = ("live", "live"), reviewer: str | None = None) -> Desk:
        """A real desk over these answers."""
        self.desk = open_desk(self, prompts, at, reviewer=reviewer, blind=True, again=False, sampling={})  # type: ignore[arg-type]
        return self.desk

    def rate(self, reply: str, good: bool | None = True) -> object:
        return rate(self, reply, good)  # type: ignore[arg-type]

    def asked(self, command: str) -> Ask | None:
        return next((one for one in self.said if isinstance(one, Ask) and one.id == command), None)

    def take(
        self, steps: int, bad: tuple[int, ...] = (), spikes: tuple[tuple[int, float], ...] = (), **metrics: float
    ) -> None:
        for _ in range(steps):
            self.step += 1
            n = self.step
            loss = (
                math.nan
                if n in bad
                else 1.1 + 2.2 * math.exp(-n / 60) + 0.16 * math.sin(n * 12.9898) * math.cos(n * 4.1)
            )
            loss = dict(spikes).get(n, loss)
            rate = self.hyperparameters.learning_rate * max(0.0, 1 - n / max(self.total_steps, n + 1))
            norm = math.nan if n in bad else 0.8 + 0.3 * math.sin(n * 7.7) ** 2
            self.log.append(
                StepDone(
                    step=n,
                    loss=loss,
                    learning_rate=rate,
                    grad_norm=norm,
                    tokens=1900 + n % 60,
                    seconds=0.62,
                    epoch=n / 200,
                    metrics={"mean_token_accuracy": min(0.9, 0.4 + n / 900), **metrics},
                )
            )

    def become(self, state: str, note: str = "") -> None:
        self.state = state
        self.log.append(StateChanged(state=state, step=self.step, total_steps=self.total_steps, note=note))

    def apply(self, command: str, **changes: Any) -> None:
        old = self.hyperparameters
        self.hyperparameters = change(old, changes)
        pairs = {name: (getattr(old, name), value) for name, value in changes.items()}
        self.log.append(Applied(command=command, verb="set", step=self.step + 1, changes=pairs))

    def save(self, kept: list[int] | None = None) -> None:
        path = f"checkpoints/step-{self.step:06}"
        self.log.append(CheckpointSaved(step=self.step, path=path, bytes=1, seconds=0.1, kept=kept))

    def snap(self, kept: list[int], taken: int) -> None:
        disk = {"bytes": taken // len(kept), "taken": taken, "budget": 2 * 10**9}
        self.log.append(SnapshotSaved(step=self.step, seconds=0.1, kept=kept, **disk))

    def score(self, loss: float, best: int, confusion: Confusion | None = None, **more: float) -> None:
        told = {"metrics": {"eval_loss": loss, **more}, "confusion": confusion}
        self.log.append(EvalDone(step=self.step, best_step=best, rows=20, seconds=0.5, **told))

    def probe(self, number: int, prompt: str, text: str, at: str = "live") -> None:
        step = self.spoken_by(at)
        self.log.append(
            Probed(step=step, at=at, number=number, prompt=prompt, text=text, tokens=len(text.split()), ended="eos")
        )

    def start_reply(
        self, command: str, prompt: str, at: str = "live", turn: str = "t.0", thread: str = "panel"
    ) -> None:
        step = self.spoken_by(at)
        said = {"command": command, "turn": turn, "thread": thread, "at": at, "step": step, "prompt": prompt}
        self.log.append(ReplyStarted(**said))

    def spoken_by(self, at: str) -> int:
        return {"base": 0, "live": self.step}[at] if at in ("base", "live") else int(at)

    def reply(
        self, command: str, prompt: str, text: str, at: str = "live", turn: str = "t.0", *, thread: str = "panel"
    ) -> None:
        self.start_reply(command, prompt, at, turn, thread=thread)
        for word in text.split(" "):
            self.log.append(ReplyPart(command=command, text=word + " "))
        self.log.append(
            ReplyDone(
                command=command,
                turn=turn,
                thread=thread,
                at=at,
                step=self.spoken_by(at),
                prompt=prompt,
                text=text,
                tokens=len(text.split()),
                tokens_per_second=21.4,
                first_token_seconds=0.3,
                ended="eos",
            )
        )


class Wire(BaseComm):
    """A comm that keeps what is sent over it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        super().__init__(*args, **kwargs)

    def publish_msg(
        self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **keys: Any
    ) -> None:
        if data and data.get("method") == "custom":
            self.sent.append((data["content"], [bytes(buffer) for buffer in buffers or []]))
        self._reply_subshell_id = "main"  # as ipykernel 7.4 notes it

    def taken(self) -> list[tuple[dict[str, Any], list[bytes]]]:
        sent = self.sent[:]  # never another list: a thread that is about to append has this one
        del self.sent[: len(sent)]
        return sent


def say(panel: Any, **content: Any) -> None:
    """What a view says, by the way that a kernel takes it."""
    panel._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


def until(condition: Any, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
