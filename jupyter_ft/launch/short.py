"""Memory that will be short, said before the first step: refused where the weights alone do not fit, else warned of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from ..memory.asked import ESTIMATED, Lengths, Machine, lengths_of, work_of
from ..memory.changes import Change, cards, changes
from ..memory.fit import Fit, size_text
from ..memory.parts import base_bytes, parts
from ..memory.shape import find_folder, read_shape
from ..messages import Advice, Health
from ..models import POOL, Base, pick_device, pick_dtype
from ..recipe import Recipe
from ..sampling.room import free_bytes


def machine_of(recipe: Recipe, room: int | None = None) -> Machine:
    """The device of a run, and the bytes that are free on it, or `room`."""
    device = pick_device()
    plain = torch.empty((), dtype=pick_dtype(recipe.dtype, device), device="meta").element_size()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    free = free_bytes(device) if room is None else room
    return Machine(device.type, name, free, triton=device.type == "cuda", plain=plain)


def refuse_too_large(recipe: Recipe, room: int | None = None) -> None:
    """Raises `ModelError` where the base that is not loaded yet does not fit by itself, with what would."""
    folder = find_folder(recipe.model, recipe.revision)
    shape = None if folder is None else read_shape(folder)
    if folder is None or shape is None or POOL.files_of(folder) is not None:
        return
    here = machine_of(recipe, room)
    work = work_of(recipe, shape, Lengths(recipe.max_length, recipe.max_length), here)
    weights = base_bytes(shape, work)
    if weights <= here.free:
        return
    would = what_would(changes(shape, work, recipe, here.free), cards(shape, work, here.free))
    raise ModelError(
        f"{recipe.model} does not fit: its weights take {size_text(weights)}, {here.name} has "
        f"{size_text(here.free)} free; {would}"
    )


def fit_before(base: Base, recipe: Recipe, rows: Any, labels: Sequence[str], room: int | None = None) -> Fit | None:
    """How a step will fit beside the base, which is loaded. None where that cannot be told of the model or method."""
    shape = read_shape(Path(base.path))
    if shape is None or recipe.method not in ESTIMATED:
        return None
    here = machine_of(recipe, room)
    work = work_of(recipe, shape, _lengths(rows), here, len(labels))
    loaded = sum(p.numel() * p.element_size() for p in base.model.parameters())
    fit = Fit(recipe.model, shape, work, parts(shape, work), here, "", loaded=loaded)
    if fit.fits:
        return fit
    wanted = tuple(changes(shape, work, recipe, here.free + loaded))
    return replace(fit, changes=wanted, cards=None if wanted else cards(shape, work, here.free))


def warning(fit: Fit, name: str) -> Health:
    """What the run `name` says where a step will not fit: buttons for what is live, lines of a cell for the rest."""
    here = fit.machine
    said = (
        f"a step needs about {size_text(fit.needs - fit.loaded)} beside the base ({fit.work.length:,} tokens in "
        f"{fit.work.rows} rows), {here.name} has {size_text(here.free)} free; {what_would(fit.changes, fit.cards)}"
    )
    advice = [_button(change, name) for change in fit.changes if change.live]
    return Health(step=0, level="amber", said=said, advice=[*advice, *_ways_out(name)])


def what_would(found: Sequence[Change], devices: int | None) -> str:
    """What would let it fit, in a line."""
    if found:
        return "it would fit with " + ", or ".join(" and ".join(change.lines) for change in found)
    if devices is not None:
        return f"{devices} such devices that share a 4-bit base out between them (FSDP) would do; one does not"
    return "nothing in a recipe would let it fit: take a smaller model"


def _button(change: Change, name: str) -> Advice:
    return Advice(
        label=", ".join(f"{key.replace('_', ' ')} {value}" for key, value in change.settings.items()),
        command={"kind": "set", "changes": dict(change.settings)},
        cell=f"%ft set {name} {' '.join(f'{key}={value}' for key, value in change.settings.items())}",
    )


def _ways_out(name: str) -> list[Advice]:
    return [Advice(label=word, command={"kind": word}, cell=f"%ft {word} {name}") for word in ("pause", "stop")]


def _lengths(rows: Any) -> Lengths:
    """As `lengths_of`, for rows in a file too, of which there may be millions."""
    if not hasattr(rows, "data"):
        return lengths_of(rows)[0]
    import pyarrow.compute as pc

    table = rows.data
    names = [n for n in table.column_names if n.endswith("_ids")]
    sizes = {n: np.asarray(pc.list_value_length(table.column(n)).to_numpy(), np.int64) for n in names}
    answers = [sizes[n] for n in names if n in ("chosen_ids", "rejected_ids", "completion_ids")]
    whole = sizes["input_ids"] if "input_ids" in sizes else np.maximum.reduce(answers)
    whole = whole + sizes["prompt_ids"] if "prompt_ids" in sizes else whole
    longest, _ = lengths_of([rows[int(whole.argmax())]])
    return replace(longest, even=bool((whole == whole.max()).all()))
