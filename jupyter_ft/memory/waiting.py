"""The queue for a device: runs that do not fit beside those that are live wait here, and begin in order.

What runs take together is the sum of their bases, each once, of what each holds from beginning to end, and of the
largest of their steps: runs take turns, so that one step's activations are there at a time.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jupyter_ft.errors import AddressError, RecipeError

from .fit import size_text

VARIABLE = "JUPYTER_FT_MEMORY"
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(GB|GiB|MB|MiB)?\s*", re.IGNORECASE)
_UNITS = {"gb": 1e9, "mb": 1e6, "gib": 2**30, "mib": 2**20, "": 1}


def bytes_in(size: object, name: str = "memory") -> int:
    """`80 GB` as bytes, or a number of them. `RecipeError` for anything else."""
    if isinstance(size, int | float) and not isinstance(size, bool) and size > 0:
        return int(size)
    found = _SIZE.fullmatch(str(size))
    if found is None or not float(found[1]):
        raise RecipeError(f"{name} = {size!r:.40}: should be bytes, or a size like 80 GB")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])


@dataclass(frozen=True)
class Claim:
    """Bytes that a run takes: its `base` (by whatever names it), what it `holds` beside that, and its `step`."""

    base: str = ""
    weights: int = 0
    holds: int = 0
    step: int = 0


def together(claims: Iterable[Claim], loaded: Mapping[str, int] | None = None) -> int:
    """Bytes that runs take at once, beside bases that are `loaded`, by their names."""
    claims = list(claims)
    bases = {claim.base: claim.weights for claim in claims} | dict(loaded or {})
    return sum(bases.values()) + sum(claim.holds for claim in claims) + max((c.step for c in claims), default=0)


class Room(NamedTuple):
    """The device now: what it is called, bytes free, bytes that this process has taken, and the bases that it holds."""

    device: str
    free: int
    taken: int
    loaded: Mapping[str, int]


@dataclass(eq=False)
class Ticket:
    """A run's place: it waits, then it is live until it leaves. `why` it waits is empty once it has begun."""

    name: str
    queue: Queue
    nudge: Callable[[], None]
    claim: Claim | None = None  # None until it is known: those behind wait for that
    forced: bool = False
    why: str = ""
    short: tuple[object, ...] = field(default=())  # what it waits for, without figures that change by themselves

    def begins(self, room: Callable[[], Room]) -> bool:
        """Whether it is its turn and it fits; it is live from then on. `why` tells else."""
        return self.queue._begin(self, room)

    def tell(self, claim: Claim) -> None:
        """What it takes, as far as that is known now."""
        self.claim = claim
        self.queue._wake()

    def leave(self) -> None:
        """It waits no longer, and takes nothing."""
        self.queue._leave(self)


