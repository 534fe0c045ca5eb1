"""A look at rows as a model would see them, before anything is trained, and at those that a run has."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data import Examples, Rendered, Report, hold_out, labels_of
from ..data.figures import TokenRows
from ..data.look import ExampleRows, Look, Overview, Rows, TrainerRows, overview
from ..data.pieces import special_tokens
from ..data.windows import MASKED
from ..errors import DataError
from ..hyperparameters import METHOD_WORDS, REWARDED
from ..recipe import Recipe
from .rewards import placeholder
from .start import plan

MOST_MEASURED = 10_000  # rows of a side that are tokenised for the figures, unless all are asked for
TRAIN, HELD_OUT, PACKED = "tokens.arrow", "held_out.arrow", "packed.arrow"

Renderer = Callable[..., Rendered]


def tokenizer_of(recipe: Recipe) -> Any:
    """A tokenizer of one's own for the model of a recipe; no weights are loaded. `ModelError` where there is none."""
    from ..models import load_tokenizer

    return load_tokenizer(recipe.model, recipe.revision, lambda *_: None)


# --- before a run -----------------------------------------------------------------------------------------------------


def look_at(
    data: object,
    model: str | None,
    recipe: Mapping[str, Any],
    *,
    every: bool = False,
    progress: Report | None = None,
) -> Look:
    """The rows of `data` as `model` would see them under `recipe`, and figures over them.

    The figures are of the first `MOST_MEASURED` rows to train on and held out, or of all where `every` is set. Raises
    `RecipeError`, `DataError` or `ModelError` as `finetune` does; where it would refuse because nothing is left to
    train, the rows are shown and that is said.
    """
    method = str(recipe.get("method", ""))
    unrewarded = {"rewards": placeholder} if METHOD_WORDS.get(method, method) in REWARDED else {}
    checked, examples, *_ = plan(model, data, {**recipe, **unrewarded}, progress, to_start=False)
    train, apart = hold_out(examples, checked.held_out, checked.columns, checked.seed, checked.method)
    drawn = apart is not None and not isinstance(checked.held_out, str)
    tokenizer = tokenizer_of(checked)
    render = _renderer(checked, tokenizer, train, apart)
    said = [examples.said, *examples.notes, *([apart.said] if apart is not None else [])]
    beware = _special_inside(examples, tokenizer)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        measured = partial(_measured, render=render, most=None if every else MOST_MEASURED)
        try:
            side = measured(train, file=Path(folder) / TRAIN)
            held_out = apart and measured(apart, file=Path(folder) / HELD_OUT)
        except DataError as error:
            rows = ExampleRows(examples, render, tokenizer, checked.max_length)
            return Look(Overview(_title(examples.name, checked), tuple(said), (*beware, str(error))), rows)
        told = overview(
            _title(examples.name, checked),
            [*said, side.rendered.said],
            side.tokens,
            held_out.tokens if held_out else None,
            checked.max_length,
            dropped=side.rendered.dropped,
            left_out=side.rendered.left_out,
            truncated=side.rendered.truncated,
            beware=beware,
            by_token=_by_token(checked, side.rendered.said),
            of_first=0 if every or len(train.rows) <= MOST_MEASURED else MOST_MEASURED,
        )
        if checked.packing:
            return _packed(told, side.tokens, tokenizer, checked.max_length)
        if checked.method == "cpt":  # a window is no row of the user's
            return Look(told, TrainerRows(_in_memory(side.tokens), tokenizer, checked.max_length))
    held = frozenset(map(int, () if apart is None or apart.numbers is None or not drawn else apart.numbers))
    dropped = side.rendered.dropped
    return Look(told, ExampleRows(examples, render, tokenizer, checked.max_length, held_out=held, dropped=dropped))


def _by_token(recipe: Recipe, rendered: str) -> bool:
    return recipe.method != "classification" and MASKED not in rendered


def _title(name: str, recipe: Recipe) -> str:
    model = Path(recipe.model)
    return f"{name} · {recipe.method} · {model.name if model.is_absolute() else model}"


