"""Opening a review: what is asked, of which weights, and what was judged before."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data import Examples, hold_out, question_of, questions_in, read
from ...data.read import SUFFIXES
from ...errors import AddressError, DataError, RecipeError
from ...feedback import feedback, is_held_out, prompt_key
from ...messages import Message
from ...runs import RunFolder
from ..address import parse_address
from ..registry import sessions
from .desk import Desk
from .supply import Supply, Voice

if TYPE_CHECKING:
    from ..handle import Session

Prompts = str | Path | Sequence[str | Sequence[Message]] | None
MOST = 2000  # prompts of a run that are gone through at most
SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k")
SCORES = ("classification", "reward")  # methods whose models do not speak


def open_desk(
    session: Session,
    prompts: Prompts,
    at: str | Sequence[str | int],
    *,
    reviewer: str | None,
    blind: bool,
    again: bool,
    sampling: Mapping[str, Any],
) -> Desk:
    """A desk for `session`, already preparing; see `Session.review_desk`."""
    wrong = next((name for name in sampling if name not in SAMPLING), None)
    if wrong is not None:
        raise RecipeError(f"review: unknown setting '{wrong}'; there are: {', '.join(SAMPLING)}")
    called = _two(at)
    voices = (_voice(session, called[0]), _voice(session, called[1]))
    name = (reviewer or "").strip()
    kept = session.feedback
    done = {prompt_key(one.prompt) for one in kept if one.reviewer == name and {a.at for a in one.answers} == {*called}}
    asked = [p for p in _prompts(session, prompts) if again or prompt_key(p) not in done]
    if not asked:
        raise DataError(
            f"every prompt is judged{f' by {name}' if name else ''}; name others, or again=True asks them once more"
        )
    mine = sum(one.reviewer == name and one.choice is not None for one in kept)
    seed = f"{session.recipe.seed}{f' {len(kept)}' if again else ''}"
    supply = Supply(asked, voices, sampling, seed=seed, reviewer=name, first=mine)
    desk = Desk(session, kept, supply, at=called, reviewer=name, blind=blind)
    desk.begin()
    return desk


def _two(at: str | Sequence[str | int]) -> tuple[str, str]:
    several = at.split(",") if isinstance(at, str) else list(at)
    named = [str(one).strip() for one in several]
    if len(named) == 1:
        named *= 2
    if len(named) != 2 or not all(named):
        raise RecipeError(f"review compares two weights, like live,base; '{','.join(named)[:60]}' names {len(named)}")
    return named[0], named[1]


def _voice(session: Session, called: str) -> Voice:
    """The weights called so: of this session or of another open one. `AddressError` where there are none."""
    address = parse_address(called)
    other = session if address.session in (None, session.name) else sessions.the_one(address.session)
    if other.recipe.method in SCORES:
        raise AddressError(f"'{called}': {other.name} scores answers and gives none; review a run that speaks")
    at = str(address.at)
    if at == "best" and other.best_step is None:  # what is judged of the best is of no other step
        raise AddressError(f"'{called}': {other.name} has no best step: nothing is held out, or not evaluated yet")
    other.chat_address(at)
    return Voice(other, at, called)


# --- prompts ----------------------------------------------------------------------------------------------------------


def _prompts(session: Session, given: Prompts) -> list[list[Message]]:
    """The prompts that were named, each once, in their order; of the run's own, those held out first."""
    if given is None:
        found = _of_run(session)
    elif isinstance(given, str | Path) and str(given).startswith("feedback:"):
        found = [one.prompt for one in feedback(str(given).partition(":")[2]) if is_held_out(one.prompt)]
        if not found:
            raise DataError(f"{given} has no held-out prompt to review")
    elif isinstance(given, str) and _is_prompt(given):
        found = questions_in(_listed([given]), {})
    elif isinstance(given, list | tuple):
        found = questions_in(_listed(given), {})
    else:
        found = questions_in(read(given), session.recipe.columns)
    distinct = {prompt_key(prompt): prompt for prompt in reversed(found)}
    return list(reversed(distinct.values()))


def _is_prompt(text: str) -> bool:
    """Whether a text asks something rather than naming a file: it has several words and no suffix of one."""
    return len(text.split()) > 1 and not text.lower().strip().removesuffix(".gz").endswith(SUFFIXES)


def _listed(given: Sequence[str | Sequence[Message]]) -> list[dict[str, object]]:
    """A list as rows. `DataError` with the place of what is no prompt."""
    if not given:
        raise DataError("no prompts: give at least one")
    rows: list[Any] = list(given)
    return [dict(one) if isinstance(one, Mapping) else {"prompt": one} for one in rows]


def _of_run(session: Session) -> list[list[Message]]:
    train, apart = _rows(session)
    found: list[list[Message]] = []
    for side in (apart, train):
        if side is None:
            continue
        order = list(range(len(side.rows)))
        random.Random(session.recipe.seed).shuffle(order)
        prompts = (question_of(side.rows[at]) for at in order[:MOST])
        found += [prompt for prompt in prompts if prompt]
    if not found:
        raise DataError(f"the rows of {session.name} hold no prompts (they are texts); name some: prompts=…")
    return found


def _rows(session: Session) -> tuple[Examples, Examples | None]:
    from ..start import rows_of

    recipe = session.recipe
    try:
        examples = session._examples or rows_of(RunFolder(session.folder), recipe)
    except (DataError, KeyError) as error:
        raise DataError(f"the prompts of {session.name} are not at hand ({error}); name some: prompts=…") from None
    return hold_out(examples, recipe.held_out, recipe.columns, recipe.seed, recipe.method)


def unseen(session: Session) -> list[list[Message]]:
    """The prompts from which a run on this one's judgements has not learned: those held out first, then of its rows.

    `DataError` where there are none.
    """
    kept = session.feedback
    seen = {prompt_key(one.prompt) for one in kept if not one.held_out}
    try:
        rows = _of_run(session)
    except DataError:
        rows = []
    found = [one.prompt for one in kept if one.held_out] + [one for one in rows if prompt_key(one) not in seen]
    if not found:
        raise DataError("everything that was asked was trained on; review other prompts: session.review(prompts=…)")
    return found
