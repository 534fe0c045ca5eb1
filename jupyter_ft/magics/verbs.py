"""`%ft VERB`: look at runs, steer them, open and close them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from jupyter_ft.errors import RecipeError, RunFolderError, did_you_mean
from jupyter_ft.hyperparameters import METHODS
from jupyter_ft.memory.fit import size_text
from jupyter_ft.messages import OVER, Applied
from jupyter_ft.recipe import ALIASES, change
from jupyter_ft.runs import check_name, runs_root
from jupyter_ft.session import Receipt, Session, fork, open_run, sessions
from jupyter_ft.session.address import parse_address
from jupyter_ft.ui.race import show_race
from jupyter_ft.ui.views import in_a_kernel
from jupyter_ft.ui.watched import change_text, shown

from . import data, doctor, export, fit, keep, logs, queue, racing, review
from .finetune import GRAMMAR as FINETUNE
from .finetune import show
from .line import Grammar, Line, Option, parse, wants_help
from .notebook import (
    Place,
    address_of,
    bind,
    check_free,
    functions_of,
    one_line,
    race_meant,
    say,
    session_of,
    show_html,
    variable_of,
)
from .waiting import wait, wait_for_race

ANSWER_SECONDS = 2.0
_FRESH = Option("--fresh-optimizer", "leave the optimizer behind, as a fork of a snapshot does")
_STEP = Option("--step", "at this step rather than at once", "N")


@dataclass(frozen=True)
class Verb:
    """What a verb's line may hold, and what it does."""

    grammar: Grammar
    do: Callable[[Any, Line], None]


def run(shell: Any, words: list[str]) -> None:
    """Do what `%ft` was told; without a verb, list the sessions."""
    if not words:
        _table(Place.of(shell), list(sessions.values()))
        return
    verb = VERBS.get(words[0])
    if verb is None and wants_help(words[:1]):
        say(help_text())
    elif verb is None:
        known = [*VERBS, "chat"]
        hint = did_you_mean(words[0], known)
        raise RecipeError(f"unknown verb '{words[0][:40]}'{hint or ';'} there are: {' '.join(known)}")
    elif wants_help(words[1:]):
        say(verb.grammar.help())
    else:
        verb.do(shell, parse(words[1:], verb.grammar))


def help_text() -> str:
    """What `%ft -h` prints."""
    lines = [f"  {verb.grammar.usage}" for verb in VERBS.values()]
    listed = "\n".join([*lines, '  %ft chat ADDRESS "…"   or   %%ft chat ADDRESS with the message below it'])
    return f"%ft lists the sessions; %ft VERB -h tells more.\n\n{listed}"


def _named(shell: Any, line: Line) -> Session:
    return session_of(shell, line.words[0] if line.words else None)


# --- look -------------------------------------------------------------------------------------------------------------


def _table(place: Place, listed: list[Session]) -> None:
    if not listed:
        runs = ", ".join(sorted(path.parent.name for path in runs_root().glob("*/recipe.yaml"))[:12])
        say("no session is open; start one with %%finetune NAME" + (f", or %ft open one of: {runs}" if runs else ""))
        return
    rows = [["name", "state", "step", "loss", "learning rate"], *(_row(session) for session in listed)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    head, *body = ["".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) for row in rows]
    html = f"<table><thead><tr>{head.replace('td', 'th')}</tr></thead>"
    show_html(f"{html}<tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>", text, place)


def _row(session: Session) -> list[str]:
    state, of = session.state, f"/{session.total_steps}" if session.total_steps else ""
    last = session.log.last_row
    first = "reward" if not math.isnan(last.get("reward", math.nan)) else "loss"  # a policy's loss has no level
    figures = [shown(last[name]) if name in last else "–" for name in (first, "learning_rate")]
    if first == "reward":
        figures[0] = f"reward {figures[0]}"
    level = "" if session.health.level == "green" else f" ({session.health.level})"
    return [session.name, f"{state}{level}", f"{session.step}{of}", *figures]


