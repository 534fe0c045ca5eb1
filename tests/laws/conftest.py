"""A trainer as a user builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def build(tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path) -> Any:
    """Build a trainer as a notebook does; the same one for the same words, from the same global random state."""

    def make(kind: str = "sft", peft: bool = True, dropout: float = 0.0, **args: Any) -> Any:
        import torch
        from datasets import Dataset
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
        from trl import SFTConfig, SFTTrainer

        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attention_dropout=dropout)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        lora = LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 3,
            "learning_rate": 5e-3,
            "num_train_epochs": 1,
            "logging_steps": 1,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "bf16": False,
        } | args
        if kind == "sft":
            trainer = SFTTrainer(
                model=model,
                args=SFTConfig(**settings),
                train_dataset=Dataset.from_list(rows),
                eval_dataset=Dataset.from_list(rows[:6]),
                processing_class=tokenizer,
                peft_config=lora if peft else None,
            )
        else:
            texts = [tokenizer(row["prompt"] + row["completion"])["input_ids"][:20] for row in rows]
            table = [{"input_ids": (t * 20)[:20], "labels": (t * 20)[:20], "unused": 1} for t in texts]
            trainer = Trainer(
                model=get_peft_model(model, lora) if peft else model,
                args=TrainingArguments(**settings),
                train_dataset=Dataset.from_list(table),
                eval_dataset=Dataset.from_list(table[:6]),
                processing_class=tokenizer,
            )
        torch.manual_seed(11)
        return trainer

    return make
