"""The rewards of a run as TRL calls them: functions of the notebook, and reward models of earlier runs.

A function is called as TRL calls it (`prompts`, `completions`, `completion_ids`, and each column of the rows), with
those that it takes; it gives one number for each answer. Where it raises, hangs or gives something else, the run waits
before that step (`control.memory`), with nothing lost.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..base_files import changed
from ..control.lease import LEASE
from ..data import judged_ids
from ..errors import RewardFailed
from ..event_log import EventLog
from ..heads import scoring_model
from ..messages import Logged, Progress, Stop
from ..models import POOL, Base, with_adapter
from ..recipe import parse_recipe
from ..sampling.twin import load
from ..worker import Left, Worker
from .running import one_line
from .same_base import check_base, noted_in

if TYPE_CHECKING:
    from .job import Job

Functions = MutableMapping[str, Callable[..., Any]]
"""Reward functions by name."""
_SHOWN = 3  # frames of a function's traceback that are logged


def rewards_of(job: Job, base: Base) -> list[Reward | Judge]:
    """The rewards of the recipe, in its order; reward models share the storage of `base` where they are of its model.

    Raises `RewardFailed` where a function is not there.
    """
    plain = bool(job.examples.rows[0].get("plain"))
    worker = Worker(f"jupyter-ft {job.folder.name} rewards", lambda level, text: _say(job.log, level, text))
    found: list[Reward | Judge] = []
    for name in job.recipe.rewards:
        judge = job.folder.judge(name)
        if judge is not None:
            found.append(Judge(name, *judge, among=job, base=base))
        elif name in job.rewards:
            found.append(Reward(name, among=job, worker=worker, plain=plain))
        else:
            raise RewardFailed(f"the reward function '{name}' is not there: {how_to_give(name, job.folder.name)}")
    return found


def how_to_give(name: str, run: str) -> str:
    """What a person does to give a run its reward function again."""
    return f"run the cell that defines it, then %ft resume {run} (in Python: session.resume(rewards=[{name}]))"


def _say(log: EventLog, level: Any, text: str) -> None:
    log.append(Logged(level=level, text=text[:4000]))


class Reward:
    """A function of the user's. `plain`: the prompts were written as text, and so are the answers that it is given."""

    def __init__(self, name: str, *, among: Job, worker: Worker, plain: bool) -> None:
        live: Any = among.recipe.hyperparameters
        self.__name__, self.timeout = name, live.reward_timeout
        self._functions, self._inbox, self._log = among.rewards, among.inbox, among.log
        self._worker, self._plain, self._alone = worker, plain, len(among.recipe.rewards) == 1
        self._warned = False

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[list[int]], **more: Any
    ) -> list[float | None]:
        """One number for each answer (None: this reward says nothing of it). Raises `RewardFailed`."""
        function = self._functions[self.__name__]
        if self._plain:
            prompts, completions = [_asked(prompt) for prompt in prompts], [_said(answer) for answer in completions]
        given = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **more}
        try:
            found = self._worker.run(lambda: _called(function, given), self._why_leave)
        except Left as why:
            raise RewardFailed(f"the reward function '{self.__name__}' {why}") from None
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
            text = "".join(traceback.format_list(_own_frames(error)))
            _say(self._log, "error", f"{self.__name__}: {one_line(error)}\n{text}".strip())
            raise RewardFailed(
                f"the reward function '{self.__name__}' raised {one_line(error)}{_line_of(error)}; mend it and run "
                "its cell again"
            ) from None
        return self._checked(found, len(completions))

    def rest(self) -> None:
        """No call will come any more."""
        self._worker.rest()

    def _why_leave(self, seconds: float) -> str:
        if self._inbox.holds(Stop):
            return f"was left after {seconds:.0f} s, since the run is to stop"
        if seconds > self.timeout:
            return f"has not returned in {self.timeout:g} s and was left; make it quicker, or set reward_timeout"
        if seconds > self.timeout / 4 and not self._warned:
            self._warned = True
            _say(
                self._log, "warning", f"waiting for the reward function '{self.__name__}' ({self.timeout:g} s at most)"
            )
        return ""

    def _checked(self, found: Any, count: int) -> list[float | None]:
        """`found` as numbers, where it is one for each of `count` answers."""
        wrong = f"the reward function '{self.__name__}' gave"
        wanted = f"; give a list of {count} numbers, one for each answer"
        if hasattr(found, "tolist"):  # an array or a tensor
            found = found.tolist()
        if not isinstance(found, list | tuple):
            raise RewardFailed(f"{wrong} {'nothing' if found is None else f'a {type(found).__name__}'}{wanted}")
        if len(found) != count:
            raise RewardFailed(f"{wrong} {len(found)} rewards for {count} answers{wanted}")
        return [self._number(value, at, wrong, wanted) for at, value in enumerate(found, 1)]

    def _number(self, value: Any, at: int, wrong: str, wanted: str) -> float | None:
        if value is None and not self._alone:
            return None
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
        shown = repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"
        raise RewardFailed(f"{wrong} {shown} for answer {at}{wanted}")


