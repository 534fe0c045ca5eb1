"""Supervised tuning: TRL's `SFTTrainer` on rows that are tokenised and masked already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import constants
from transformers import PrinterCallback
from transformers.utils.notebook import NotebookProgressCallback
from trl import SFTConfig, SFTTrainer

from ..errors import RecipeError
from ..recipe import HF_SCHEDULES, Recipe
from ..weights import to_train
from . import loss_head
from .packing import PackedCollator, check_blocks, is_packed

HEADLINE = ("loss", "mean_token_accuracy")
_CHECKPOINTING = (  # its name up to transformers 5.2x, and since
    "activation_checkpointing" if hasattr(SFTConfig, "activation_checkpointing") else "gradient_checkpointing"
)


def config(recipe: Recipe, folder: Path, dtype: torch.dtype, device: torch.device) -> SFTConfig:
    """The recipe in TRL's words. Raises `RecipeError` where TRL does not take what is under `trainer:`."""
    live = recipe.hyperparameters
    ours: dict[str, Any] = {
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
        "max_length": None,  # the rows are cut already
        "use_cpu": device.type == "cpu",  # without it transformers refuses bf16 there
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        _CHECKPOINTING: False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    try:
        return SFTConfig(**(ours | recipe.trainer))
    except (TypeError, ValueError) as error:  # a key that it does not have, or values that it does not take together
        raise RecipeError(f"trainer: {str(error).strip().splitlines()[0]}") from error


@contextmanager
def no_telemetry() -> Iterator[None]:
    """TRL tells the hub of each trainer that is made (`_BaseTrainer._send_telemetry`); inside here it does not."""
    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def build(model: Any, tokenizer: Any, recipe: Recipe, rows: Any, folder: Path, *, held_out: Any = None) -> SFTTrainer:
    """A trainer over `rows` (`input_ids`, `labels`; packed or not), with no printing callback, that has not begun.

    `rows` are a list or a `datasets.Dataset`, which is used as it is. `held_out` rows are for its `evaluate`; they are
    never packed. Raises `RecipeError` where TRL does not take what is under `trainer:`, or the model cannot keep packed
    rows apart.
    """
    weight = next(model.parameters())
    arguments = config(recipe, folder, weight.dtype, weight.device)
    if arguments.n_gpu > 1:  # TRL refuses several devices in one process; the first is used
        arguments._n_gpu = 1
    with no_telemetry():
        trainer = SFTTrainer(
            model=to_train(model, recipe),
            args=arguments,
            train_dataset=_dataset(rows),
            eval_dataset=_dataset(held_out) if held_out is not None else None,
            processing_class=tokenizer,
        )
    for noisy in (PrinterCallback, NotebookProgressCallback):
        trainer.remove_callback(noisy)
    if recipe.loss_head == "auto":
        loss_head.install(trainer)
    if is_packed(rows):
        check_blocks(trainer.model)
        if not arguments.padding_free:  # asked for under `trainer:`; TRL's collator makes one row of the batch then
            trainer.data_collator = PackedCollator(trainer.data_collator.pad_token_id)
    return trainer


def _dataset(rows: Any) -> Dataset:
    return rows if isinstance(rows, Dataset) else Dataset.from_list(list(rows))
