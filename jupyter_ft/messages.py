"""The whole protocol: commands go in, events come out, both as JSON.

Cells, widgets, another process and tests all speak it. Every command is answered by exactly one event that carries
its `id` as `command`: `Applied`, `Refused`, or for an `Ask` also `ReplyDone`.
"""

from __future__ import annotations

import uuid
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, TypeAdapter

from .told import Advice as Advice  # noqa: PLC0414 - these are part of the protocol
from .told import Confusion as Confusion  # noqa: PLC0414
from .told import Happened as _Event
from .told import Health as Health  # noqa: PLC0414
from .told import Said as _Said
from .told import rows_text as rows_text  # noqa: PLC0414

RunState = Literal["queued", "loading", "running", "paused", "stopping", "finished", "stopped", "failed"]
OVER: frozenset[str] = frozenset({"finished", "stopped", "failed"})
Message = dict[str, str]
"""One turn of a conversation: `role` and `content`."""
REVIEW = "review"
"""The `thread` of answers that are prepared for a review: what people ask goes before them, and no chat shows them."""


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


# --- commands: what a person wants ------------------------------------------------------------------------------------


class Set(_Said):
    """Change live hyperparameters at the next optimizer step, or at `step`."""

    kind: Literal["set"] = "set"
    id: str = Field(default_factory=_new_id)
    changes: dict[str, JsonValue]
    step: int | None = None


class Pause(_Said):
    """Hold before the next step; chat and edits go on. `free_memory` gives the memory back until the run resumes."""

    kind: Literal["pause"] = "pause"
    id: str = Field(default_factory=_new_id)
    free_memory: bool = False


class Resume(_Said):
    """Go on after a pause."""

    kind: Literal["resume"] = "resume"
    id: str = Field(default_factory=_new_id)


class Stop(_Said):
    """End the run at the next step boundary, with a checkpoint from which it can be resumed."""

    kind: Literal["stop"] = "stop"
    id: str = Field(default_factory=_new_id)


class Save(_Said):
    """Write a checkpoint at the next step boundary. Without `keep` newer ones may push it out."""

    kind: Literal["save"] = "save"
    id: str = Field(default_factory=_new_id)
    keep: bool = True


class Rewind(_Said):
    """Take back the steps after `step`, which has a checkpoint, and go on from there."""

    kind: Literal["rewind"] = "rewind"
    id: str = Field(default_factory=_new_id)
    step: int = Field(ge=1)


