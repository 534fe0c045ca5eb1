"""Obeying commands between two steps: each is answered by exactly one event, applied at a step or refused and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, RecipeError
from ..messages import Applied, ForTrainer, Pause, Refused, Resume, Rewind, Save, Set, StateChanged, Stop
from ..recipe import ALIASES
from .inbox import Inbox

if TYPE_CHECKING:
    from .port import Port


class Obedience:
    """Takes commands from the inbox and does them. A pause blocks here, with the turn given up."""

    def __init__(self, port: Port, inbox: Inbox) -> None:
        self._port = port
        self._inbox = inbox
        self.paused = False
        self.stopping = False
        self.freeing: Pause | None = None  # answered when the memory is free
        self.until: int | None = None  # the step after which the run was to end when it was started
        self._began: int | None = None  # the step at which this `train()` did
        self.scheduled: list[Set] = []  # edits for a later step
        self.ahead: list[str] = []  # edits in force for the coming step, which is not done yet
        self._taken: deque[ForTrainer] = deque()  # out of the inbox and not answered yet
        self._later: list[ForTrainer] = []  # what waits for a boundary at which a checkpoint can be written
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Set: self._set,
            Pause: self._pause,
            Resume: self._resume,
            Stop: self._stop,
            Save: self._save,
            Rewind: self._rewind,
        }

    def at_boundary(self) -> bool:
        """Do what was asked; wait while paused. False where the run is to end here."""
        hooks = self._port.hooks
        hooks.speak(self._port.step)
        self._stop_where_asked()
        later, self._later = self._later, []
        self._do([*later, *self._inbox.take()])
        while (self.paused or hooks.held()) and not self.stopping and self.freeing is None:
            hooks.publish(self._port.step)  # chat may wait for full weights
            hooks.speak(self._port.step)  # before waiting: what came with a nudge that was taken already, too
            self._do(self._inbox.take(wait=True))
        due = [edit for edit in self.scheduled if (edit.step or 0) <= self._port.step + 1 and not self._too_early(edit)]
        self.scheduled = [edit for edit in self.scheduled if edit not in due]
        if self.stopping or self.freeing is not None:
            self.scheduled = [*due, *self.scheduled]
            return False
        for edit in due:
            self._edit(edit)
        return True

    def _stop_where_asked(self) -> None:
        """End after `until` steps, once: resumed there, the run goes on. Its schedule is that of the whole run."""
        port = self._port
        if self._began is None:
            self._began = port.step
        if self.until is None or not self._began < self.until <= port.step < port.trainer.state.max_steps:
            return
        if port.batching.whole and not self.stopping:
            self.stopping = True
            self._said("stopping")

    def goes_on(self) -> bool:
        """Whether the run is at its end and an edit that waits for the next step makes it longer."""
        coming = [edit for edit in self.scheduled if edit.step == self._port.step + 1]
        return any(ALIASES.get(name, name) in ("epochs", "max_steps") for edit in coming for name in edit.changes)

    def refuse_rest(self, reason: str) -> None:
        """Close the inbox and refuse whatever it still holds, and the edits whose step never came."""
        freeing = [self.freeing] if self.freeing is not None else []
        for command in [*freeing, *self._taken, *self._later, *self.scheduled, *self._inbox.close()]:
            if self._port.log.answer(command.id) is None:
                self._refuse(command, reason)
        self.scheduled = []

    def _do(self, commands: list[ForTrainer]) -> None:
        self._taken.extend(commands)
        while self._taken:
            command = self._taken[0]
            if self._waits(command):
                self._later.append(command)
            elif self.stopping and not isinstance(command, Save):
                self._refuse(command, "it is stopping")
            else:
                self._handlers[type(command)](command)
            self._taken.popleft()
            if self.freeing is not None:  # the rest comes after it, and the checkpoint knows nothing of it
                self._inbox.put_back(self._taken)
                self._taken.clear()

    def _waits(self, command: ForTrainer) -> bool:
        """Whether it waits for a boundary at which a checkpoint can be written; what it would overtake waits behind it.

        A run that has paused by itself before that obeys a `Stop` where it is: its last checkpoint is behind it.
        """
        if self._port.batching.whole or isinstance(command, Set):
            return False
        if self.paused:
            return isinstance(command, Save) or (isinstance(command, Pause) and command.free_memory)
        return isinstance(command, Save | Pause | Stop) or bool(self._later)

    def _too_early(self, edit: Set) -> bool:
        """Whether it changes what completions are made with, and those that are there are not used up."""
        own = self._port.edits.now.AT_GENERATION
        return not self._port.batching.whole and any(ALIASES.get(name, name) in own for name in edit.changes)

    # --- one handler a command ---

    def _set(self, command: Set) -> None:
        coming = self._port.step + 1
        if command.step in (None, coming) and self._too_early(command):
            self.scheduled.append(command)
        elif command.step is None or command.step == coming:
            self._edit(command)
        elif command.step < coming:
            self._refuse(command, f"step {command.step} has passed; the next is {coming}")
        elif command.step > self._port.trainer.state.max_steps:
            self._refuse(
                command, f"step {command.step} will not come: the run ends at {self._port.trainer.state.max_steps}"
            )
        else:
            self.scheduled.append(command)

    def _edit(self, command: Set) -> None:
        try:
            changes = self._port.edits.apply(command.changes)
        except RecipeError as error:
            self._refuse(command, str(error))
            return
        self.ahead.append(command.id)
        self._apply(command, self._port.step + 1, changes)

    def _pause(self, command: Pause) -> None:
        if command.free_memory:
            try:
                self._port.hooks.save(self._port.step)
            except OSError as error:
                self._refuse(command, f"the checkpoint could not be written, so no memory is given back: {error}")
            else:
                self.freeing = command
            return
        if self.paused:
            self._refuse(command, "it is paused already")
            return
        self.paused = True
        self._said("paused")
        self._apply(command, self._port.step)

    def pause_itself(self, why: str) -> None:
        """Hold at this boundary, as a person would; `resume` and `stop` work as ever."""
        if not self.paused and not self.stopping and self._port.step < self._port.trainer.state.max_steps:
            self.paused = True
            self._said("paused", why)

    def _resume(self, command: Resume) -> None:
        if not self.paused:
            self._refuse(command, "it is not paused")
            return
        self.paused = False
        health = self._port.watch.go_on()
        if health is not None:
            self._port.log.append(health)
        self._said("running")
        self._apply(command, self._port.step)

    def _stop(self, command: Stop) -> None:
        self.stopping = True
        self._said("stopping")
        self._apply(command, self._port.step)

    def _save(self, command: Save) -> None:
        try:
            self._port.hooks.save(self._port.step, asked=command.keep)
        except OSError as error:
            self._refuse(command, f"the checkpoint could not be written: {error}")
            return
        self._apply(command, self._port.step)

    def _rewind(self, command: Rewind) -> None:
        waiting = self.scheduled  # what the checkpoint knew of is answered since, or waits still
        try:
            self._port.hooks.rewind(command.step)
        except CheckpointError as error:
            self._refuse(command, str(error))
            return
        self.scheduled = [edit for edit in waiting if self._port.log.answer(edit.id) is None]
        self._apply(command, self._port.step)
        if not self.paused:
            self._said("running")

    # --- answers ---

    def _said(self, state: Any, note: str = "") -> None:
        total = int(self._port.trainer.state.max_steps)
        self._port.log.append(StateChanged(state=state, step=self._port.step, total_steps=total, note=note))

    def _apply(self, command: ForTrainer, step: int, changes: Any = None) -> None:
        total = int(self._port.trainer.state.max_steps)
        self._port.log.append(
            Applied(command=command.id, verb=command.kind, step=step, changes=changes or {}, total_steps=total)
        )

    def _refuse(self, command: ForTrainer, reason: str) -> None:
        self._port.log.append(Refused(command=command.id, verb=command.kind, step=self._port.step, reason=reason))
