"""A run before it loads anything: what it is going to take, and the wait for that."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from ..control.inbox import Inbox
from ..data import Examples
from ..event_log import EventLog
from ..memory.asked import ESTIMATED, work_of
from ..memory.fit import Fit, size_text
from ..memory.parts import base_bytes, parts
from ..memory.shape import find_folder, read_shape
from ..memory.waiting import Claim, Room, Ticket, together
from ..messages import Logged, StateChanged, Stop
from ..models import POOL, Base, key_of, pick_device, pick_dtype
from ..recipe import Recipe
from ..sampling.chat import Chat
from ..sampling.room import free_bytes
from .rough import rough_lengths
from .short import machine_of

LOOK_AGAIN = 1.0  # seconds: what others on the machine take changes without a word
MOST_ROWS = 4_096  # whose texts are measured


def claim_of(recipe: Recipe, examples: Examples) -> Claim:
    """What a run will take, before anything is loaded; nothing where that cannot be told: it waits for none."""
    try:
        folder = find_folder(recipe.model, recipe.revision)
        shape = None if folder is None else read_shape(folder)
        if folder is None or shape is None or recipe.method not in ESTIMATED:
            return Claim()
        machine, device = machine_of(recipe), pick_device()
        core = getattr(POOL.tokenizer_of(folder), "_tokenizer", None)  # to read it once more takes 0.2 s and 44 MB
        lengths = rough_lengths(recipe, examples, folder, MOST_ROWS, core)
        fit = Fit(
            recipe.model, shape, work := work_of(recipe, shape, lengths, machine), parts(shape, work), machine, ""
        )
        path = folder.resolve() if Path(recipe.model).expanduser().is_dir() else folder
        return _claim(key_of(path, pick_dtype(recipe.dtype, device), device, recipe.quantization), fit, 0)
    except Exception:  # noqa: BLE001 - an estimate that fails must not cost the run
        return Claim()


def _claim(base: str, fit: Fit, loaded: int) -> Claim:
    """The parts as the queue counts them: copies of the adapter for chat are held, a conversation comes and goes."""
    of, counted = fit.parts, base_bytes(fit.shape, fit.work)
    copies = min(of.chat, 2 * of.adapter)
    step = of.activations + of.logits + of.gradients + of.chat - copies
    return Claim(base, loaded or counted, max(0, of.whole - counted - step), step)


def room_now() -> Room:
    """The device as it is."""
    device = pick_device()
    if device.type == "cuda":
        taken = torch.cuda.memory_allocated(device)
    else:
        memory = psutil.Process().memory_info()
        taken = memory.rss - getattr(memory, "shared", 0)  # a file that is mapped can be read again: it counts as free
    return Room(str(device), free_bytes(device), int(taken), POOL.loaded())


class Admission:
    """A run's way through the queue, with what people are told meanwhile. Without a ticket nothing is waited for."""

    def __init__(self, ticket: Ticket | None, log: EventLog, inbox: Inbox, chat: Chat) -> None:
        self._ticket, self._log, self._inbox, self._chat = ticket, log, inbox, chat

    def fits(self, recipe: Recipe, examples: Examples, total_steps: int = 0) -> bool:
        """Wait until the run fits beside what is live; False where it is told to stop before (the command stays)."""
        ticket = self._ticket
        if ticket is None:
            return True
        claim, said = claim_of(recipe, examples), None
        ticket.tell(claim)
        while not ticket.begins(room_now):
            if ticket.why and ticket.short != said:
                said = ticket.short
                self._say(ticket.why, total_steps)
            self._inbox.wait_for(Stop, LOOK_AGAIN)
            if self._inbox.holds(Stop):
                ticket.leave()
                return False
        whole, limit = together([claim]), ticket.queue.limit
        if limit is not None and whole > limit:
            text = f"it takes about {size_text(whole)}, more than the {size_text(limit)} that runs may take together"
            self._log.append(Logged(level="warning", text=text))
        self._chat.rest("")
        return True

    def _say(self, why: str, total_steps: int) -> None:
        self._log.append(StateChanged(state="queued", step=self._log.last_step, total_steps=total_steps, note=why))
        if not self._chat.ready:
            self._chat.rest(f"the run {why}")

    def refine(self, base: Base, fit: Fit) -> None:
        """Say what it takes, now that its base is loaded and its rows are tokens."""
        if self._ticket is not None:
            self._ticket.tell(_claim(base.key, fit, fit.loaded))

    def again(self, name: str) -> None:
        """Take a place once more: its memory was given back."""
        if self._ticket is not None:
            self._ticket = self._ticket.queue.join(name, self._inbox.nudge)

    def leave(self) -> None:
        """Give back what it was counted with."""
        if self._ticket is not None:
            self._ticket.leave()
