"""The names that others have for our settings, and which of the trainer's own are not to be passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import RecipeError
from .optimizers import optimizer

LOWER = ("loss", "perplexity", "entropy", "error", "wer", "cer")
"""How the names of metrics end of which less is better, where nothing is said."""


def deciding(best_metric: str) -> tuple[str, int]:
    """The metric that `best_metric` names, and 1 where less of it is better, else -1.

    `max` or `min` may precede the name, where its direction is not to be guessed.
    """
    *way, metric = best_metric.split()
    lower = way == ["min"] if way else metric.removeprefix("eval_").endswith(LOWER)
    return metric, 1 if lower else -1


ALIASES = {
    "lr": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "num_train_epochs": "epochs",
    "lr_scheduler_type": "schedule",
    "save_steps": "checkpoint_steps",
    "model_name_or_path": "model",
    "from": "start_from",
    "mlm_probability": "mask_share",
    "max_seq_length": "max_length",
    "r": "adapter.r",
    "lora_r": "adapter.r",
    "adapter.rank": "adapter.r",
    "adapter.alpha": "alpha",
    "lora_alpha": "alpha",
    "adapter.dropout": "dropout",
    "lora_dropout": "dropout",
    "target_modules": "adapter.targets",
    "optim": "trainer.optim",
}
TRAINER_KEYS_TAKEN = {
    **{theirs: ours for theirs, ours in ALIASES.items() if "." not in theirs + ours},
    **{name: name for name in ("learning_rate", "weight_decay", "max_grad_norm", "max_steps", "warmup_steps")},
    **{name: name for name in ("max_length", "seed", "eval_steps", "packing")},
    "eval_strategy": "eval_steps",
    "data_seed": "seed",
    **{name: name for name in ("beta", "label_smoothing", "desirable_weight", "undesirable_weight")},
    "center_rewards_coefficient": "center_rewards_coefficient",
    **{name: name for name in ("temperature", "reward_weights", "epsilon", "num_generations", "num_iterations")},
    **{name: name for name in ("steps_per_generation", "max_completion_length")},
    "generation_batch_size": "steps_per_generation",
    "warmup_ratio": "warmup_steps",
    "bf16": "dtype",
    "fp16": "dtype",
    "save_strategy": "checkpoint_steps",
    "metric_for_best_model": "best_metric",
}
"""What may not be passed through `trainer:`, and our key for it."""
SESSIONS_OWN = {
    "output_dir",
    "logging_steps",
    "logging_strategy",
    "resume_from_checkpoint",
    "remove_unused_columns",
    "dataloader_drop_last",
    "dataloader_num_workers",
    "dataset_kwargs",
    "disable_tqdm",
    "load_best_model_at_end",
    "auto_find_batch_size",
    "sync_ref_model",
    "precompute_ref_log_probs",
    "lr_scheduler_kwargs",
    "log_completions",
    "log_completions_hub_repo",
    "use_adaptive_entropy",
    "use_transformers_continuous_batching",
    "use_transformers_paged",
    "use_vllm",
}


def check_trainer_keys(passed: Any) -> None:
    """Raises `RecipeError` for what `trainer:` may not hold, with our key for it."""
    for key in passed if isinstance(passed, Mapping) else ():
        if key in TRAINER_KEYS_TAKEN:
            raise RecipeError(f"trainer.{key}: write it as {TRAINER_KEYS_TAKEN[key]}, at the top level")
        if key in SESSIONS_OWN:
            raise RecipeError(f"trainer.{key}: that is the session's own to set")
    if isinstance(passed, Mapping) and "optim" in passed:
        optimizer(passed["optim"])


def without_secrets(value: Any) -> Any:
    """The same with `…` for what is named like a token, a key or a password."""
    if isinstance(value, dict):
        secret = ("token", "secret", "password", "api_key")
        hidden = [key for key in value if isinstance(key, str) and key.lower().endswith(secret)]
        return {key: "…" if key in hidden and inner else without_secrets(inner) for key, inner in value.items()}
    return [without_secrets(inner) for inner in value] if isinstance(value, list) else value
