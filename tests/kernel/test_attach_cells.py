"""A notebook in the manner of TRL's quick start, with and without the one line that attaches."""

from __future__ import annotations

import pytest

from .conftest import Kernel

pytestmark = pytest.mark.slow

QUICK_START = """import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
dataset = Dataset.from_list(
    [{"prompt": f"Where is order {n}?", "completion": "It is on its way."} for n in range(40)]
)
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir="out", per_device_train_batch_size=4, num_train_epochs=3, logging_steps=5, report_to="none",
        use_cpu=True, bf16=False,
    ),
    train_dataset=dataset,
    eval_dataset=dataset.select(range(6)),
    processing_class=AutoTokenizer.from_pretrained(tiny),
    peft_config=LoraConfig(r=4, lora_dropout=0.1, task_type="CAUSAL_LM"),
)
torch.manual_seed(5)
"""
ATTACH = "import jupyter_ft\nsession = jupyter_ft.attach(trainer, name='quick')"
AFTER = (
    "trainer_stats = trainer.train()",
    "scores = trainer.evaluate()",
    "trainer.model.save_pretrained('saved')",
    """import hashlib, pathlib
digest = hashlib.sha256(pathlib.Path("saved/adapter_model.safetensors").read_bytes()).hexdigest()
steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(trainer_stats.global_step, trainer_stats.training_loss, scores["eval_loss"], steps, digest)""",
)


def run_all(kernel: Kernel, *cells: str) -> str:
    for cell in cells:
        said = kernel.run(cell, timeout=300)
        assert said.ok, said.reply
    return said.stdout


def test_one_line_changes_nothing_of_what_follows(kernel: Kernel) -> None:
    bare = run_all(kernel, QUICK_START, *AFTER)
    attached = run_all(kernel, QUICK_START, ATTACH, *AFTER)
    assert attached == bare
    assert attached.startswith("30 ")
    assert kernel.value("(session.state, session.step)") == "('finished', 30)"


WHILE_IT_WAITS = """
import os, signal, sys, threading, time

def waits(frame):
    while frame is not None and not (frame.f_code.co_name == "wait" and "jupyter_ft" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame is not None

def interrupt():
    while not waits(sys._current_frames()[threading.main_thread().ident]):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
"""


def test_an_interrupt_ends_the_waiting_and_not_the_run(kernel: Kernel) -> None:
    longer = QUICK_START.replace("num_train_epochs=3", "num_train_epochs=2000")
    run_all(kernel, longer, ATTACH.replace("quick", "waited"), "session.wait(step=3)", WHILE_IT_WAITS)
    said = kernel.run("trainer_stats = trainer.train()\nprint('after it')")
    assert said.reply["ename"] == "StillTraining"
    (line,) = said.reply["traceback"]
    assert "goes on training (step " in line
    assert "trainer.train() waits for it again, %ft stop waited ends it" in line
    assert "after it" not in said.stdout
    assert kernel.value("session.state") == "running"
    run_all(
        kernel, "session.wait(step=session.step + 3)", "receipt = session.stop()", "trainer_stats = trainer.train()"
    )
    assert kernel.value("(trainer_stats.global_step == session.step, session.state)") == "(True, 'stopped')"


def test_lines_of_later_cells_work_while_it_trains(kernel: Kernel) -> None:
    longer = QUICK_START.replace("num_train_epochs=3", "num_train_epochs=2000")
    run_all(kernel, longer, ATTACH.replace("quick", "longer"), "session.wait(step=3)")
    before = int(kernel.value("session.step"))
    run_all(kernel, "scores = trainer.evaluate()", "trainer.model.save_pretrained('midway')")
    assert float(kernel.value("scores['eval_loss']")) > 0
    assert kernel.value("session.state") == "running"
    assert int(kernel.value("session.step")) >= before
    run_all(kernel, "receipt = session.stop()", "trainer_stats = trainer.train()")
    assert kernel.value("(trainer_stats.global_step == session.step, session.state)") == "(True, 'stopped')"
