"""The weights at an address as files, or on the hub: what of a run belongs to them, and what they are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import answers, asked, hold_out, spread
from ..errors import DataError, ExportError, RunFolderError
from ..event_log import that_count
from ..messages import OVER, DataReady, EvalDone, Logged
from .address import parse_address
from .registry import sessions
from .stages import Parent, find_parent
from .start import open_run, rows_of
from .taking import quiet

if TYPE_CHECKING:
    from ..data import Examples
    from ..export.card import Told
    from ..export.origin import Origin, Report
    from ..export.write import Exported
    from ..sampling.probes import Probe
    from .handle import Session

PROMPTS = 3
ASKED_ANYWAY = ("Hello.", "What can you do for me?", "Thank you, that is all.")
"""What an export is tried on where the rows of its run are gone."""


def export(
    address: str,
    to: str | Path | None = None,
    form: str | None = None,
    *,
    repo: str = "",
    public: bool = False,
    force: bool = False,
    quantize: str | None = None,
    with_samples: bool = False,
    report: Report = quiet,
) -> Exported:
    """The weights at `address` (`RUN`, `RUN@STEP`, `RUN@best`) as files; of a run that is not open too.

    As `Session.export`; with `repo` they are pushed there once they are checked.
    """
    from ..export.place import check_free
    from ..export.write import Wanted, form_of, write

    with _opened(address) as session:
        recipe, name = session.recipe, session.name
        if recipe.method == "attached":
            raise ExportError(
                f"'{name}' was attached, its model is the notebook's own: trainer.save_model(FOLDER) writes it"
            )

        def checked(form: str | None, speaks: bool) -> str:
            full = recipe.adapter.kind == "full"
            return form_of(form, full=full, speaks=speaks, name=name, quantize=quantize)

        form = checked(form, recipe.method not in ("classification", "reward"))
        parent = find_parent(address)
        to = session.folder / "exports" / f"step-{parent.step}-{form}" if to is None else Path(to).expanduser()
        wanted = Wanted(to, form, force or bool(repo), quantize, repo, public=public, unlike=force)
        check_free(to, force=wanted.force)
        report("preparing", 0, 0)
        examples = _examples(session)
        samples = _samples(examples) if with_samples else []
        origin = origin_of(session, parent, examples, report)
        checked(form, origin.judging is None)
        done = write(origin, told_of(session, samples), wanted, report)
        session.log.append(Logged(level="info", text=f"exported {done.said[0]}; {done.check.said}"))
        return done


@contextmanager
def _opened(address: str) -> Iterator[Session]:
    """The session of an address; one that is not open, for as long as it is needed."""
    asked_for = parse_address(address)
    if asked_for.at == "base":
        raise ExportError(f"'{address}': the base is not the run's to export; name a run, RUN@STEP or RUN@best")
    name = asked_for.session if asked_for.session is not None else sessions.the_one(None).name
    if name in sessions:
        yield sessions[name]
        return
    session = open_run(name)
    try:
        yield session
    finally:
        session.close()


def push(address: str, repo: str, form: str | None = None, **more: Any) -> Exported:
    """The weights at `address` on the hub, as `Session.push_to_hub`."""
    from ..export.hub import check_push

    check_push(repo, public=bool(more.get("public")))
    return export(address, None, form, repo=repo, **more)


# --- what belongs to it -----------------------------------------------------------------------------------------------


def origin_of(session: Session, parent: Parent, examples: Examples | None, report: Report) -> Origin:
    """The weights of `parent` with their base and what they are tried on. `ModelError` where the base is gone."""
    from ..export.origin import Origin
    from ..launch.voices import base_of, judging_of
    from ..weights import labels_in

    recipe = session.recipe
    base = base_of(recipe, report, session.run_folder)
    trained_on = session.run_folder.read_recipe()[1]["data"]["format"]
    labels = labels_in(parent.folder) if trained_on == "labelled" else ()
    judging, prompts = judging_of(base, recipe, labels), _prompts(session, examples)
    return Origin(
        name=session.name,
        step=parent.step,
        weights=parent.folder,
        recipe=recipe,
        trained_on=trained_on,
        folder=session.run_folder,
        base=base,
        judging=judging,
        prompts=_masked(prompts) if judging is not None and judging.masks else prompts,
        beside=any(other.state not in OVER for other in sessions.values()),
    )


def told_of(session: Session, samples: list[tuple[str, str]]) -> Told:
    """What the record of a run says, for its card."""
    from ..export.card import Told

    asked_for, about = session.run_folder.read_recipe()
    events = session.log.history()
    ready = [event for event in events if isinstance(event, DataReady)]
    return Told(
        asked=asked_for,
        about=about,
        changes=session.changes,
        evals=that_count(events, EvalDone),
        rows=ready[-1] if ready else None,
        steps=session.log.read()[0].steps,
        samples=samples,
    )


def _examples(session: Session) -> Examples | None:
    if session.examples is not None:
        return session.examples
    with suppress(DataError, RunFolderError, OSError):  # gone or changed: it is exported all the same
        return rows_of(session.run_folder, session.recipe)
    return None


def _prompts(session: Session, examples: Examples | None) -> list[Probe]:
    """The probes; else the prompts of rows that are held out, or of any; else some of ours."""
    from ..sampling.probes import probes_of

    recipe = session.recipe
    if isinstance(recipe.probes, tuple):
        return probes_of(recipe.probes[:PROMPTS], None, recipe.method)
    found: list[Probe] = []
    if examples is not None:
        train, apart = hold_out(examples, recipe.held_out, recipe.columns, recipe.seed, recipe.method)
        found = probes_of(PROMPTS, apart or train, recipe.method)
    return found or probes_of(ASKED_ANYWAY, None, recipe.method)


def _masked(prompts: list[Probe]) -> list[Probe]:
    """The same with the word in the middle left out, for a model that guesses it."""
    from ..sampling.probes import Probe

    left_out = []
    for probe in prompts:
        words = probe.shown.split() or [""]
        words[len(words) // 2] = "[MASK]"
        text = " ".join(words)
        left_out.append(Probe([{"role": "user", "content": text}], text))
    return left_out


def _samples(examples: Examples | None) -> list[tuple[str, str]]:
    if examples is None:
        raise ExportError("--with-samples: the rows of the run are gone or have changed; leave it out")
    found = []
    for row in spread(examples, PROMPTS):
        right: list[Any] = answers(row) or [dict(row).get("label", "")]
        found.append((asked(row, classified=True)[-1]["content"], str(right[0])))
    return found