class Ask(_Said):
    """Put a conversation to the weights at `at`: `live`, `base`, or a step; answered when the reply is whole.

    `turn` groups the columns of one question, of which `columns` are put to this run; `thread` is the conversation it
    belongs to.
    """

    kind: Literal["ask"] = "ask"
    id: str = Field(default_factory=_new_id)
    messages: list[Message]
    at: str = "live"
    turn: str = Field(default_factory=_new_id)
    columns: int = 1
    thread: str = "panel"
    max_new_tokens: int = Field(default=256, ge=1, le=32768)
    temperature: float = Field(default=0.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    seed: int | None = None


class Hush(_Said):
    """Stop the reply to the command `target` where it is, or take it out of the queue."""

    kind: Literal["hush"] = "hush"
    id: str = Field(default_factory=_new_id)
    target: str


Command = Set | Pause | Resume | Stop | Save | Rewind | Ask | Hush
ForTrainer = Set | Pause | Resume | Stop | Save | Rewind
"""Commands that the training thread obeys between two steps."""
ForChat = Ask | Hush
"""Commands that the chat thread obeys."""

# --- events: what has happened ----------------------------------------------------------------------------------------


class StateChanged(_Event):
    """The run is in another state; `note` says why where that is not obvious."""

    kind: Literal["state"] = "state"
    state: RunState
    step: int = 0
    total_steps: int = 0
    note: str = ""


class Progress(_Event):
    """Something long goes on: `done` of `total` (0 where unknown)."""

    durable: ClassVar[bool] = False
    kind: Literal["progress"] = "progress"
    what: str
    done: int = 0
    total: int = 0


class DataReady(_Event):
    """The rows are tokenised; `said` is the sentence for the user."""

    kind: Literal["data"] = "data"
    said: str
    rows: int
    dropped: int
    tokens: int
    trained_tokens: int
    labels: list[str] = Field(default_factory=list)  # of a classifier, in the order that they are numbered in


class StepDone(_Event):
    """One optimizer step. `loss` is ours, measured for this step alone; NaN and infinity are kept as they are."""

    kind: Literal["step"] = "step"
    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    epoch: float
    metrics: dict[str, float] = Field(default_factory=dict)


class StepRefused(_Event):
    """A non-finite loss or gradient was kept away from the weights at this step; `rows` are the step's, from 1."""

    kind: Literal["step-refused"] = "step-refused"
    step: int
    loss: float
    grad_norm: float
    rows: list[int] = Field(default_factory=list)


class EvalDone(_Event):
    """The held-out rows were scored with the weights of `step`: `eval_loss` and the method's own metrics.

    `best_step` has been the best so far by `best_metric` (of a policy, unless another is asked for, `eval_reward`).
    """

    kind: Literal["eval"] = "eval"
    step: int
    metrics: dict[str, float]
    best_step: int
    best_metric: str = "eval_loss"
    rows: int
    seconds: float
    confusion: Confusion | None = None


class MemoryShort(_Event):
    """Memory ran out at this step; the same rows go on in micro-batches of `micro_batch`, or (0) the run pauses."""

    kind: Literal["memory-short"] = "memory-short"
    step: int
    micro_batch: int
    said: str


class ChatWaits(_Event):
    """Chat has no weights of its own, and `said` is why: a reply is spoken between two steps, and the run waits."""

    kind: Literal["chat-waits"] = "chat-waits"
    said: str


class Resumed(_Event):
    """The run goes on from the checkpoint at `step`; later steps of the log did not count.

    In a new process, or (`rewound`) because a person took them back, and the edits made in them too. `ahead` are the
    commands that were in force for the next step already when the checkpoint was written.
    """

    kind: Literal["resumed"] = "resumed"
    step: int
    ahead: list[str] = Field(default_factory=list)
    rewound: bool = False


class Applied(_Event):
    """The command took effect at `step` (for `set`: the first step that uses it). Values are `(old, new)`."""

    kind: Literal["applied"] = "applied"
    command: str
    verb: str
    step: int
    changes: dict[str, tuple[JsonValue, JsonValue]] = Field(default_factory=dict)
    total_steps: int = 0


class Refused(_Event):
    """The command was not obeyed, and why."""

    kind: Literal["refused"] = "refused"
    command: str
    verb: str
    step: int
    reason: str


class CheckpointSaved(_Event):
    """A complete checkpoint is published in the run folder; `kept`: those with weights now (None: not told).

    `asked`: a person saved it, so newer ones do not push it out.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    bytes: int
    seconds: float
    kept: list[int] | None = None
    asked: bool = False


class SnapshotSaved(_Event):
    """The adapter of this step is kept, to be visited; `kept` are the steps whose weights are kept now.

    `taken` are the bytes of all snapshots, of the `budget` that they have (0: an event of before that was told).
    """

    kind: Literal["snapshot"] = "snapshot"
    step: int
    bytes: int
    seconds: float
    kept: list[int]
    taken: int = 0
    budget: int = 0


class SaveFailed(_Event):
    """A checkpoint could not be written; the run goes on."""

    kind: Literal["save-failed"] = "save-failed"
    step: int
    reason: str


class Logged(_Event):
    """A line that the run printed or logged; `heed` it: the run goes on with less than was asked for."""

    kind: Literal["log"] = "log"
    level: str
    text: str
    heed: bool = False


class Crashed(_Event):
    """The run failed at `step`."""

    kind: Literal["crashed"] = "crashed"
    step: int
    error: str
    traceback: str


class ReplyStarted(_Event):
    """A question left the queue; the weights of `step` speak (for `base`, 0)."""

    kind: Literal["reply-started"] = "reply-started"
    durable: ClassVar[bool] = False
    command: str
    turn: str
    thread: str
    at: str
    step: int
    prompt: str
    between_steps: bool = False


class ReplyPart(_Event):
    """More text of a reply, to be appended."""

    durable: ClassVar[bool] = False
    kind: Literal["reply-part"] = "reply-part"
    command: str
    text: str


class ReplyDone(_Event):
    """A whole reply. `ended` is `eos`, `length` or `stopped`; `between_steps`: the run waited while it was spoken.

    Of a model that scores, `scores` are what it gave: the probability of each label, or the `score` of a reward model;
    `tokens` are then those that it read. `together`: so many columns spoke in its batch.
    """

    kind: Literal["reply"] = "reply"
    command: str
    turn: str
    thread: str
    at: str
    step: int
    prompt: str
    text: str
    tokens: int
    tokens_per_second: float
    first_token_seconds: float
    ended: str
    between_steps: bool = False
    together: int = 1
    scores: dict[str, float] = Field(default_factory=dict)


class Probed(_Event):
    """The answer of the weights of `step` to a fixed prompt, which is no chat: of the `base`, or `live` along the run.

    `number` is the prompt's among the probes, from 0. Of a model that scores, `text` is what it gave.
    """

    kind: Literal["probe"] = "probe"
    step: int
    at: Literal["base", "live"]
    number: int
    prompt: str
    text: str
    tokens: int
    ended: str


Event = (
    StateChanged
    | Progress
    | DataReady
    | StepDone
    | StepRefused
    | EvalDone
    | Health
    | MemoryShort
    | ChatWaits
    | Resumed
    | Applied
    | Refused
    | CheckpointSaved
    | SnapshotSaved
    | SaveFailed
    | Logged
    | Crashed
    | ReplyStarted
    | ReplyPart
    | ReplyDone
    | Probed
)

Answer = Applied | Refused | ReplyDone
"""Every command is answered by exactly one of these, whose `command` is its id."""

_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def command_from(data: object) -> Command:
    """The command in decoded JSON; raises `pydantic.ValidationError` on anything else."""
    return _COMMAND.validate_python(data)


def event_from(line: str | bytes) -> Event:
    """The event in one line of JSON; raises `pydantic.ValidationError` on anything else."""
    return _EVENT.validate_json(line)