def _status(shell: Any, line: Line) -> None:
    if not line.words and len(sessions) != 1:
        _table(Place.of(shell), list(sessions.values()))
        return
    if (race := race_meant(shell, line)) is not None:
        show_race(race)
        return
    session = _named(shell, line)
    name, state, step, loss, rate = _row(session)
    values = session.hyperparameters.model_dump().items()
    live = ", ".join(
        f"{key} {', '.join(map(shown, value)) if isinstance(value, tuple) else shown(value)}"
        for key, value in values
        if value is not None
    )
    loss = loss if loss.startswith("reward") else f"loss {loss}"
    say(f"{name}: {state}, step {step}, {loss}, learning rate {rate}")
    if session.said:
        say(f"  {one_line(session.said)}")
    if session.health.level != "green":
        say(f"  {session.health.level}: {one_line(session.health.said)}")
    recipe = session.recipe
    say(f"  model {recipe.model} · {recipe.trains} · data {one_line(recipe.data)} · {session.folder}")
    say(f"  {live}")
    saved = session.saved
    steps = [f"{step} (saved, stays)" if step in saved else f"{step}" for step in session.steps]
    say(f"  checkpoints at steps: {', '.join(steps) or 'none yet'}")
    if kept := session.run_folder.snapshots():
        took = f"{size_text(session.run_folder.snapshot_bytes())} of disk_budget {size_text(recipe.disk_budget)}"
        say(f"  snapshots of {len(kept)} steps, {kept[0]} to {kept[-1]}: {took}")


def _show(shell: Any, line: Line) -> None:
    if (race := race_meant(shell, line)) is not None:
        show_race(race)
        return
    show(_named(shell, line), Place.of(shell))


def _report(shell: Any, line: Line) -> None:
    written = _named(shell, line).report(line.options.get("--to"))
    if not in_a_kernel():
        say(f"{written}")


def _open(shell: Any, line: Line) -> None:
    session = open_run(line.words[0])
    variable = line.options.get("--out", variable_of(session.name))
    check_free(shell, variable)
    bind(shell, variable, session)
    show(session, Place.of(shell))


def _rewind(shell: Any, line: Line) -> None:
    address = parse_address(line.words[0])
    session = session_of(shell, address.session)
    step = session.best_step if address.at == "best" else address.at
    if not isinstance(step, int):
        raise RecipeError(f"'{line.words[0]}' names no step to go back to: write NAME@STEP or NAME@best")
    receipt = session.rewind(step)
    _answer(session, receipt, f"back to step {step}", lambda answer: f"{session.name} goes on from step {answer.step}")


def _fork(shell: Any, line: Line) -> None:
    address, name = line.words
    variable = line.options.get("--out", variable_of(check_name(name)))
    check_free(shell, variable)
    session = fork(address_of(shell, address), name, line.pairs, fresh_optimizer="--fresh-optimizer" in line.switches)
    bind(shell, variable_of(session.name) if "--out" not in line.options else variable, session)
    if session.name != name:
        say(f"there is a run {name} already: this one is {session.name}")
    show(session, Place.of(shell))


# --- steer ------------------------------------------------------------------------------------------------------------


def _set(shell: Any, line: Line) -> None:
    session, step = _named(shell, line), line.whole_number("--step")
    if not line.pairs:
        live = ", ".join(session.hyperparameters.model_dump())
        raise RecipeError(f"nothing to set: write %ft set {session.name} key=value; live are: {live}")
    if "step" in line.pairs:
        raise RecipeError(f"'step' is no setting; write --step {line.pairs['step']}")
    change(session.hyperparameters, line.pairs)  # also keeps `step=6` from being taken for the option
    wanted = ", ".join(f"{key} = {shown(value)}" for key, value in line.pairs.items())
    receipt = session.set(step=step, **line.pairs)
    at = f" at step {step}" if step is not None else ""
    _answer(session, receipt, f"{wanted}{at}", lambda answer: f"{change_text(answer)} at step {answer.step}")


def _answer(session: Session, receipt: Receipt, wanted: str, told: Callable[[Applied], str]) -> None:
    """Say what the answer says; where none comes in time, what is requested and where the run is."""
    try:
        receipt.wait(ANSWER_SECONDS)
    except (TimeoutError, KeyboardInterrupt):
        say(f"requested: {wanted} (now {_where(session)})")
        return
    if isinstance(receipt.answer, Applied):
        say(told(receipt.answer))