def _called(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What `function` gives, for those of `given` that it takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say
        parameters = ()  # type: ignore[assignment]
    takes_all = not parameters or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    found = function(**(given if takes_all else {one.name: given[one.name] for one in parameters if one.name in given}))
    return asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found


async def _awaited(found: Any) -> Any:
    return await found


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The last frames of what was raised, from the user's function on."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if frame.filename != __file__ and not frame.filename.endswith("worker.py")][
        -_SHOWN:
    ]


def _line_of(error: BaseException) -> str:
    frames = _own_frames(error)
    return f" (line {frames[0].lineno} of its cell or file)" if frames else ""


def _asked(prompt: Any) -> str:
    """What the user wrote: the last turn of theirs, or the text as it is."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _said(answer: Any) -> str:
    return answer if isinstance(answer, str) else str(answer[0]["content"])


class Judge:
    """A reward model of an earlier run: its own adapter and head, over the storage of the base."""

    def __init__(self, name: str, folder: Path, about: Mapping[str, Any], *, among: Job, base: Base) -> None:
        self.__name__, self.timeout = name, math.inf
        theirs, recipe, log, noted = parse_recipe(about["recipe"]), among.recipe, among.log, noted_in(folder)
        of_base = ("model", "revision", "dtype", "quantization")
        if any(getattr(theirs, name) != getattr(recipe, name) for name in of_base) or changed(
            noted.get("files", {}), base.files
        ):
            base = POOL.get(
                theirs.model,
                revision=noted.get("commit") or theirs.revision,
                dtype=theirs.dtype,
                quantization=theirs.quantization,
                turn=LEASE,
                report=lambda what, done, total: log.append(Progress(what=what, done=done, total=total)),
            )
        check_base(folder, theirs.model, base.files, name)
        with LEASE, torch.random.fork_rng(devices=[]):  # another run may be drawing in the middle of a step
            model = scoring_model(base, ())
            model = with_adapter(model, theirs) if theirs.adapter.kind != "full" else copy.deepcopy(model)
        load(model, folder)
        self._base, self._model = base, model.requires_grad_(False).eval()  # the pool forgets a base nobody holds
        self._tokenizer, self._most = base.new_tokenizer(), theirs.max_length

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        """The score of each exchange, as the reward run scores one; of a longer one, of its last tokens."""
        told = [_turns(prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
        ids = [judged_ids(self._tokenizer, turns)[-self._most :] for turns in told]
        longest = max(map(len, ids))
        pad, device = self._tokenizer.pad_token_id, self._model.device
        rows = torch.tensor([one + [pad] * (longest - len(one)) for one in ids], device=device)
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids], device=device)
        dtype = self._model.get_input_embeddings().weight.dtype
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores: list[float] = self._model(input_ids=rows, attention_mask=mask).logits[:, 0].float().tolist()
        return scores

    def rest(self) -> None:
        """No call will come any more."""


def _turns(prompt: Any, answer: Any) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [*asked, {"role": "assistant", "content": _said(answer)}]
