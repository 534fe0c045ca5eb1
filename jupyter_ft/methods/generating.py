"""What grpo and rloo share: TRL's trainers that have answers generated, rewarded, and learned from.

The reference is what the run began with: TRL copies the adapter that it is given; with full weights it would load the
base from disk once more, and is given the one that is there. With `beta` 0 there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.utils import add_fused_lm_head

from ..data import render_prompts
from ..data.prompts import rows_for_trainer
from ..errors import RecipeError
from ..hyperparameters import PolicyHyperparameters
from ..recipe import Recipe
from ..weights import to_train
from .dpo import reference
from .method import Method, arguments, dataset, hush, quiet_trl

Reward = Callable[..., list[float]]
"""A reward by TRL's signature; with a `__name__`, and a `timeout` in seconds that can be set."""
_EVALUATED = 2  # answers to each held-out prompt; rloo compares at least two


def build(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    rows: Any,
    folder: Path,
    *,
    held_out: Any = None,
    start: Path | None = None,
    rewards: Sequence[Reward],
    kind: tuple[type, type],
) -> Any:
    """A trainer, of the `kind` (its class and its configuration's), over prompts, that has not begun.

    Raises `RecipeError` where TRL does not take what is under `trainer:`, or there are too few prompts.
    """
    live, full = recipe.hyperparameters, recipe.adapter.kind == "full"
    assert isinstance(live, PolicyHyperparameters)
    if wrong := live.geometry.too_few(len(rows)):
        raise RecipeError(wrong)
    asked: Any = recipe.trainer.get("num_generations_eval")
    each = int(asked or _EVALUATED)
    own = {name: getattr(live, name) for name in ("num_generations", "num_iterations", "max_completion_length")}
    own |= {
        "steps_per_generation": live.geometry.steps,
        "temperature": live.temperature,
        "epsilon": live.epsilon,
        "reward_weights": list(live.reward_weights),
        "beta": 0.0 if full else live.beta,  # type: ignore[attr-defined]
        "num_generations_eval": each,
        "per_device_eval_batch_size": max(1, live.batch_size // each) * each,
    }
    trainer_class, config_class = kind
    config = arguments(config_class, recipe, folder, model, **own)
    policy = to_train(model, recipe, start)
    with quiet_trl():
        trainer = trainer_class(
            model=policy,
            reward_funcs=list(rewards),
            args=config,
            train_dataset=_prompts(rows),
            eval_dataset=_prompts(held_out) if held_out is not None else None,
            processing_class=tokenizer,
        )
    if full and live.beta:  # type: ignore[attr-defined]
        _refer(trainer, reference(model, start), live.beta)  # type: ignore[attr-defined]
    hush(trainer)
    return trainer


def _prompts(rows: Any) -> Dataset:
    return dataset(rows).with_transform(rows_for_trainer)


def _refer(trainer: Any, model: Any, beta: float) -> None:
    """What TRL does with the reference that it loads."""
    add_fused_lm_head(model, temperature=trainer.temperature)
    trainer.ref_model = trainer.accelerator.prepare_model(model, evaluation_mode=True)
    trainer.beta = trainer.args.beta = beta


# --- what is live -----------------------------------------------------------------------------------------------------


def _set_temperature(trainer: Any, value: float) -> None:
    """Sample with it, and score with it: TRL's fused head has been given the one that it was built with."""
    if trainer.temperature == value:
        return
    trainer.temperature = trainer.generation_config.temperature = trainer.generation_kwargs["temperature"] = value
    for model in (trainer.model, trainer.ref_model):
        if model is not None:
            causal = model.get_base_model() if hasattr(model, "get_base_model") else model
            cell = _temperature_cell(causal.forward)
            if cell is None:
                raise RecipeError("temperature: TRL's loss head here is another than the one that is known")
            cell.cell_contents = value


def _temperature_cell(forward: Any) -> Any:
    """Where TRL's `_fused_forward` keeps its temperature; accelerate may have wrapped it (mixed precision)."""
    waiting, seen = [forward], set()
    while waiting:
        function = waiting.pop()
        function = getattr(function, "model_forward", function)  # accelerate's ConvertOutputsToFp32
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)
        if code is None or id(function) in seen:
            continue
        seen.add(id(function))
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        if "fused_lm_head" in code.co_varnames and "temperature" in cells:
            return cells["temperature"]
        waiting += [cell.cell_contents for cell in cells.values() if callable(cell.cell_contents)]
    return None


def _set_weights(trainer: Any, value: Sequence[float]) -> None:
    trainer.reward_weights = torch.tensor(value, dtype=torch.float32)


def _set_epsilon(trainer: Any, value: float) -> None:
    trainer.epsilon_low = value
    if trainer.args.epsilon_high is None:
        trainer.epsilon_high = value


def _set_timeout(trainer: Any, value: float) -> None:
    for reward in trainer.reward_funcs:
        reward.timeout = value


LIVE: Mapping[str, Callable[[Any, Any], None]] = {
    "beta": lambda trainer, value: setattr(trainer, "beta", value),
    "temperature": _set_temperature,
    "reward_weights": _set_weights,
    "epsilon": _set_epsilon,
    "reward_timeout": _set_timeout,
}


def policy(name: str) -> Method:
    """The method whose trainer is TRL's `NAMETrainer`, imported when one is built: it looks for IPv6 at its import."""

    def build_it(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, **more: Any) -> Any:
        import trl

        kind = getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")
        return build(model, tokenizer, recipe, rows, folder, kind=kind, **more)

    return Method(
        render=render_prompts,
        build=build_it,
        headline=("reward", "kl", "completions/mean_length"),
        generates=True,
        live=LIVE,
        judged_by="max eval_reward",
    )