def _where(session: Session) -> str:
    return f"at step {session.step}" if session.state == "running" else f"{session.state}, step {session.step}"


def _steer(word: str, told: str, **switches: str) -> Callable[[Any, Line], None]:
    def do(shell: Any, line: Line) -> None:
        if word == "stop" and (race := race_meant(shell, line)) is not None:
            live = [one.name for one in race.live]
            race.stop()
            say(f"these stop at their next step: {', '.join(live)}" if live else f"no run of {race.name} is live")
            return
        session = _named(shell, line)
        given = {name: True for name, switch in switches.items() if switch in line.switches}
        receipt: Receipt = getattr(session, word)(**given)
        _answer(session, receipt, f"{word} {session.name}", lambda answer: f"{session.name} {told} {answer.step}")

    return do


def _resume(shell: Any, line: Line) -> None:
    session = _named(shell, line)
    receipt = session.resume(functions_of(shell, session.recipe.rewards))
    _answer(
        session, receipt, f"resume {session.name}", lambda answer: f"{session.name} goes on from step {answer.step}"
    )


def _wait(shell: Any, line: Line) -> None:
    if (race := race_meant(shell, line)) is not None:
        wait_for_race(race, Place.of(shell), line.whole_number("--step"))
        return
    session, step, place = _named(shell, line), line.whole_number("--step"), Place.of(shell)
    there = step is not None and session.step >= step
    if session.state == "paused" and place.headless and not there:
        raise RunFolderError(f"{session.name} is paused at step {session.step}: %ft resume {session.name} comes first")
    leaves_record = step is None and (place.headless or not place.rich)
    if wait(session, place, record=leaves_record, step=step) and not leaves_record:
        of = f" of {session.total_steps}" if session.total_steps else ""
        short = f", before step {step}" if step is not None and session.step < step else ""
        why = f": {one_line(session.said)}" if session.state == "finished" and session.said else ""
        say(f"{session.name} is {session.state} at step {session.step}{of}{short}{why}")


def _close(shell: Any, line: Line) -> None:
    if (race := race_meant(shell, line)) is not None:
        race.close()
        say(f"the {race.name} runs are closed; their folders stay in {runs_root()}")
        return
    session = _named(shell, line)
    if session.state not in OVER:
        say(f"{session.name} is {session.state}; stopping it first")
    try:
        session.close()
    except KeyboardInterrupt:
        say(f"no longer waiting: {session.name} is {session.state}; %ft close {session.name} closes it")
        return
    say(f"{session.name} is closed; its folder stays: {session.folder}")


def _verb(usage: str, about: str, do: Callable[[Any, Line], None], **more: Any) -> Verb:
    return Verb(Grammar(f"%ft {usage}", about, **more), do)


