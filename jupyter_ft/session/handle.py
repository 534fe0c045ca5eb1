"""`Session`, what a notebook holds: its verbs are commands, its properties are read from the events."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..control.inbox import Inbox
from ..data import Examples
from ..errors import RecipeError, RunFolderError, TrainingFailed
from ..event_log import Cursor, EventLog
from ..hyperparameters import Hyperparameters
from ..launch.same_base import check_on_disk
from ..launch.thread import start
from ..memory.waiting import queue
from ..messages import (
    OVER,
    Applied,
    Ask,
    Command,
    Crashed,
    Event,
    Health,
    Hush,
    Logged,
    Pause,
    Refused,
    Resume,
    Resumed,
    Rewind,
    RunState,
    Save,
    Set,
    StateChanged,
    Stop,
)
from ..recipe import Recipe, as_plain, change, first_complaint
from ..runs import RunFolder
from ..sampling.chat import Chat
from ..told import FREED
from .answers import Receipt
from .registry import sessions
from .rewards import Functions, given_again, missing, renew
from .shown import Shown
from .taking import Taking
from .talk import Talking
from .travel import Travelling, ahead_of, unmade


def collect() -> None:
    """Free what nobody holds any more, now; nothing where no model can have been loaded."""
    if "torch" in sys.modules:
        from ..control.memory import free_memory

        free_memory()


def _a_run_computes() -> bool:
    return any(session.state in ("loading", "running") for session in sessions.values())


class Session(Talking, Travelling, Taking, Shown):
    """A run of this kernel, live or over. Made by `finetune` and `open`."""

    def __init__(self, recipe: Recipe, folder: RunFolder, log: EventLog, examples: Examples | None) -> None:
        self.recipe = recipe
        self.log = log
        self.run_folder = folder
        self._examples = examples
        self._inbox: Inbox | None = None
        self._chat = Chat(log, recipe.system, beside=_a_run_computes, rewards=recipe.method == "reward")
        self._seen = Cursor()
        self._guard = log.lock  # `wait` reads the state while it holds the log: two locks could be taken in both orders
        self._state: RunState = "queued"
        self._total = self._step = 0
        self._error = ""
        self._closed = False
        self._gate: threading.Event | None = None
        self._now: Hyperparameters = recipe.hyperparameters
        self._marks: list[Applied] = []
        self._said = ""
        self._health = Health(step=0, level="green", said="sound")
        self._resuming: Receipt | None = None
        self.rewards: Functions = {}  # the training thread looks a function up in it each time
        self._desks, self._asked = {}, {}

    # --- what it is ---

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run_folder.name

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_folder.path

    def _catch_up(self) -> None:
        with self._guard:
            news, self._seen = self.log.read(self._seen, steps="none")
            for event in news.events:
                self._note(event)
            if self._seen.rows:  # after the events: the columns are as they are now, a `Resumed` may be old
                self._step = self.log.last_step

    def _note(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            self._state, self._said = event.state, event.note
            self._total = event.total_steps or self._total
        elif isinstance(event, Applied):
            self._total = event.total_steps or self._total
            if event.changes:
                self._marks.append(event)
                self._now = change(self._now, {name: new for name, (_, new) in event.changes.items()})
        elif isinstance(event, Crashed):
            self._error = event.error
        elif isinstance(event, Health):
            self._health = event
        elif isinstance(event, Resumed):
            self._step = event.step
            self._marks = [mark for mark in self._marks if mark.step <= event.step or mark.command in event.ahead]
            self._now = self.recipe.hyperparameters
            for mark in self._marks:
                self._now = change(self._now, {name: new for name, (_, new) in mark.changes.items()})

    @property
    def state(self) -> RunState:
        """`queued loading running paused stopping finished stopped failed`."""
        self._catch_up()
        return self._state

    @property
    def said(self) -> str:
        """Why it is in its state, where that is not obvious: what it waits for, paused or failed for."""
        self._catch_up()
        return self._said

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        self._catch_up()
        return self._step

    @property
    def total_steps(self) -> int:
        """Optimizer steps in all, as things stand; 0 while loading."""
        self._catch_up()
        return self._total

    @property
    def health(self) -> Health:
        """The last change of health: its `level` (green, amber, red), what is `said`, at which `step`, the `rows`."""
        self._catch_up()
        return self._health

    @property
    def examples(self) -> Examples | None:
        """Its rows, where they are at hand."""
        return self._examples

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The live values as last applied (a learning rate as it was set, not as scheduled)."""
        self._catch_up()
        return self._now

    @property
    def changes(self) -> list[Applied]:
        """The edits that took effect, in order."""
        self._catch_up()
        return list(self._marks)

    @property
    def events(self) -> list[Event]:
        """Everything that happened but the steps (those are `metrics`)."""
        return self.log.history()

    def __repr__(self) -> str:
        state, of = self.state, f"/{self._total}" if self._total else ""
        error = f": {self._error}" if state == "failed" else f": {self._said}" if self.name in queue else ""
        return f"<Session {self.name}: {state}, step {self._step}{of}{error}>"

    # --- steering ---

    def submit(self, command: Command) -> Receipt:
        """Hand in a command; its answer is an event. Returns at once."""
        for said in renew(self.rewards) if isinstance(command, Resume) else ():
            self.log.append(Logged(level="info", text=said))
        if self._closed:
            reason = f"the session is closed; jupyter_ft.open('{self.name}') opens it again"
            self.log.append(Refused(command=command.id, verb=command.kind, step=self._step, reason=reason))
        elif isinstance(command, Ask | Hush):
            self._remember(command)
            self._chat.put(command)
            self._ensure_voices()  # after the question is in the queue: a search that fails refuses what it finds there
        elif isinstance(command, Resume | Rewind) and self.state in OVER:
            self._go_on(command)
        elif self._inbox is None or not self._inbox.put(command):
            reason = f"the run is {self.state}; nothing is left to {command.kind}"
            self.log.append(Refused(command=command.id, verb=command.kind, step=self._step, reason=reason))
        return Receipt(self.log, command)

    def set(self, *, step: int | None = None, **changes: Any) -> Receipt:
        """Change live hyperparameters at the next step, or at `step`.

        Raises `RecipeError` at once where a name or value is wrong; `Receipt.wait` raises where it cannot be obeyed.
        """
        changes = {key: as_plain(value) for key, value in changes.items()}
        change(self.hyperparameters, changes)
        try:
            return self.submit(Set(changes=changes, step=step))
        except ValidationError as error:
            raise RecipeError(first_complaint(error)) from None

    def pause(self, free_memory: bool = False) -> Receipt:
        """Hold before the next step; chat goes on. With `free_memory` nothing stays in memory until `resume`."""
        return self.submit(Pause(free_memory=free_memory))

    def resume(self, rewards: object = None) -> Receipt:
        """Go on after a pause, or (a stopped, failed or killed run) from its newest good checkpoint.

        `rewards`: its reward functions, where they are not at hand or are to be others from here on.
        """
        self.rewards.update(given_again(self.name, self.recipe, rewards))
        self._resuming = self.submit(Resume())
        return self._resuming

    def stop(self) -> Receipt:
        """End at the next step boundary, with a checkpoint from which `resume` goes on."""
        return self.submit(Stop())

    def save(self) -> Receipt:
        """Write a checkpoint at the next step boundary. It stays (`saved`), however many come after it."""
        return self.submit(Save())

    def wait(self, step: int | None = None, timeout: float | None = None) -> Session:
        """Block until the run is over, or `step` steps are done. Ctrl-C stops waiting, not the run.

        Raises `TrainingFailed` where the run failed or has paused by itself, `TimeoutError` after `timeout` seconds.
        """

        def there() -> bool:  # while it loads, the steps are those of the past, some of which may be taken back
            return step is not None and self.step >= step and self._state not in ("queued", "loading")

        def reached() -> bool:
            return self.state in OVER or there() or self._waits_for_us()

        if not self._wait_for(reached, timeout):
            raise TimeoutError(f"{self.name}: still {self._state} at step {self._step} after {timeout} s")
        if self._state == "failed":
            raise TrainingFailed(f"{self.name} failed at step {self._step}: {self._error}")
        if not there() and self._waits_for_us():
            raise TrainingFailed(
                f"{self.name} paused by itself at step {self._step}: {self._said}; %ft resume {self.name} goes on"
            )
        return self

    def _waits_for_us(self) -> bool:
        """Whether it has paused by itself, and nobody has told it to go on: to wait for it would be to wait forever."""
        asked = self._resuming is not None and self._resuming.answer is None
        return self.state == "paused" and self._said not in ("", FREED) and not asked

    def close(self) -> None:
        """Stop the run where it is live, end the chat and free the memory; what is on disk stays."""
        self.let_go()
        collect()

    def let_go(self) -> None:
        """Close it as `close` does, but leave it to a later collection to find what refers to itself."""
        self._close_desks()
        if self.state not in OVER:
            self._chat.close("the session is closed")  # first: the run may wait for a reply
            self.stop()
            self.wait_until_over()
        self._closed = True
        self.hang_up("the session is closed", patience=5.0)
        if self.views is not None:
            self.views.close(self)
        self._examples = self._inbox = None  # an attached run's inbox serves the trainer, and so holds it
        sessions.drop(self)
        self.log.close()

    def hang_up(self, reason: str, patience: float = 0.0) -> None:
        """End reviews and the chat: what waits is refused. Waits `patience` seconds at most for the reply in flight."""
        self._close_desks()
        self._chat.close(reason, patience)

    def wait_until_over(self, timeout: float | None = None) -> bool:
        """Block until the run is over, however it ended; False where `timeout` seconds passed first."""
        return self._wait_for(lambda: self.state in OVER, timeout)

    def _wait_for(self, reached: Callable[[], bool], timeout: float | None) -> bool:
        if self._gate is not None:
            self._gate.set()  # a cell that waits for the run does not end before it
        return self.log.wait_for(reached, timeout)

    # --- running ---

    def launch(self, resume: str | None = None, room: int | None = None, first: Sequence[Set] = ()) -> None:
        """Start the run in the background; `resume` is the id of the command that asked to go on, `room` `Job`'s.

        The edits `first` are made before its first step.
        """
        if self._examples is None:
            raise RunFolderError(f"{self.name}: its rows are not at hand")
        self._inbox = inbox = Inbox()
        inbox.put_back(first)
        examples = self._examples
        self._gate = self.views.cell_end() if self.views is not None else None

        def run() -> StateChanged:
            if self._gate is not None:
                self._gate.wait(1.0)  # the cell returns first, then the run speaks
            try:
                from ..launch.job import Job  # torch comes with it: seconds that the cell should not wait for
            except BaseException as error:  # noqa: BLE001 - a broken installation must not leave a run that never ends
                ticket.leave()
                return self._could_not_start(f"{type(error).__name__}: {error}", inbox, resume)
            return Job(
                self.recipe, examples, self.run_folder, self.log, inbox, self._chat, resume, room, self.rewards, ticket
            ).run()

        self.log.append(StateChanged(state="queued", note="going on from the newest checkpoint" if resume else ""))
        ticket = queue.join(self.name, inbox.nudge)  # here, so that the order is that of the cells
        try:
            start(run, self.name, self.log, after=self._after_the_end)
        except RuntimeError as error:  # the system has no more threads
            ticket.leave()
            self.log.append(self._could_not_start(str(error), inbox, resume))

    def _after_the_end(self) -> None:
        self._refuse_late_questions()
        if self.views is not None:
            self.views.over(self)

    def _refuse_late_questions(self) -> None:
        """Those that came between the refusing of what waited and the last event: no search for voices found them."""
        reason = f"the run is {self.state}" + (f": {self._said}" if self._said else "")
        if not self._chat.ready:
            self._chat.fail(reason)

    def _could_not_start(self, reason: str, inbox: Inbox, resume: str | None) -> StateChanged:
        unanswered = [(command.id, command.kind) for command in inbox.close()] + (
            [(resume, "resume")] if resume else []
        )
        for command, verb in unanswered:
            self.log.append(Refused(command=command, verb=verb, step=self._step, reason=reason))
        self._chat.fail(reason)
        self.run_folder.unlock()
        self.log.append(Crashed(step=self._step, error=reason, traceback=""))
        return StateChanged(state="failed", step=self._step, note=reason)

    def _go_on(self, command: Resume | Rewind) -> None:
        from .start import changed_versions, rows_of

        try:
            if self.state == "finished" and isinstance(command, Resume):
                raise RunFolderError(f"it is finished at step {self._step}; there is nothing to go on with")
            if self.recipe.method == "attached":
                call = f"jupyter_ft.attach(trainer, name='{self.name}', resume=True)"
                raise RunFolderError(f"it was attached: build the trainer again and call {call}")
            if isinstance(command, Rewind):
                self.run_folder.resumable(command.step)
            elif self.run_folder.checkpoints():
                self.run_folder.newest_good()
            if lacking := missing(self.run_folder, self.recipe, self.rewards):
                raise RunFolderError(lacking)
            check_on_disk(self.run_folder.path, self.recipe)
            if self._examples is None:
                self._examples = rows_of(self.run_folder, self.recipe)
            changed = changed_versions(self.run_folder)
            self.run_folder.lock()
        except Exception as error:  # noqa: BLE001 - a resumption that cannot be is an answer
            self.log.append(Refused(command=command.id, verb=command.kind, step=self._step, reason=str(error)))
            return
        if changed:
            text = f"going on with other packages ({', '.join(changed)}): the last bits of the losses may differ"
            self.log.append(Logged(level="warning", text=text))
        if isinstance(command, Rewind):
            self.run_folder.drop_after(command.step)
            self.log.append(Resumed(step=command.step, ahead=ahead_of(self.run_folder, command.step), rewound=True))
            self._chat.rest("the run goes back")  # the voices are those of steps that are no more
            self._chat.rest("")  # questions wait for the new ones
        self.launch(resume=command.id, first=unmade(self))
