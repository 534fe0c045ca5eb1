"""Will it fit: the estimate for a run that is not started, and a measured step of it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data import Examples, hold_out, labels_of
from ..errors import ModelError, RecipeError
from ..hyperparameters import REWARDED
from ..launch.rough import forget, largest, rough_lengths
from ..memory.asked import ESTIMATED, Lengths, Machine, lengths_of, some_reward, work_of
from ..memory.changes import cards, changes
from ..memory.device import machine_by_driver
from ..memory.fit import Fit
from ..memory.parts import base_bytes, parts
from ..memory.shape import Shape, find_folder, read_shape
from ..memory.waiting import bytes_in
from ..recipe import Recipe, parse_recipe
from ..trainer_fields import check_trainer_fields
from .model import check_model
from .rewards import split
from .start import Plan, plan

MOST_TOKENISED = 256
LESS = 0.75  # of the estimate, for what is to be tried where a measured step did not fit in spite of it


def will_it_fit(
    model: str | None, data: object, recipe: Mapping[str, Any], *, memory: object = None, measure: bool = False
) -> Fit:
    """Whether a run would fit, before anything is loaded. Raises `ModelError`, `RecipeError`, `DataError`.

    Without `data` the rows are taken to be as long as `max_length` allows, every token scored. `memory` is that of
    another card (bytes, or `"80 GB"`). With `measure` two steps are done on weights that are thrown away.
    """
    if recipe.get("method") in REWARDED and "rewards" not in recipe:
        recipe = {**recipe, "rewards": some_reward}
    if data is not None:
        planned = plan(model, data, recipe, to_start=False)
        return fit_of(planned, memory=memory, measure=measure)
    if measure:
        raise RecipeError("measure: a step needs rows; give data")
    checked = parse_recipe({"model": model or "demo", **split(recipe)[0]})
    check_trainer_fields(checked.method, checked.trainer)
    check_model(checked.model)
    return _fit(checked, _longest_possible(checked), _machine(checked, memory))


def fit_of(planned: Plan, *, memory: object = None, measure: bool = False, light: bool = False) -> Fit:
    """Whether what is planned fits. The longest rows are tokenised, and with `measure` trained on.

    `light`: without torch and transformers, which take seconds to import; their tokens are counted a little too high.
    """
    recipe, examples, parent = planned[:3]
    if measure and memory is not None:
        raise RecipeError("measure: a step is done on this machine; leave memory out")
    place, _ = _shape(recipe)  # before rows are tokenised
    train, apart = hold_out(examples, recipe.held_out, recipe.columns, recipe.seed, recipe.method)
    labels = labels_of(train, apart) if examples.format == "labelled" else ()
    tokenizes = any((place / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    if (light and not measure) or not tokenizes:
        lengths = rough_lengths(recipe, train, place)
        forget()
        return _fit(recipe, lengths, _machine(recipe, memory, light), len(labels))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        rows = [dict(row) for row in _longest_rows(recipe, train, labels, place, Path(folder))]
    lengths = lengths_of(rows)[0]
    if recipe.packing:
        lengths = Lengths(recipe.max_length, recipe.max_length * lengths.trained // lengths.longest)
    fit = _fit(recipe, lengths, _machine(recipe, memory), len(labels))
    if not measure:
        return fit
    from ..launch.dry_step import measure as measure_step

    fit = replace(fit, measured=measure_step(recipe, rows, labels, parent.folder if parent else None))
    if fit.fits or fit.changes:
        return fit
    return _advised(fit, recipe, int(fit.parts.whole * LESS))  # the estimate was wrong, or others took what was free


def _longest_possible(recipe: Recipe) -> Lengths:
    return Lengths(recipe.max_length, recipe.max_length)


def _shape(recipe: Recipe) -> tuple[Path, Shape]:
    """The folder of the recipe's model, and its shape. `ModelError` where it is not here, or says too little."""
    if recipe.method not in ESTIMATED:
        raise RecipeError(f"what a step of {recipe.method} takes is not estimated; known are {', '.join(ESTIMATED)}")
    folder = find_folder(recipe.model, recipe.revision)
    shape = None if folder is None else read_shape(folder)
    if folder is None or shape is None:
        raise ModelError(
            f"what {recipe.model} takes is not known: its config.json is not on this machine, or says too little"
        )
    return folder, shape


def _fit(recipe: Recipe, lengths: Lengths, machine: Machine, labels: int = 0) -> Fit:
    place, shape = _shape(recipe)
    work = work_of(recipe, shape, lengths, machine, labels)
    found = parts(shape, work)
    rows = f"{work.rows} row{'s' * (work.rows > 1)}"
    said = f"{rows} of {work.length:,} tokens at once" + ("" if shape.exact else f"; a rough figure for {shape.kind}")
    models = sys.modules.get("jupyter_ft.models")
    there = models is not None and machine.here and models.POOL.files_of(place) is not None
    fit = Fit(recipe.model, shape, work, found, machine, said, loaded=base_bytes(shape, work) if there else 0)
    return fit if fit.fits else _advised(fit, recipe, machine.free + fit.loaded)


def _advised(fit: Fit, recipe: Recipe, room: int) -> Fit:
    wanted = tuple(changes(fit.shape, fit.work, recipe, room))
    return replace(fit, changes=wanted, cards=None if wanted else cards(fit.shape, fit.work, room))


def _longest_rows(recipe: Recipe, train: Examples, labels: tuple[str, ...], place: Path, folder: Path) -> Any:
    """Rows as the trainer would get them: of those whose texts are longest, and of the first few."""
    from ..methods import method_of
    from ..models import does_speak, load_tokenizer

    chosen = sorted({*largest(train, MOST_TOKENISED), *range(min(len(train.rows), 8))})
    some = replace(train, rows=train.rows.subset(chosen), numbers=None)
    tokenizer = load_tokenizer(str(place), None, lambda *_: None)
    more: dict[str, Any] = {"labels": labels} if labels else {}
    shape = read_shape(place)
    room = min(recipe.max_length, tokenizer.model_max_length, (shape and shape.longest) or recipe.max_length)
    more |= {"system": recipe.system, "max_length": room, "file": folder / "tokens.arrow"}
    speaks = does_speak(str(place), None, lambda *_: None)
    return method_of(recipe, speaks).render(some, tokenizer, **more).rows


def _machine(recipe: Recipe, memory: object, light: bool = False) -> Machine:
    """This machine, or a card that is only described by its `memory`."""
    if memory is not None:
        free, plain = bytes_in(memory), 4 if recipe.dtype == "float32" else 2
        return Machine("cuda", f"a card of {free / 1e9:g} GB", free, triton=True, plain=plain, here=False)
    if light and "torch" not in sys.modules:
        return machine_by_driver(recipe)
    from ..launch.short import machine_of

    return machine_of(recipe)
