"""Where a magic runs, what it prints there, and the variables that it reads and binds."""

from __future__ import annotations

import builtins
import keyword
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.display import display
from pydantic import ValidationError

from jupyter_ft.data.files import READERS
from jupyter_ft.errors import DataError, FineTuneError, RecipeError, did_you_mean
from jupyter_ft.messages import OVER
from jupyter_ft.recipe import first_complaint
from jupyter_ft.session import Session, sessions
from jupyter_ft.session.race import Race, races

from .line import Line


@contextmanager
def one_red_line() -> Iterator[None]:
    """What is expected to go wrong becomes IPython's `UsageError`, which it shows as one red line.

    Exactly that class: IPython shows the traceback of a subclass.
    """
    try:
        yield
        return
    except FineTuneError as error:
        said = str(error)
    except ValidationError as error:
        said = first_complaint(error)
    raise UsageError(one_line(said))  # out here, so that the notebook does not keep what the error was raised among


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, of a length that can be read."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= 600 else flat[:599] + "…"


def say(text: str) -> None:
    """Print for the user of the cell."""
    print(text)  # noqa: T201 - the one place where magics print


@dataclass(frozen=True)
class Place:
    """Where the cell runs: `rich` where its output can be HTML, `headless` where nobody looks while it runs."""

    rich: bool
    headless: bool

    @classmethod
    def of(cls, shell: Any) -> Place:
        """The place of the cell that runs now; `JUPYTER_FT_FRONTEND` (headless, notebook, terminal) overrules."""
        kernel = getattr(shell, "kernel", None)
        asked = os.environ.get("JUPYTER_FT_FRONTEND", "").lower()
        if asked in ("headless", "notebook", "terminal"):
            return cls(rich=kernel is not None and asked != "terminal", headless=asked == "headless")
        if kernel is not None:
            # nbclient and papermill cannot answer input() and say so; every notebook with a person before it can
            return cls(rich=True, headless=not getattr(kernel, "_allow_stdin", True))
        script = not getattr(getattr(shell, "parent", None), "interact", True) or not sys.stdin.isatty()
        return cls(rich=False, headless=script)


def cell_id(shell: Any) -> str | None:
    """The id of the cell that runs, where the front end tells it."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None
    found = (kernel.get_parent("shell") or {}).get("metadata", {}).get("cellId")
    return str(found) if found else None


def show_html(html: str, text: str, place: Place) -> None:
    """Show `html` in a notebook, which keeps `text` beside it; `text` alone elsewhere."""
    if place.rich:
        display({"text/html": html, "text/plain": text}, raw=True)
    else:
        say(text)


# --- variables --------------------------------------------------------------------------------------------------------


def variable_of(name: str) -> str:
    """The variable to which a session of that name is bound: `my-run` → `my_run`."""
    word = re.sub(r"\W", "_", name)
    return f"{word}_" if keyword.iskeyword(word) else word


def check_free(shell: Any, variable: str, *, for_session: bool = True) -> None:
    """Raise `RecipeError` where binding `variable` would lose something."""
    if not variable.isidentifier() or keyword.iskeyword(variable):
        raise RecipeError(f"--out {variable[:60]}: cannot name a variable")
    held = shell.user_ns.get(variable)
    if for_session and variable in shell.user_ns and not isinstance(held, Session | Race):
        raise RecipeError(
            f"the variable {variable} holds no session but a {type(held).__name__}, which is kept; "
            "choose another name, or bind another variable with --out VAR"
        )
    if for_session and variable not in shell.user_ns and hasattr(builtins, variable):
        raise RecipeError(f"{variable} is a name of Python's own; choose another, or bind a variable with --out VAR")
    if not for_session and isinstance(held, Session | Race):
        raise RecipeError(f"--out {variable}: it holds the session '{held.name}'; choose another variable")


def bind(shell: Any, variable: str, value: object) -> None:
    """Give the notebook a variable."""
    shell.push({variable: value})


def data_of(shell: Any, named: object) -> object:
    """What `--data` or `data:` names: a file, else the notebook variable of that name, else a folder, else itself."""
    if not isinstance(named, str) or not named.isidentifier() or Path(named).is_file():
        return named
    if named not in shell.user_ns and Path(named).is_dir():
        return named
    if named not in shell.user_ns:
        names = [name for name in shell.user_ns if not name.startswith("_")]
        files = sorted(path.name for path in Path().iterdir() if path.suffix.lower() in READERS)
        meant = next((f"; did you mean '{file}'?" for file in files if Path(file).stem == named), "")
        hint = meant or did_you_mean(named, [*names, *files])
        raise DataError(f"data '{named}': there is no file and no variable of that name{hint}")
    held = shell.user_ns[named]
    if held is None:
        raise DataError(f"data '{named}': the variable {named} is None; run the cell that fills it first")
    return held


def metrics_of(shell: Any, named: object) -> object:
    """What `metrics:` names: the notebook's functions of these names, and words, which stay as they are."""
    if isinstance(named, list | tuple):
        return [metrics_of(shell, one) for one in named]
    held = shell.user_ns.get(named) if isinstance(named, str) else None
    return held if callable(held) else named


