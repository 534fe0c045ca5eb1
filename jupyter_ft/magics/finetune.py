"""`%%finetune`: a recipe becomes a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jupyter_ft.errors import DataError, FineTuneError, ModelError, RecipeError
from jupyter_ft.hyperparameters import METHODS, PolicyHyperparameters
from jupyter_ft.recipe import ALIASES, FIXED_NAMES, Recipe
from jupyter_ft.runs import check_name, runs_root
from jupyter_ft.session import Session
from jupyter_ft.session.fits import fit_of
from jupyter_ft.session.race import plans_of, split_halving, start_race, variants_of
from jupyter_ft.session.start import Plan, begin, free_name, go_on, plan, refuse_live
from jupyter_ft.ui.fit import fit_text
from jupyter_ft.ui.race import show_race
from jupyter_ft.ui.reading import ReadingLine
from jupyter_ft.ui.record import record_html, record_text
from jupyter_ft.ui.views import panel_of
from jupyter_ft.ui.watched import shown

from .body import Body, read_body
from .line import Grammar, Line, Option, parse, refuse_token_in, split, wants_help
from .notebook import (
    Place,
    bind,
    check_free,
    data_of,
    functions_of,
    metrics_of,
    model_of,
    one_line,
    rewards_of,
    say,
    show_html,
    variable_of,
)
from .waiting import wait, wait_for_race

GRAMMAR = Grammar(
    usage="%%finetune NAME [key=value …] --model M --data D [--from ADDRESS] [--resume | --replace]"
    " [--dry-run [--measure]] [--wait | --no-wait] [--out VAR]",
    about="Start a run in the background. The lines below are its recipe (YAML); what the first line says wins.\n"
    "method: supervised (the default), self-supervised, classification, dpo, kto, reward, grpo or rloo (with\n"
    "rewards: a function of the notebook, or a reward run). Other keys: adapter, columns,\n"
    " held_out, system, max_length, packing, learning_rate, batch_size, epochs, max_steps, …; a wrong one is\n"
    "answered with the nearest.",
    options=(
        Option("--model", "demo, a local folder, or a hub id; with --from left out", "M"),
        Option(
            "--data",
            "a CSV, JSON, JSON Lines, Parquet or text file (or a glob), a folder of text, a hub id, a notebook "
            "variable, or demo:support",
            "D",
        ),
        Option("--from", "weights of another run to go on from: RUN, RUN@best or RUN@STEP", "ADDRESS"),
        Option("--resume", "go on with the newest unfinished run of that name; the name is enough"),
        Option("--replace", "stop the live run of that name first"),
        Option("--dry-run", "check everything and say what would run and what memory it takes; start nothing"),
        Option("--measure", "with --dry-run: also two steps on the longest row, whose memory is counted"),
        Option("--wait", "wait in the cell until the run is over (what happens anyway where nobody looks)"),
        Option("--no-wait", "return at once, also where nobody looks; %ft wait NAME waits later"),
        Option("--out", "bind the session to this variable as well", "VAR"),
    ),
    words=(1, 1),
    pairs=True,
    keys=(
        "race",
        *sorted(FIXED_NAMES - {"model", "data"}),
        *dict.fromkeys(field for live in METHODS.values() for field in live.model_fields),
        *ALIASES,
    ),
    below="{key}: {value}",
    example="%%finetune support --model demo --data tickets.csv\nlearning_rate: 2e-4",
)
NOT_FIRST = "%%{0} goes on the first line of its cell, nothing above it, not even a comment; the {1} goes below it"
_SWITCHES = {
    word: f"--{word.replace('_', '-')}" for word in ("replace", "resume", "wait", "no_wait", "dry_run", "measure")
}


def run(shell: Any, first_line: str, text: str) -> None:
    """Start what the cell asks for, bind its session, show it; wait where that is asked for."""
    words = split(first_line)
    if wants_help(words):
        say(GRAMMAR.help())
        return
    line, asked, body = _read(words, text)
    name = check_name(line.words[0])
    if "--resume" in line.switches and not asked and not {"--model", "--data"} & line.options.keys():
        _go_on(shell, name, line)
        return
    model = line.options.get("--model", asked.pop("model", None))
    model = None if model is None else model_of(shell, model)
    data = data_of(shell, line.options.get("--data", asked.pop("data", None)))
    if "metrics" in asked:
        asked["metrics"] = metrics_of(shell, asked["metrics"])
    if "rewards" in asked:
        asked["rewards"] = rewards_of(shell, asked["rewards"])
    if not isinstance(model, str | None):
        raise RecipeError(f"model = {one_line(repr(model))[:80]}: should be demo, a folder or a hub id")
    place = Place.of(shell)
    try:
        variables = _variables(shell, name, line.options.get("--out"))
        if "--dry-run" in line.switches:
            refuse_live(name, replace="--replace" in line.switches)
        if (race := race_in(asked)) is not None:
            _run_race(shell, name, (model, data, asked, race), line, variables)
            return
        resumed = name if "--resume" in line.switches else None
        with reading(place) as progress:
            planned = plan(model, data, asked, progress, to_start="--dry-run" not in line.switches, resume=resumed)
        if "--dry-run" in line.switches:
            say(f"{_told(planned, name)}\n{_memory(planned, measure='--measure' in line.switches)}")
            return
        replace, resume = (f"--{word}" in line.switches for word in ("replace", "resume"))
        session = begin(name, planned, replace=replace, resume=resume)
    except RecipeError as error:
        raise RecipeError(body.place(str(error))) from None
    for variable in variables:
        bind(shell, variable, session)
    _show_start(session, place, line.switches)


def _go_on(shell: Any, name: str, line: Line) -> None:
    """Go on with a run as its folder describes it."""
    variables = _variables(shell, name, line.options.get("--out"))
    session = go_on(name, lambda recipe: functions_of(shell, recipe.rewards))
    for variable in variables:
        bind(shell, variable, session)
    _show_start(session, Place.of(shell), line.switches)


def race_in(asked: dict[str, Any]) -> Any:
    """What `race:` and `race.KEY:` say, taken out of the recipe; None where there is no race."""
    race = (asked.pop("race") or {}) if "race" in asked else None  # nothing below it is told as no grid
    dotted = {key.removeprefix("race."): asked.pop(key) for key in list(asked) if key.startswith("race.")}
    return {**(race or {}), **dotted} if dotted and isinstance(race, Mapping | None) else race


def _run_race(
    shell: Any, name: str, what: tuple[Any, Any, dict[str, Any], Any], line: Line, variables: list[str]
) -> None:
    model, data, asked, race = what
    place = Place.of(shell)
    if "--resume" in line.switches:
        raise RecipeError("--resume goes on with one run: %ft resume NAME-1, and so on")
    with reading(place) as progress:
        if "--dry-run" in line.switches:
            plans = plans_of(model, data, asked, variants_of(split_halving(race)[0]), progress)
            for number, planned in enumerate(plans, 1):
                say(_told(planned, f"{name}-{number}"))
            return
        started = start_race(model, data, name, race, asked, replace="--replace" in line.switches, progress=progress)
    for variable in variables:
        bind(shell, variable, started)
    waits = "--no-wait" not in line.switches and (place.headless or "--wait" in line.switches)
    if not place.headless:
        show_race(started)
    elif not waits:
        to = f"{started.name}-1 to {started.name}-{len(started)}"
        say(f"{to} run in the background; %ft wait {started.name} waits for them and leaves their table")
    if waits:
        wait_for_race(started, place)


@contextmanager
def reading(place: Place) -> Iterator[ReadingLine | None]:
    """Count the rows in the cell while they are read; nobody looks at a headless one. Ctrl-C is a red line."""
    line, whole = None if place.headless else ReadingLine(rich=place.rich), False
    try:
        yield line
        whole = True
    except KeyboardInterrupt:
        raise DataError(f"interrupted{line.where if line else ''}; nothing was started, run the cell again") from None
    finally:
        if line is not None:
            line.end(whole=whole)


def _read(words: list[str], text: str) -> tuple[Line, dict[str, Any], Body]:
    refuse_token_in(text)
    line = parse(words, GRAMMAR)
    if {"--resume", "--replace"} <= line.switches:
        raise RecipeError("--resume goes on with a run and --replace starts anew; give one of them")
    if {"--resume", "--dry-run"} <= line.switches:
        raise RecipeError("--dry-run says what a new run would be; leave --resume away")
    if "--measure" in line.switches and "--dry-run" not in line.switches:
        raise RecipeError("--measure counts the memory of a dry run; add --dry-run")
    body = read_body(text)
    for key in [*line.pairs, *body.values]:
        if (switch := _SWITCHES.get(key.replace("-", "_"))) is not None:
            raise RecipeError(f"'{key}' is no key of a recipe; write {switch} on the first line")
        if key in ("name", "out"):
            hint = (
                "the name is the first word of the first line" if key == "name" else "write --out VAR on the first line"
            )
            raise RecipeError(f"'{key}' is no key of a recipe; {hint}")
    for key in ("model", "data", "from"):
        if key in line.pairs and f"--{key}" in line.options:
            raise RecipeError(f"{key}= and --{key} are both on the line; keep one")
    if "--from" in line.options:
        line.pairs["start_from"] = line.options["--from"]
    given = line.pairs | {key: line.options[f"--{key}"] for key in ("model", "data") if f"--{key}" in line.options}
    left = _less(body.values, given)
    asked = {"model" if ALIASES.get(key) == "model" else key: value for key, value in {**left, **line.pairs}.items()}
    return line, asked, Body(left, _places(body, left))


def _places(body: Body, left: Mapping[str, Any]) -> dict[str, int]:
    """The lines of the keys that are `left`, under their own names and under those that errors call them by."""
    lines = {key: line for key, line in body.lines.items() if key in left}
    return lines | {ALIASES[key]: line for key, line in lines.items() if key in ALIASES}


def _less(body: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """The body without what the line says better, under whatever name."""
    plain = {ALIASES.get(key, key): value for key, value in line.items()}
    whole = tuple(f"{key}." for key, value in plain.items() if isinstance(value, dict))
    names = {key: ALIASES.get(key, key) for key in body}
    return {k: v for k, v in body.items() if names[k] not in plain and not names[k].startswith(whole or ("\0",))}


def _variables(shell: Any, name: str, out: str | None) -> list[str]:
    own = variable_of(name)
    if out is None:
        check_free(shell, own)
        return [own]
    check_free(shell, out)
    try:
        check_free(shell, own)
    except FineTuneError:
        return [out]
    return list(dict.fromkeys([own, out]))


def _told(planned: Plan, name: str) -> str:
    """What a dry run says."""
    recipe, examples, parent, *_ = planned
    live = recipe.hyperparameters
    given = {**_differing(recipe), **_differing(live)}
    lines = [
        f"{free_name(name)} would start in {runs_root()}; nothing was started",
        f"  model   {recipe.model}" + (f", from {parent.name} at step {parent.step}" if parent else ""),
        f"  data    {one_line(examples.said)}",
        *(f"  note    {one_line(note)}" for note in examples.notes),
        f"  steps   {_steps(recipe, examples)}",
        "  recipe  "
        + (", ".join(f"{key}: {one_line(shown(value))}" for key, value in given.items()) or "all defaults"),
    ]
    return "\n".join(lines)


def _memory(planned: Plan, *, measure: bool) -> str:
    try:
        told = fit_text(fit_of(planned, measure=measure, light=True))
    except (ModelError, RecipeError) as error:  # its files are not here yet, say; all the rest has been checked
        told = str(error)
    return "\n".join(f"  {'memory' if at == 0 else '':<8}{line}" for at, line in enumerate(told.splitlines()))


def _steps(recipe: Recipe, examples: Any) -> str:
    live = recipe.hyperparameters
    each = f"{live.batch_size} × {live.accumulation}"
    if isinstance(live, PolicyHyperparameters):
        per_epoch = live.geometry.updates(len(examples.rows))
        answers = f"{live.num_generations} answers to each of {live.geometry.prompts} prompts at once"
        return f"{live.max_steps or math.ceil(per_epoch * live.epochs)} ({per_epoch} an epoch, {answers})"
    if recipe.method == "cpt":
        return f"{live.max_steps or 'known when the text is in tokens'} ({each} windows of {recipe.max_length} each)"
    two_each = recipe.method == "kto" and examples.format == "preference"
    per_epoch = math.ceil(len(examples.rows) * (2 if two_each else 1) / (live.batch_size * live.accumulation))
    return f"{live.max_steps or math.ceil(per_epoch * live.epochs)} ({per_epoch} an epoch, {each} rows each)"


def _differing(part: Any) -> dict[str, Any]:
    found = part.model_dump(exclude_defaults=True, exclude={"model", "data", "hyperparameters"})
    return {
        f"{key}.{inner}" if isinstance(value, dict) else key: what
        for key, value in found.items()
        for inner, what in (value.items() if isinstance(value, dict) else [("", value)])
    }


# --- showing ----------------------------------------------------------------------------------------------------------


def _show_start(session: Session, place: Place, switches: set[str]) -> None:
    waits = "--no-wait" not in switches and (place.headless or "--wait" in switches)
    if place.headless and not waits:
        say(f"{session.name} runs in the background; %ft wait {session.name} waits for it and leaves its record")
    elif not place.headless:
        show(session, place)
    if waits:
        wait(session, place, record=place.headless or not place.rich)


def show(session: Session, place: Place) -> None:
    """The panel where there is a notebook with somebody before it, else the record."""
    if place.headless or not place.rich:
        show_html(record_html(session), record_text(session), place)
        return
    try:
        panel_of(session).show()
    except FineTuneError as error:  # the run has started: that its panel is missing is no reason to hide it
        show_html(record_html(session), record_text(session), place)
        say(one_line(str(error)))
