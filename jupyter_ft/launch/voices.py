"""The base of a run, and the models that speak for it in chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..control.lease import LEASE, seeded_streams
from ..data import Format
from ..errors import ModelError
from ..event_log import EventLog
from ..messages import Progress
from ..methods import method_of
from ..models import POOL, Base
from ..quantization import SAID
from ..recipe import Recipe
from ..runs import RunFolder
from ..sampling.at_boundary import OwnAtBoundary
from ..sampling.judge import Judging
from ..sampling.room import no_room
from ..sampling.twin import FullTwin, Twin, Voices
from ..weights import alpha_in, labels_in, plain_name, put_weights, read_weights
from .same_base import check_base, check_on_disk, revision_of


def base_of(recipe: Recipe, report: Callable[[str, int, int], None], folder: RunFolder | None = None) -> Base:
    """The base of a recipe, from the pool. `ModelError` where it cannot be had, or not be trained as asked.

    With the `folder` of a run also where it is not the base that this run began on.
    """
    if folder is not None:
        check_on_disk(folder.path, recipe)  # one that would be refused is not loaded first: a traceback could hold it
    base = POOL.get(
        recipe.model,
        revision=revision_of(folder, recipe),
        dtype=recipe.dtype,
        report=report,
        quantization=recipe.quantization,
        turn=LEASE,
    )
    if folder is not None:
        check_base(folder.path, recipe.model, base.files)
    if base.quantization != "none" and recipe.adapter.kind == "full":
        raise ModelError(
            f"{base.path}: its weights are {SAID[base.quantization]} and cannot be trained; adapter: lora can"
        )
    return base


def voices_of(folder: RunFolder, step: int, recipe: Recipe, trained_on: Format, log: EventLog) -> Twin | FullTwin:
    """The voices of a past run: its base, and the weights of the checkpoint at `step` for `live`."""
    base = base_of(recipe, lambda what, done, total: log.append(Progress(what=what, done=done, total=total)), folder)
    checkpoint = folder.visit(step)
    labels = labels_in(checkpoint) if trained_on == "labelled" else ()
    twin = twin_of(base, recipe, trained_on, folder, labels=labels)
    if isinstance(twin, FullTwin):
        twin.publish(step, {}, 0.0)
    else:
        stored = read_weights(checkpoint)
        put_weights(twin.live, stored)  # refuses what is of another base
        tensors = {name: stored[plain_name(name)] for name in twin.trained}
        twin.publish(step, tensors, alpha_in(checkpoint) or recipe.hyperparameters.alpha)
    twin.retire()
    return twin


def chat_waits(voices: Voices) -> str:
    """The sentence for people where a run waits for its replies."""
    return f"no copy of the weights for chat ({voices.waits}): the run waits, between two steps, while it answers"


def judging_of(base: Base, recipe: Recipe, labels: tuple[str, ...]) -> Judging | None:
    """How the model of a run scores; None where it speaks."""
    method = method_of(recipe, base.speaks)
    return Judging(labels, most_tokens(base, recipe), method.masks) if method.scores or method.masks else None


def most_tokens(base: Base, recipe: Recipe) -> int:
    """The tokens that a row may have."""
    return min(recipe.max_length, base.longest or recipe.max_length)


def twin_of(
    base: Base,
    recipe: Recipe,
    trained_on: Format,
    folder: RunFolder,
    *,
    labels: tuple[str, ...],
) -> Twin | FullTwin:
    """A model for chat over the base's storage, of a run that is not trained now."""
    judging = judging_of(base, recipe, labels)
    with LEASE, seeded_streams(recipe.seed):  # what is drawn for an adapter or a head is overwritten
        if recipe.adapter.kind == "full":
            return FullTwin(base, trained_on, folder.visit, judging=judging)
        return Twin(base, recipe, trained_on, folder.visit, judging)


def voices_of_all_weights(
    base: Base, recipe: Recipe, trained_on: Format, folder: RunFolder, nudge: Callable[[], None], **more: Any
) -> FullTwin | OwnAtBoundary:
    """The voices of a run that trains every weight: a copy or, where there is no room, its own model between two steps.

    The trainer will take 16 bytes a weight: itself in float32, its gradient and Adam's two moments. `more` are `room`,
    as for `no_room`, and `judging`.
    """
    weights, judging = list(base.model.parameters()), more["judging"]
    copy, count = sum(p.numel() * p.element_size() for p in weights), sum(p.numel() for p in weights)
    why = no_room(copy, 16 * count, weights[0].device, more["room"])
    with LEASE, seeded_streams(recipe.seed):  # a head is drawn, and overwritten
        if why:
            return OwnAtBoundary(base, trained_on, folder.visit, nudge, why, judging=judging)
        return FullTwin(base, trained_on, folder.visit, nudge, judging)
