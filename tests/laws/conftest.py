"""A trainer as a user builds it, and an encoder."""

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


@pytest.fixture(scope="session")
def tiny_bert(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT as its pre-training leaves it: a masked language model, without a pooler."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert") / "tiny"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[MASK]", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    named = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=48,
            )
        ).save_pretrained(folder)
    return folder