class Queue:
    """Runs that wait for memory, in order; `now`, `move`, `limit` and `at_once` steer. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiting: list[Ticket] = []
        self._live: list[Ticket] = []
        self._before = 0  # taken by this process when no run was live, bases aside
        self._limit: int | None = None
        self._at_once: int | None = None

    # --- what people see and change ---

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter([ticket.name for ticket in self._waiting if ticket.why])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))

    def __repr__(self) -> str:
        with self._lock:
            waiting = [f"{at}. {t.name}: {t.why}" for at, t in enumerate((t for t in self._waiting if t.why), 1)]
            starting = [t.name for t in self._waiting if not t.why]  # what they take is being found out
            live = [f"{t.name} takes about {size_text(together([t.claim or Claim()]))}" for t in self._live]
        bounds = [f"at most {size_text(self.limit)} in all"] if self.limit else []
        bounds += [f"at most {self.at_once} run{'s' if self.at_once > 1 else ''} at once"] if self.at_once else []
        lines = [*(waiting or ["no run waits for memory"]), *(f"   live: {one}" for one in live)]
        lines += [*(f"   starting: {one}" for one in starting), *bounds]
        return "\n".join(lines)

    def why(self, name: str) -> str:
        """What a run waits for, in words. `AddressError` where it does not wait."""
        return self._find(name).why

    def move(self, name: str, to: str | int) -> None:
        """Put a run `first`, `last`, or in the place `to`, from 1. `AddressError`, `RecipeError`."""
        with self._lock:
            ticket = self._find(name)
            place = {"first": 1, "last": len(self._waiting)}.get(str(to), to)
            if not str(place).isdecimal() or int(place) < 1:
                raise RecipeError(f"'{to!s:.40}' is no place in the queue: first, last or a number from 1")
            self._waiting.remove(ticket)
            self._waiting.insert(int(place) - 1, ticket)
            self._reword()
        self._wake()

    def _reword(self) -> None:
        """Let those that wait say their new places at once; each finds out the rest when it is nudged."""
        for place, ticket in enumerate(self._waiting):
            if ticket.why and place:
                ticket.why = f"waits behind {self._waiting[place - 1].name}, number {place + 1} in the queue"
            elif ticket.why and ticket.short[:1] == ("behind",):
                ticket.why = "waits for room, and is next"

    def now(self, name: str) -> None:
        """Start a run that waits all the same: a person may know better. `AddressError` where it does not wait."""
        self._find(name).forced = True
        self._wake()

    @property
    def limit(self) -> int | None:
        """Bytes that all runs of this kernel may take together (`"8 GB"`); None: what is free on the device.

        Where it is not set, the environment variable `JUPYTER_FT_MEMORY` is asked. `RecipeError` for what is no size.
        """
        asked = os.environ.get(VARIABLE, "").strip()
        return self._limit if self._limit is not None or not asked else bytes_in(asked, VARIABLE)

    @limit.setter
    def limit(self, size: object) -> None:
        self._limit = None if size is None else bytes_in(size, "limit")
        self._wake()

    @property
    def at_once(self) -> int | None:
        """How many runs may be live at once; None: as many as fit."""
        return self._at_once

    @at_once.setter
    def at_once(self, count: int | None) -> None:
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise RecipeError(f"at_once = {count!r:.40}: should be a whole number from 1, or None")
        self._at_once = count
        self._wake()

    def _find(self, name: str) -> Ticket:
        with self._lock:
            found = next((ticket for ticket in self._waiting if ticket.name == name), None)
            if found is None:
                raise AddressError(f"'{name}' does not wait for memory; those that do: {', '.join(self) or 'none'}")
            return found

    # --- for the runs ---

    def join(self, name: str, nudge: Callable[[], None]) -> Ticket:
        """Take the last place. `nudge` is called whenever it may be its turn."""
        ticket = Ticket(name, self, nudge)
        with self._lock:
            self._waiting.append(ticket)
        return ticket

    def _begin(self, ticket: Ticket, room: Callable[[], Room]) -> bool:
        measured = room()
        with self._lock:
            if ticket not in self._waiting:
                return ticket in self._live
            found = self._in_the_way(ticket, measured)
            ticket.short, ticket.why = found or ((), "")
            if found is not None and not ticket.forced:
                return False
            if not self._live:
                self._before = measured.taken - sum(measured.loaded.values())
            self._waiting.remove(ticket)
            self._live.append(ticket)
            ticket.why = ""
        self._wake()
        return True

    def _in_the_way(self, ticket: Ticket, room: Room) -> tuple[tuple[object, ...], str] | None:
        """What keeps a run from beginning, to be compared and in words (none where that is a moment); else None."""
        place = self._waiting.index(ticket)
        if place:
            ahead = self._waiting[place - 1]
            said = f"waits behind {ahead.name}, number {place + 1} in the queue" if ahead.why else ""
            return ("behind", place, ahead.name), said
        if not self._live:  # there is nothing to wait for: whoever does not fit alone is warned as ever
            return None
        names = [one.name for one in self._live]
        if self._at_once is not None and len(names) >= self._at_once:
            one_of = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
            said = f"waits for {one_of} to end: {self._at_once} at once {'is' if self._at_once == 1 else 'are'} allowed"
            return ("at once", *names), said
        claims, mine = [one.claim or Claim() for one in self._live], ticket.claim or Claim()
        most = room.free + room.taken - self._before
        most = most if self.limit is None else min(most, self.limit)
        held, both = together(claims, room.loaded), together([*claims, mine], room.loaded)
        at_first = mine.holds + (0 if mine.base in room.loaded else mine.weights)
        if both <= most and at_first <= room.free:
            return None
        left = max(0, min(most - held, room.free))
        said = f"waits for {size_text(both - held)} on {room.device}, where {size_text(left)} is left"
        return ("memory", *names), f"{said}: {self._holders(room)}"

    def _holders(self, room: Room) -> str:
        groups: dict[str, list[Ticket]] = {}
        for ticket in self._live:
            groups.setdefault((ticket.claim or Claim()).base, []).append(ticket)
        said = [
            f"{' and '.join(t.name for t in group)} hold{'s' * (len(group) == 1)} "
            f"{size_text(together(t.claim or Claim() for t in group))}"
            for group in groups.values()
        ]
        idle = sum(size for base, size in room.loaded.items() if base not in groups)
        return ", ".join([*said, *([f"open runs that are over hold {size_text(idle)}"] if idle else [])])

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            self._waiting = [one for one in self._waiting if one is not ticket]
            self._live = [one for one in self._live if one is not ticket]
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for ticket in waiting:
            ticket.nudge()


queue = Queue()
