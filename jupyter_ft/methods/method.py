"""What a method of training is, and what the methods share: the recipe in transformers' words, and a quiet trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub import constants
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, TrainingArguments
from transformers.utils.notebook import NotebookProgressCallback

from ..data import Rendered
from ..data.render import UNTRAINED
from ..errors import RecipeError
from ..hyperparameters import HF_SCHEDULES
from ..recipe import Recipe
from ..weights import to_train
from .optimizer import on_device

_CHECKPOINTING = (  # its name up to transformers 5.2x, and since
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)


@dataclass(frozen=True)
class Method:
    """A way of training.

    `render(examples, tokenizer, system=…, max_length=…, progress=…, file=…)` gives the rows for
    `build(model, tokenizer, recipe, rows, folder, held_out=…, start=…)`, which gives a trainer that has not begun;
    `start` is a folder with the weights of another run to begin with. `live` says what a change of each live field of
    its own means to that trainer. `headline` are the metrics to look at first. With `scores` the model is one that
    scores (`heads.scoring_model`), whose labels the rows tell: `render` is given `labels=…` where they have some. With
    `masks` it guesses masked tokens (`heads.masked_model`). One that `generates` learns from rewards for answers of its
    own: `build` is given `rewards=…`. `judged_by` is the metric by which a step is the best, as `best_metric` has it.
    """

    render: Callable[..., Rendered]
    build: Callable[..., Any]
    headline: tuple[str, ...]
    scores: bool = False
    masks: bool = False
    generates: bool = False
    judged_by: str = "eval_loss"
    live: Mapping[str, Callable[[Any, Any], None]] = field(default_factory=lambda: MappingProxyType({}))


def arguments(config: type, recipe: Recipe, folder: Path, model: Any, **own: Any) -> Any:
    """The recipe as a `config` of TRL's or transformers', with the method's `own` fields.

    Raises `RecipeError` where it does not take what is under `trainer:`.
    """
    live, weight = recipe.hyperparameters, next(model.parameters())
    shared: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "learning_rate": live.learning_rate,
        "lr_scheduler_type": HF_SCHEDULES[live.schedule],
        "warmup_steps": live.warmup_steps,
        "weight_decay": live.weight_decay,
        "max_grad_norm": live.max_grad_norm,
        "per_device_train_batch_size": live.batch_size,
        "per_device_eval_batch_size": live.batch_size,
        "gradient_accumulation_steps": live.accumulation,
        "num_train_epochs": live.epochs,
        "max_steps": live.max_steps or -1,
        "use_cpu": weight.device.type == "cpu",  # without it transformers refuses bf16 there
        "bf16": weight.dtype == torch.bfloat16,
        "fp16": weight.dtype == torch.float16,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        _CHECKPOINTING: False,
    }
    passed = dict(recipe.trainer)
    if "optim" in passed:
        passed["optim"] = on_device(str(passed["optim"]), weight.device)
    try:
        made = config(**(shared | own | passed))
    except (TypeError, ValueError) as error:  # a key that it does not have, or values that it does not take together
        raise RecipeError(f"trainer: {str(error).strip().splitlines()[0]}") from error
    if made.n_gpu > 1:  # TRL refuses several devices in one process; the first is used
        made._n_gpu = 1
    return made


@contextmanager
def quiet_trl() -> Iterator[None]:
    """TRL tells the hub of each trainer that is made (`_BaseTrainer._send_telemetry`) and shows a bar for each sample.

    Inside here it does not: a bar is a widget, and would land in whatever cell is running.
    """
    telemetry, bars = constants.HF_HUB_DISABLE_TELEMETRY, not are_progress_bars_disabled()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        if bars:
            enable_progress_bars()


def hush(trainer: Any) -> None:
    """Take away the callbacks that print."""
    for noisy in (PrinterCallback, NotebookProgressCallback):
        trainer.remove_callback(noisy)


def dataset(rows: Any) -> Dataset:
    """`rows` as a `datasets.Dataset`, which they may be already."""
    return rows if isinstance(rows, Dataset) else Dataset.from_list(list(rows))


def trainer_of(
    kind: type,
    config: Any,
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    recipe: Recipe,
    held_out: Any = None,
    start: Path | None = None,
    **more: Any,
) -> Any:
    """A quiet trainer of that `kind` over `rows`, on what the recipe trains of `model`; `more` is the kind's own.

    `held_out` rows are for its `evaluate`; `start` is a folder with the weights of another run to begin with.
    """
    with quiet_trl():
        trainer = kind(
            model=to_train(model, recipe, start),
            args=config,
            train_dataset=dataset(rows),
            eval_dataset=dataset(held_out) if held_out is not None else None,
            processing_class=tokenizer,
            **more,
        )
    hush(trainer)
    return trainer


def mean_by_items(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """The cross-entropy of all that has a label, by the `num_items_in_batch` of the step (None: by those here).

    A model's own is a mean, which transformers 5.23 takes for this one and so adds up where a step is accumulated: of
    two micro-batches the gradient would be twice as large.
    """
    logits, wanted = outputs["logits"], labels.view(-1)
    items = num_items_in_batch if num_items_in_batch is not None else (wanted != UNTRAINED).sum()
    loss = cross_entropy(logits.view(-1, logits.shape[-1]), wanted, reduction="sum")
    return loss / (items if isinstance(items, int) else items.clamp(min=1))  # no token of a short row may be masked


def attribute(name: str) -> Callable[[Any, Any], None]:
    """A live field that the trainer reads from an attribute of that name at each step."""
    return lambda trainer, value: setattr(trainer, name, value)