def model_of(shell: Any, named: object) -> object:
    """What `--model` names: `demo`, a folder, a hub id, or a notebook variable that holds one of these."""
    if not isinstance(named, str) or named == "demo" or not named.isidentifier() or Path(named).exists():
        return named
    held = shell.user_ns.get(named)
    return str(held) if isinstance(held, str | Path) else named


def rewards_of(shell: Any, named: object) -> object:
    """What `rewards:` names: functions of the notebook in the place of their names; a run's name or address stays."""
    if isinstance(named, dict):
        return {_reward(shell, name): weight for name, weight in named.items()}
    return [_reward(shell, name) for name in named] if isinstance(named, list | tuple) else _reward(shell, named)


def _reward(shell: Any, name: Any) -> Any:
    held = shell.user_ns.get(name) if isinstance(name, str) else None
    return held if callable(held) or isinstance(held, Session) else name


def functions_of(shell: Any, rewards: Iterable[str]) -> list[Any]:
    """Those of a run's `rewards` that the notebook defines, for a run that goes on."""
    return [found for found in (rewards_of(shell, name) for name in rewards) if callable(found)]


def session_of(shell: Any, name: str | None) -> Session:
    """The open session meant by `name`; without one, the only open one.

    After a cell was run again its variable holds `support-2`; then `support` means that one, unless the first is live,
    and where `grid` holds the race `grid.2`, `grid-3` means `grid.2-3`.
    """
    if name is None:
        return sessions.the_one(None)
    name = name.removesuffix("@live")
    followed = _held(shell, name)
    if followed is not None and followed is dict(sessions).get(followed.name):
        named = dict(sessions).get(name)
        if named is None or named.state in OVER:
            return followed
    return sessions[name]


def address_of(shell: Any, address: str) -> str:
    """`address` with the name of the open session that is meant by it, where there is one."""
    name, at, step = address.partition("@")
    if not name or (name not in sessions and _held(shell, name) is None):
        return address
    return f"{session_of(shell, name).name}{at}{step}"


def race_meant(shell: Any, line: Line) -> Race | None:
    """The open race that the first word of `line` means, as `session_of`; None where it means none."""
    name = line.words[0] if line.words else ""
    held, named = shell.user_ns.get(variable_of(name)), races.get(name)
    followed = held if isinstance(held, Race) and races.get(held.name) is held else None
    return None if name in sessions else named if followed is None or (named is not None and named.live) else followed


def _held(shell: Any, name: str) -> Session | None:
    """What the variable of `name` holds, or of `grid-3` the third run of the race that `grid` holds."""
    held = shell.user_ns.get(variable_of(name))
    if isinstance(held, Session):
        return held
    race, _, number = name.rpartition("-")
    held = shell.user_ns.get(variable_of(race)) if race else None
    runs: Iterable[Session] = held if isinstance(held, Race) else ()
    return next((one for one in runs if one.name == f"{getattr(held, 'name', '')}-{number}"), None)