def _renderer(recipe: Recipe, tokenizer: Any, train: Examples, apart: Examples | None) -> Renderer:
    from ..methods import method_of
    from ..models import does_speak

    more = {"labels": labels_of(train, apart)} if recipe.method == "classification" else {}
    speaks = recipe.method != "cpt" or does_speak(recipe.model, recipe.revision, lambda *_: None)
    method = method_of(recipe, speaks)

    def render(examples: Examples, max_length: int = recipe.max_length, file: Path | None = None) -> Rendered:
        return method.render(examples, tokenizer, system=recipe.system, max_length=max_length, file=file, **more)

    return render


def _special_inside(examples: Examples, tokenizer: Any) -> list[str]:
    """What there is to say of rows whose own text holds special tokens: the model takes them for the real ones."""
    tokens = [token for token in special_tokens(tokenizer).values() if len(token) > 1]
    found: list[tuple[int, str]] = []
    for number, row in enumerate(examples.rows[:MOST_MEASURED], 1):
        text = json.dumps(row, ensure_ascii=False)
        found += [(number, token) for token in tokens if token in text][:1]
    if not found:
        return []
    number, token = found[0]
    holds = "row holds" if len(found) == 1 else "rows hold"
    return [f"{len(found):,} {holds} special tokens in the text, which count as real ones (row {number}: {token})"]


class _Side(NamedTuple):
    """The rows of one side as they were rendered."""

    rendered: Rendered
    tokens: TokenRows


def _measured(part: Examples, *, render: Renderer, most: int | None, file: Path) -> _Side:
    some = part if most is None else replace(part, rows=part.rows[:most], numbers=_first(part.numbers, most))
    rendered = render(some, file=file)
    return _Side(rendered, TokenRows(file, np.array(rendered.numbers, np.int64)))


def _first(numbers: NDArray[np.int64] | None, most: int) -> NDArray[np.int64] | None:
    return None if numbers is None else numbers[:most]


def _in_memory(tokens: TokenRows) -> list[Any]:
    return [tokens[at] for at in range(len(tokens))]


def _packed(told: Overview, tokens: TokenRows, tokenizer: Any, max_length: int) -> Look:
    from ..methods.packing import pack

    rows, said = pack(_in_memory(tokens), max_length)[:2]
    return Look(replace(told, said=(*told.said, said)), TrainerRows(rows, tokenizer, max_length))


# --- of a run ---------------------------------------------------------------------------------------------------------


def rows_are_there(folder: Path) -> bool:
    """Whether the rows of the run in `folder` have been tokenised."""
    return (folder / "data" / TRAIN).with_suffix(".json").is_file()


def sides_of(folder: Path) -> list[str]:
    """`train`, and `held out` where rows are."""
    return ["train", *(["held out"] if (folder / "data" / HELD_OUT).is_file() else [])]


def look_at_run(name: str, folder: Path, recipe: Recipe, tokenizer: Any, side: str = "train") -> Look:
    """The rows that the trainer of a run has (packed ones, where they are), or those held out, and figures over them.

    Read from the run folder; the run may be training meanwhile. Raises `DataError` where they are not there (yet).
    """
    if recipe.method == "attached":
        raise DataError(f"the rows of '{name}' are those of the trainer that was attached: trainer.train_dataset")
    if not rows_are_there(folder):
        raise DataError(f"the rows of '{name}' are not tokenised yet")
    data = folder / "data"
    train = _kept(data / TRAIN)
    held_out = _kept(data / HELD_OUT) if "held out" in sides_of(folder) else None
    about = json.loads((data / TRAIN).with_suffix(".json").read_text(encoding="utf-8"))
    told = overview(
        _title(name, recipe),
        about["said"],
        train,
        held_out,
        recipe.max_length,
        dropped=[(number, why) for number, why in about["dropped"]],
        left_out=about["left_out"],
        truncated=about["truncated"],
        by_token=_by_token(recipe, about["said"][-1]),
    )
    rows, state = (train, "train") if side == "train" or held_out is None else (held_out, "held out")
    if recipe.packing and state == "train" and (data / PACKED).is_file():
        rows = TokenRows(data / PACKED)
    shown: Rows = TrainerRows(rows, tokenizer, recipe.max_length, state)
    return Look(told, shown)


def _kept(file: Path) -> TokenRows:
    numbers = np.load(file.with_suffix(".npy"), allow_pickle=False)
    rows = TokenRows(file, numbers)
    return rows if len(rows) == len(numbers) else TokenRows(file)  # being written again, by a run that goes on
