"""The sessions of this kernel by name."""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import AddressError, RunFolderError, did_you_mean
from ..launch.thread import join_all
from ..messages import OVER
from ..runs import runs_root

if TYPE_CHECKING:
    from .handle import Session


class Sessions(Mapping[str, "Session"]):
    """The open sessions, newest last: `sessions['support']`; `live` are those that still train."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}

    def __getitem__(self, name: str) -> Session:
        try:
            return self._open[name]
        except KeyError:
            from .race import races

            if name in races:
                runs = ", ".join(session.name for session in races[name])
                raise AddressError(f"'{name}' is a race; name one of its runs: {runs}") from None
            known = ", ".join(self._open) or "none; start one with %%finetune NAME"
            hint = did_you_mean(name, [*self._open, "base", "live"])
            if (runs_root() / name / "recipe.yaml").is_file():
                hint = f", but there is a run of that name: %ft open {name}"
            raise AddressError(f"no session '{name}' is open{hint}; open ones: {known}") from None

    def get(self, name: str, default: Any = None) -> Session | Any:
        """The session of that name, or `default`: `[]` raises no `KeyError`."""
        return self._open.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, name: object) -> bool:
        return name in self._open

    def __repr__(self) -> str:
        lines = [repr(session) for session in self._open.values()]
        return "\n".join(lines) or "no session is open"

    @property
    def live(self) -> list[Session]:
        """The sessions that are not over."""
        return [session for session in self._open.values() if session.state not in OVER]

    def add(self, session: Session) -> None:
        """Remember an open session; `RunFolderError` where a live one of another folder has the name."""
        other = self._open.pop(session.name, None)
        if other is not None and other is not session and other.state not in OVER:
            self._open[other.name] = other
            raise RunFolderError(f"'{other.name}' is the name of a live run in {other.folder}; stop or close it first")
        self._open[session.name] = session

    def drop(self, session: Session) -> None:
        """Forget a session."""
        if self._open.get(session.name) is session:
            del self._open[session.name]

    def the_one(self, name: str | None) -> Session:
        """The session of that name; without a name, the only open one. `AddressError` lists them otherwise."""
        if name is not None:
            return self[name]
        if len(self._open) == 1:
            return next(iter(self._open.values()))
        raise AddressError(
            f"say which session: {', '.join(self._open)}"
            if self._open
            else "no session is open; start one with %%finetune, or %ft open NAME"
        )


sessions = Sessions()


@atexit.register
def _leave() -> None:
    """Ask what still runs to stop, for at most 1.5 s: a kernel has 2.5 s to go. Checkpoints are what is relied on."""
    for session in sessions.live:
        session.hang_up("the kernel ends")
        session.stop()
    deadline = time.monotonic() + 1.5
    for session in sessions.values():
        session.wait_until_over(max(0.0, deadline - time.monotonic()))
        session.hang_up("the kernel ends", max(0.1, deadline - time.monotonic()))
    join_all(max(0.1, deadline - time.monotonic()))
