"""The handle of a run: verbs become commands, events become state."""

from __future__ import annotations

from .answers import Receipt, Reply
from .attach import attach
from .fork import fork
from .handle import Session
from .registry import sessions
from .start import finetune, open_run

__all__ = ["Receipt", "Reply", "Session", "attach", "finetune", "fork", "open_run", "sessions"]
