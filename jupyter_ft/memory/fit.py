"""The answer to "will it fit": the parts, what is free, and what to change."""

from __future__ import annotations

from dataclasses import dataclass

from .asked import Machine
from .changes import Change
from .parts import Parts
from .shape import Shape
from .work import Work


@dataclass(frozen=True)
class Measured:
    """What a real step took, counted: `peak` bytes, the base's `weights` among them. `failed`: why there is none."""

    peak: int
    weights: int
    rows: int
    length: int
    seconds: float
    failed: str = ""


@dataclass(frozen=True)
class Fit:
    """Whether a run fits on a machine. `said` is what the figures are of; `loaded` bytes of it are there already.

    `changes` are those with which it would fit, `cards` how many such devices together would do (None: nothing would).
    """

    model: str
    shape: Shape
    work: Work
    parts: Parts
    machine: Machine
    said: str
    changes: tuple[Change, ...] = ()
    cards: int | None = None
    measured: Measured | None = None
    loaded: int = 0

    @property
    def needs(self) -> int:
        """Bytes in all: the parts, or what was measured and chat beside it."""
        counted = self.measured is not None and not self.measured.failed
        return self.measured.peak + self.parts.chat if self.measured and counted else self.parts.whole

    @property
    def fits(self) -> bool:
        """Whether that is free."""
        return self.needs - self.loaded <= self.machine.free and not (self.measured and self.measured.failed)


def size_text(count: float) -> str:
    """`1.4 GB`, `31.2 MB`, `820 kB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size / 10:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.0f} kB"
