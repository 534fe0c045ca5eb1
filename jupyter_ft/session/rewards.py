"""What a run is rewarded by: functions of the notebook, by their names, and reward runs, whose weights it keeps."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from types import CodeType, ModuleType
from typing import Any

from ..errors import AddressError, CheckpointError, RecipeError, RunFolderError
from ..launch.same_base import check_on_disk, run_of, take_along
from ..recipe import Recipe
from ..runs import RunFolder, copy_weights
from .stages import Parent, find_parent

Functions = dict[str, Callable[..., Any]]
"""Reward functions by name."""
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
"""What TRL gives a reward function beside the columns."""


def split(asked: Mapping[str, Any]) -> tuple[dict[str, Any], Functions]:
    """`asked` with names in the place of the functions and sessions under `rewards`, and those functions.

    Raises `RecipeError` for a function without a name, or two of one.
    """
    rewards = asked.get("rewards")
    if rewards is None:  # nothing stands after the key
        return {key: value for key, value in asked.items() if key != "rewards"}, {}
    if isinstance(rewards, str):
        return dict(asked), {}
    weights = dict(rewards) if isinstance(rewards, Mapping) else None
    given = list(rewards) if isinstance(rewards, Mapping | list | tuple | set) else [rewards]
    functions: Functions = {}
    names: list[str] = []
    for one in given:
        name = _name(one)
        if callable(one):
            if functions.get(name, one) is not one:
                raise RecipeError(f"rewards: two functions are called {name}; give them different names")
            functions[name] = one
        names.append(name)
    kept = names if weights is None else dict(zip(names, weights.values(), strict=True))
    return {**asked, "rewards": kept}, functions


def _name(one: Any) -> str:
    if isinstance(one, str):
        return one
    if hasattr(one, "run_folder"):  # a session
        return str(one.name)
    if not callable(one):
        raise RecipeError(f"rewards: {one!r:.60} is no function and no run; give a function, or RUN@best")
    inner = getattr(one, "func", one)  # of a partial
    name = str(getattr(inner, "__name__", type(inner).__name__))
    if not name.isidentifier():
        raise RecipeError(f"rewards: a function needs a name, and this is {name}; write def brevity(completions): …")
    return name


def find_judges(recipe: Recipe, functions: Functions, *, save: bool) -> dict[str, Parent]:
    """The reward runs among the rewards. Raises `RecipeError` for a name that is neither such a run nor a function.

    With `save` also `ModelError` where the model below one has changed since it learned.
    """
    found = {}
    for name in recipe.rewards:
        if name in functions:
            continue
        try:
            judge = find_parent(name, save=save)
        except (AddressError, CheckpointError):
            if "@" in name:
                raise
            judge = None
        except RunFolderError:
            judge = None
        if judge is None:
            raise RecipeError(
                f"rewards: there is no function '{name}' in the notebook and no run of that name; run the cell that "
                "defines it first, or name a reward run (RUN or RUN@best)"
            )
        if judge.recipe.method != "reward":
            raise RecipeError(
                f"rewards: '{name}' learned by {judge.recipe.method}, so it gives no scores; name a run of "
                "method: reward"
            )
        if save:
            check_on_disk(run_of(judge.folder), judge.recipe)
        found[name] = judge
    return found


def check_columns(functions: Functions, columns: Collection[str]) -> None:
    """Raises `RecipeError` where a function cannot do without a column that the rows do not have."""
    for name, function in functions.items():
        try:
            wanted = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # written in C: it shows at the first step
            continue
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        lacking = [one.name for one in wanted if one.kind in named and one.default is one.empty]
        lacking = [one for one in lacking if one not in {*GIVEN, *columns}]
        if lacking:
            there = ", ".join([*GIVEN[:2], *columns])
            raise RecipeError(
                f"rewards: {name} wants '{lacking[0]}', and the rows have no such column; there are {there}: add the "
                "column, or give the parameter a default"
            )


def keep(folder: RunFolder, recipe: Recipe, functions: Functions, judges: Mapping[str, Parent]) -> dict[str, Any]:
    """Copy the judges' weights into a run's folder; what its record says of each reward. Raises `OSError`."""
    about: dict[str, Any] = {}
    for number, name in enumerate(recipe.rewards):
        if name in judges:
            judge, place = judges[name], f"rewards/{number}"
            (folder.path / place).parent.mkdir(exist_ok=True)
            copy_weights(judge.folder, folder.path / place)
            take_along(judge.folder, folder.path / place)
            asked = judge.recipe.model_dump(mode="json", exclude={"hyperparameters"})
            asked |= judge.recipe.hyperparameters.model_dump(mode="json")
            about[name] = judge.about() | {"folder": place, "recipe": asked}
        else:
            about[name] = written(functions[name])
    return about


def written(function: Callable[..., Any]) -> dict[str, Any]:
    """A function as a record keeps it: its text, and the lines that import what it takes from other modules."""
    return {"source": source_of(function), "imports": imports_of(function)}


def imports_of(function: Callable[..., Any]) -> list[str]:
    """What a function takes from modules that its notebook has imported, as lines of import."""
    inner = getattr(function, "func", function)
    around, codes = getattr(inner, "__globals__", {}), [getattr(inner, "__code__", None)]
    lines: dict[str, None] = {}
    while codes:
        code = codes.pop()
        for name in getattr(code, "co_names", ()):
            found = around.get(name)
            if isinstance(found, ModuleType):
                lines[f"import {found.__name__} as {name}"] = None
            elif isinstance(where := getattr(found, "__module__", None), str) and where in sys.modules:
                there = getattr(found, "__name__", name)
                if where != inner.__module__ and getattr(sys.modules[where], there, None) is found:
                    lines[f"from {where} import {there} as {name}"] = None
        codes += [one for one in getattr(code, "co_consts", ()) if isinstance(one, CodeType)]
    return list(lines)


def source_of(function: Callable[..., Any]) -> str:
    """The text of a function, where it can be had; `%ft replay` writes it into its script."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


def renew(functions: Functions) -> list[str]:
    """Put the newest definition in the place of each function whose cell was run again; what there is to say of it."""
    said = []
    for name, function in functions.items():
        newest = getattr(function, "__globals__", {}).get(name)
        if callable(newest) and newest is not function:
            functions[name] = newest
            said.append(f"the reward function {name} was defined again; the new one counts from here on")
    return said


def given_again(run: str, recipe: Recipe, rewards: object) -> Functions:
    """The functions in `rewards`, as `finetune` takes them. `RecipeError` for one that the run is not rewarded by."""
    functions = split({"rewards": rewards})[1]
    unknown = next((name for name in functions if name not in recipe.rewards), None)
    if unknown is not None:
        known = ", ".join(recipe.rewards) or "none"
        raise RecipeError(f"rewards: '{run}' has no reward '{unknown}'; it has: {known}")
    return functions


def missing(folder: RunFolder, recipe: Recipe, functions: Mapping[str, Any]) -> str:
    """What a run lacks of its rewards to go on with, and the fix; empty where it lacks nothing."""
    lacks = [name for name in recipe.rewards if name not in functions and folder.judge(name) is None]
    if not lacks:
        return ""
    what, it = ("reward function", "it") if len(lacks) == 1 else ("reward functions", "them")
    return (
        f"the {what} {', '.join(lacks)} cannot be read from the run folder: define {it} again, then "
        f"%ft resume {folder.name} (in Python: session.resume(rewards=[{', '.join(lacks)}]))"
    )


def placeholder(completions: list[Any], **_: Any) -> list[float]:
    """In the place of a reward where rows are only looked at."""
    return [0.0] * len(completions)
