"""Metrics of answers: held-out rows answered by the weights of an evaluation, and what functions say of the answers.

A function of the user is called as `f(prompts, predictions, references, **columns)`, lists of one text a row (the last
that was asked, the answer, the answer that is right); of the columns it gets those that it takes: `answers`, all that
are right of each row, and `system`. It gives a number, or a dict of them by name. What goes wrong in it is said, once,
and the run goes on.
"""

from __future__ import annotations

import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..data import Example, Format, answers, asked, chat_ids, spread
from ..errors import RecipeError
from ..event_log import EventLog
from ..messages import Logged, Progress
from ..recipe import Recipe
from ..worker import Left, Worker
from .chat import with_system
from .squad import BUILT_IN, over

if TYPE_CHECKING:
    from ..data import Examples

MOST_TOKENS = 256  # of an answer; twice the longest right one and a few more where that is less
MOST_SECONDS = 60.0  # that a metric of the user's may take: every run of the kernel waits for it
BATCH = 8  # rows answered together
Functions = Mapping[str, Callable[..., Any]]


def check_answered(examples: Examples) -> None:
    """Raises `RecipeError` where rows have no answers that others could be compared with."""
    if len(examples.rows) and not answers(examples.rows[0]):
        raise RecipeError("metrics: they measure answers, and these rows are texts without any; leave metrics out")


class Metrics:
    """What is measured at each evaluation of a run, on `metric_rows` of the rows held out."""

    def __init__(
        self, recipe: Recipe, held_out: Examples, tokenizer: Any, *, log: EventLog, stops: Callable[[], bool]
    ) -> None:
        self._names, self._functions, self._stops = recipe.metrics, dict(recipe.functions), stops
        self._worker = Worker("jupyter-ft metrics", lambda level, text: _say(log, level, text))
        self._tokenizer, self._log, self._complained = tokenizer, log, set[str]()
        rows = spread(held_out, recipe.metric_rows)
        turns = [asked(row) for row in rows]
        self._prompts = [conversation[-1]["content"] for conversation in turns]
        self._answers = [answers(row) for row in rows]
        self._columns: dict[str, Sequence[Any]] = {
            "answers": self._answers,
            "system": [_system(row, recipe.system) for row in rows],
        }
        self._ids = [_ids(tokenizer, with_system(one, recipe.system), held_out.format) for one in turns]
        longest = max(len(tokenizer(texts[0], add_special_tokens=False)["input_ids"]) for texts in self._answers)
        self._most = min(MOST_TOKENS, 2 * longest + 16)

    def measure(self, model: Any) -> dict[str, float]:
        """`eval_<name>` of each metric, by the weights of `model`, which is as nobody had asked it afterwards."""
        from .generate import answer_all

        found: list[str] = []
        try:
            for start in range(0, len(self._ids), BATCH):
                self._log.append(Progress(what="answering held-out rows", done=start, total=len(self._ids)))
                found += answer_all(model, self._tokenizer, self._ids[start : start + BATCH], self._most)
        except RuntimeError as error:  # out of memory, say
            self._complain(f"metrics: the held-out rows could not be answered ({_one_line(error)})")
            return {}
        measured: dict[str, float] = {}
        for name in self._names:
            measured |= self._called(name, found)
        return measured

    def _called(self, name: str, predictions: list[str]) -> dict[str, float]:
        if name in BUILT_IN:
            return {f"eval_{name}": over(BUILT_IN[name], predictions, self._answers)}
        function = self._functions.get(name)
        if function is None:
            self._complain(f"metric {name}: this kernel does not have the function; resume from the cell that names it")
            return {}
        references = [texts[0] for texts in self._answers]
        try:
            asked_with = list(self._prompts), list(predictions), references
            taken = _taken(function, self._columns)
            given = self._worker.run(lambda: function(*asked_with, **taken), self._why_leave)
            values = given if isinstance(given, Mapping) else {name: given}
            numbers = {f"eval_{key}": float(value) for key, value in values.items()}
        except Left as why:
            self._names = tuple(other for other in self._names if other != name)  # it would hold each evaluation up
            self._complain(f"metric {name} {why}; it is left out from here on")
            return {}
        except Exception as error:  # noqa: BLE001 - it is the user's, and no reason to end a run
            self._complain(f"metric {name} failed: {_one_line(error)}{_line_of(error)}; it is left out")
            return {}
        for key in [key for key, value in numbers.items() if not math.isfinite(value)]:
            self._complain(f"metric {name} gave {numbers.pop(key)} as {key}; it is left out")
        return numbers

    def _why_leave(self, seconds: float) -> str:
        if self._stops():
            return f"was left after {seconds:.0f} s, since the run is to stop"
        return f"has not returned in {seconds:.0f} s and was left" if seconds > MOST_SECONDS else ""

    def rest(self) -> None:
        """No evaluation will come any more."""
        self._worker.rest()

    def _complain(self, said: str) -> None:
        if said not in self._complained:
            self._complained.add(said)
            self._log.append(Logged(level="warning", text=said, heed=True))


def _say(log: EventLog, level: Any, text: str) -> None:
    log.append(Logged(level=level, text=text[:4000]))


def _ids(tokenizer: Any, messages: list[dict[str, str]], trained_on: Format) -> list[int]:
    return chat_ids(tokenizer, messages, trained_on)


def _system(row: Example, otherwise: str | None) -> str | None:
    turns = asked(row)
    return turns[0]["content"] if turns[0]["role"] == "system" else otherwise


def _taken(function: Callable[..., Any], columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Those of the columns that `function` takes."""
    with suppress(TypeError, ValueError):  # of some callables it is not known
        takes = inspect.signature(function).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
            return {name: column for name, column in columns.items() if name in takes}
    return dict(columns)


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def _line_of(error: BaseException) -> str:
    """Where in the user's own code it was; nowhere, where it could not even be called."""
    frames = traceback.extract_tb(error.__traceback__ or sys.exc_info()[2])
    theirs = len(frames) > 1 and frames[-1].filename != __file__
    return f" (line {frames[-1].lineno} of {frames[-1].name})" if theirs else ""
