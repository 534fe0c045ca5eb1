"""Everything that can go wrong, as a tree.

    FineTuneError
    ├── RecipeError (ValueError)      a key, type or range in the recipe, the line or the body
    ├── DataError (ValueError)        a file, a column or a row
    ├── ModelError (OSError)          a model that cannot be found or loaded
    ├── AddressError (LookupError)    weights that are not there: a session or step that does not exist
    ├── RunFolderError (OSError)      a run folder that is locked, taken or unreadable
    │   └── CheckpointError           a checkpoint with a file missing or altered
    ├── ExportError (RuntimeError)    an export that cannot be made, or not be pushed
    ├── Refused (RuntimeError)        a command that was not obeyed, with the reason
    ├── RewardFailed (RuntimeError)   a reward that could not be had: the function raised, hung, or gave no numbers
    └── TrainingFailed (RuntimeError) the run crashed; the traceback is in the log

Each message is one line: what is wrong, where, and the fix. A magic shows it as one red line.
Each class also inherits the standard error it refines, and each takes one string, so that all can be pickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FineTuneError(Exception):
    """The root: catching it catches everything that this package raises on purpose."""


class RecipeError(FineTuneError, ValueError):
    """A key, type or range in the recipe, the line or the body is wrong."""


class DataError(FineTuneError, ValueError):
    """A file, a column or a row cannot be used."""


class ModelError(FineTuneError, OSError):
    """A model cannot be found or loaded."""


class AddressError(FineTuneError, LookupError):
    """The session or step that an address names does not exist."""


class RunFolderError(FineTuneError, OSError):
    """A run folder is locked, taken or unreadable."""


class CheckpointError(RunFolderError):
    """A checkpoint has a file missing, truncated or altered."""


class ExportError(FineTuneError, RuntimeError):
    """An export cannot be made, or not be pushed; nothing half-written is left."""


class Refused(FineTuneError, RuntimeError):
    """A command was not obeyed; the message is the reason."""


class RewardFailed(FineTuneError, RuntimeError):
    """A reward could not be had: the function raised, hung, or gave no numbers."""


class TrainingFailed(FineTuneError, RuntimeError):
    """The run crashed; the message names the step, the traceback is in the log."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`"; did you mean 'learning_rate'?"`, or nothing where no known name is near."""
    near = get_close_matches(wrong.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def nearest_or_all(wrong: str, known: Iterable[str], listed: Iterable[str] = ()) -> str:
    """The known name that is near; where none is, all of them, or those that are `listed`."""
    names = list(known)
    return did_you_mean(wrong, names) or f"; there are: {', '.join(list(listed) or names)}"