VERBS: dict[str, Verb] = {
    "status": _verb("status [NAME]", "How a run or a race stands, or all runs.", _status),
    "set": _verb(
        "set [NAME] key=value … [--step N]",
        "Change live hyperparameters at the next step.",
        _set,
        options=(_STEP,),
        pairs=True,
        keys=(*dict.fromkeys(field for live in METHODS.values() for field in live.model_fields), *ALIASES),
        example="%ft set support learning_rate=5e-5",
    ),
    "pause": _verb(
        "pause [NAME] [--free-memory]",
        "Hold before the next step; chat goes on.",
        _steer("pause", "is paused at step", free_memory="--free-memory"),
        options=(Option("--free-memory", "give the memory back until it is resumed; no chat meanwhile"),),
    ),
    "resume": _verb("resume [NAME]", "Go on after a pause, or from the newest checkpoint.", _resume),
    "stop": _verb(
        "stop [NAME]",
        "End a run, or those of a race, at the next step, with a checkpoint.",
        _steer("stop", "stops at step"),
    ),
    "save": _verb(
        "save [NAME]",
        "Write a checkpoint at the next step. It stays, however many come after it, unless a rewind takes it back.",
        _steer("save", "keeps a checkpoint of step"),
    ),
    "wait": _verb(
        "wait [NAME] [--step N]",
        "Wait until a run or a race is over, or N steps are done. Ctrl-C stops waiting, not the run.",
        _wait,
        options=(Option("--step", "until this step is done", "N"),),
    ),
    "open": _verb(
        "open NAME_OR_FOLDER [--out VAR]",
        "Open a past run, bind it to a variable and show it.",
        _open,
        options=(Option("--out", "the variable; else the run's name", "VAR"),),
        words=(1, 1),
    ),
    "show": _verb("show [NAME]", "Show the panel of a run here, or the table of a race.", _show),
    "report": _verb(
        "report [NAME] [--to FILE]",
        "Write a run as one page that needs nothing else: curves, edits, evaluations, chats, recipe; no rows.",
        _report,
        options=(Option("--to", "where; else report.html in the run folder", "FILE"),),
    ),
    "logs": _verb(
        "logs [NAME] [--tail N] [--level LEVEL]",
        "What happened in a run and what it printed, as in the panel's Log tab.",
        logs.run,
        options=(
            Option("--tail", f"the last N lines; else {logs.TAIL}", "N"),
            Option("--level", f"this level and above: {', '.join(logs.LEVELS)}; else info", "LEVEL"),
        ),
        example="%ft logs support --level warning",
    ),
    "data": _verb(
        "data FILE_OR_SESSION [key=value …] [--rows N] [--row N] [--all]",
        "Rows as the model sees them: of a file, a variable, a hub id or demo:support before anything is trained, or of"
        " a run. Keys are those of a recipe.",
        data.run,
        options=(
            Option("--rows", "so many rows; else 8", "N"),
            Option("--row", "this row alone", "N"),
            Option("--all", "take the figures of all rows, however many"),
        ),
        pairs=True,
        keys=("data", "model", *FINETUNE.keys),
        example="%ft data tickets.csv columns.prompt=Question system='Be brief.' max_length=512",
    ),
    "fit": _verb(
        "fit [MODEL] [key=value …] [--data D] [--memory SIZE] [--measure]",
        "Whether a run fits into memory, part by part, and what would let it. Keys are those of a recipe.",
        fit.run,
        options=(
            Option("--data", "as for %%finetune; else rows are taken to be of max_length", "D"),
            Option("--memory", "of a card that is not here, like 24GB", "SIZE"),
            Option("--measure", "also count the memory of two steps on the longest row"),
        ),
        pairs=True,
        keys=("data", "model", *FINETUNE.keys),
        example="%ft fit demo max_length=2048 batch_size=16 --memory 8GB",
    ),
    "queue": Verb(queue.GRAMMAR, queue.run),
    "review": Verb(review.GRAMMAR, review.run),
    "compare": Verb(keep.COMPARE, keep.run_compare),
    "replay": Verb(keep.REPLAY, keep.run_replay),
    "doctor": _verb(
        "doctor [--bundle FILE.zip]",
        "How this machine and environment stand, and what to do about each red line.",
        doctor.run,
        options=(
            Option("--bundle", "also pack this, recipes and logs, without rows, prompts, replies, tokens", "FILE.zip"),
        ),
        words=(0, 0),
    ),
    "rewind": _verb(
        "rewind ADDRESS",
        "Take back the steps after a checkpoint (NAME@STEP, NAME@best), with their edits, and go on from there.",
        _rewind,
        words=(1, 1),
        example="%ft rewind support@40",
    ),
    "fork": _verb(
        "fork ADDRESS NEW_NAME [key=value …] [--fresh-optimizer] [--out VAR]",
        "A new run that goes on from a kept step of another (NAME, NAME@best, NAME@STEP) with these settings.",
        _fork,
        options=(_FRESH, Option("--out", "the variable; else the new name", "VAR")),
        words=(2, 2),
        pairs=True,
        keys=FINETUNE.keys,
        example="%ft fork support@40 calmer learning_rate=2e-5",
    ),
    "export": Verb(export.EXPORT, export.run_export),
    "push": Verb(export.PUSH, export.run_push),
    "clone": Verb(racing.CLONE, racing.run_clone),
    "promote": Verb(racing.PROMOTE, racing.run_promote),
    "close": _verb(
        "close [NAME]", "Stop a run, or those of a race, where live, and free the memory; folders stay.", _close
    ),
}
