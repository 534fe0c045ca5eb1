"""Fine-tune a language model in a notebook, and talk to it while it learns.

`%load_ext jupyter_ft` gives `%%finetune`, `%ft` and `%%chat`; the same verbs are here for Python. Importing this is
cheap: torch, transformers and plotly come when a run starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._version import __version__
from .errors import FineTuneError, TrainingFailed
from .feedback import feedback
from .memory.waiting import queue
from .session import Receipt, Reply, Session, attach, finetune, sessions
from .session import open_run as open  # noqa: A004 - `jupyter_ft.open(name)` reads as it should
from .session.race import Race, race
from .session.replay import replay_script
from .ui import views as _views
from .ui.compared import compare
from .ui.fit import fits
from .ui.preview import preview

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = [
    "FineTuneError",
    "Race",
    "Receipt",
    "Reply",
    "Session",
    "TrainingFailed",
    "__version__",
    "attach",
    "compare",
    "feedback",
    "finetune",
    "fits",
    "open",
    "preview",
    "queue",
    "race",
    "replay_script",
    "sessions",
]


Session.views = _views


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext jupyter_ft`."""
    from .magics import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext jupyter_ft`: the magics go, runs go on."""
    from .magics import unload

    unload(shell)
