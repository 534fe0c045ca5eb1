"""Packed rows train as they would alone; rows batched by length are each used once; both resume exactly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.errors import RecipeError
from jupyter_ft.recipe import parse_recipe

from ._runs import bare_trainer, finish

TEXTS = [{"text": "order " * (1 + number * number % 23) + f"is number {number}."} for number in range(40)]


def _trainer(model: Path, rows: Any, folder: Path, **asked: Any) -> Any:
    return bare_trainer(model, rows, parse_recipe({"model": str(model), "dtype": "float32", **asked}), folder)


def _lengths(trainer: Any) -> list[int]:
    return [len(ids) for ids in trainer.train_dataset["input_ids"]]


def _batch(trainer: Any) -> Any:
    return trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])


def _loss_and_gradients(trainer: Any) -> tuple[float, Any]:
    import torch

    batch = _batch(trainer)
    items = trainer._get_num_items_in_batch([batch], "cpu")
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=items)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_every_row_is_packed_whole() -> None:
    from jupyter_ft.methods.packing import pack

    rows = [
        {"input_ids": [number] * (1 + number * 37 % 300), "labels": [number] * (1 + number * 37 % 300)}
        for number in range(100)
    ]
    packed, said, inside = pack(rows, 1024)
    found = []
    for row, numbers in zip(packed, inside, strict=True):
        assert row["input_ids"] == [token for number in numbers for token in rows[number]["input_ids"]]
        assert len(row["input_ids"]) == len(row["labels"]) == sum(row["seq_lengths"]) <= 298  # the longest
        start = 0
        for length in row["seq_lengths"]:
            ids, labels = row["input_ids"][start : start + length], row["labels"][start : start + length]
            assert labels == [-100, *ids[1:]]
            found.append(ids)
            start += length
    assert sorted(found) == sorted(row["input_ids"] for row in rows)
    assert len(packed) < 60
    assert f"packed into {len(packed)} rows of up to 298 tokens" in said
    assert pack(rows, 1024)[0] == packed
    assert max(len(row["input_ids"]) for row in pack(rows[:3], 1024)[0]) == 114  # three rows are one
    with pytest.raises(ValueError, match="longer than max_length 200"):
        pack(rows, 200)


@pytest.mark.slow
@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("head", ["auto", "trl"])
@pytest.mark.parametrize("data", ["texts", "answers"])
def test_loss_and_gradients_equal_those_of_the_rows_alone(
    tiny_model: Path, rows: Any, tmp_path: Path, head: str, data: str, padding_free: bool
) -> None:
    given = TEXTS if data == "texts" else rows
    alone = _trainer(tiny_model, given, tmp_path / "alone", loss_head=head)
    asked = {"packing": True, "loss_head": head, "trainer": {"padding_free": padding_free}}
    packed = _trainer(tiny_model, given, tmp_path / "packed", **asked)
    assert len(packed.train_dataset) < len(alone.train_dataset) / 2
    assert "attention_mask" not in _batch(packed)
    assert (len(_batch(packed)["input_ids"]) == 1) is padding_free
    (loss, gradient), (loss_alone, gradient_alone) = _loss_and_gradients(packed), _loss_and_gradients(alone)
    assert loss == pytest.approx(loss_alone, abs=1e-5, rel=0)
    assert float(gradient_alone.abs().max()) > 1e-3
    assert float((gradient - gradient_alone).abs().max()) < 1e-5


def test_logits_equal_those_of_the_rows_alone(tiny_model: Path, tmp_path: Path) -> None:
    import torch

    trainer = _trainer(tiny_model, TEXTS, tmp_path, packing=True)
    trainer.model.eval()
    batch = _batch(trainer)
    batch.pop("labels")
    worst = 0.0
    with torch.no_grad():
        together = trainer.model(**batch, use_cache=False).logits
        for row, ids, parts in zip(together, batch["input_ids"], trainer.train_dataset["seq_lengths"], strict=True):
            start = 0
            for length in parts:
                alone = trainer.model(input_ids=ids[None, start : start + length], use_cache=False).logits[0]
                worst = max(worst, float((row[start : start + length] - alone).abs().max()))
                start += length
    assert worst < 1e-5


def test_a_model_in_which_rows_would_see_each_other_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    from jupyter_ft.methods.packing import check_blocks

    trainer = _trainer(tiny_model, TEXTS, tmp_path)
    state, training = torch.get_rng_state(), trainer.model.training
    check_blocks(trainer.model)
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.model.training is training
    running = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(RecipeError, match="type mamba; leave packing out"):
        check_blocks(running)


@pytest.mark.slow
def test_a_packed_session_tells_counts_and_resumes(tune: Any) -> None:
    asked = {"packing": True, "data": TEXTS, "epochs": 4, "batch_size": 2, "max_length": 300, "checkpoint_steps": 3}
    session = tune("packed", **asked, adapter={"r": 4, "dropout": 0.1})
    session.wait(step=4, timeout=60)
    session.stop().wait(60)
    session.wait(timeout=60)
    at = session.step
    session.resume().wait(60)
    assert finish(session) == finish(tune("whole", **asked, adapter={"r": 4, "dropout": 0.1}))
    (ready, *_) = [event for event in session.events if event.kind == "data"]
    count = int(ready.said.partition("packed into ")[2].split()[0])
    assert count < ready.rows == len(TEXTS)
    assert at < session.step == 4 * math.ceil(count / 2)
    assert session.metrics["tokens"].sum() == 4 * ready.tokens


def test_batches_by_length_use_every_row_once_and_pad_less(tiny_model: Path, tmp_path: Path) -> None:
    from jupyter_ft.control.cursor import RowCursor

    def padding(**asked: Any) -> tuple[list[int], float]:
        trainer = _trainer(tiny_model, TEXTS * 5, tmp_path / str(len(asked)), batch_size=4, **asked)
        lengths, cursor = _lengths(trainer), RowCursor(5 * len(TEXTS), 4, 1)
        cursor.begin_epoch(trainer.get_train_dataloader().batch_sampler.sampler)
        batches = []
        while not cursor.end_epoch_if_done():
            batches += cursor.take()
        wasted = sum(max(lengths[i] for i in batch) - lengths[i] for batch in batches for i in batch)
        return sorted(i for batch in batches for i in batch), wasted / sum(lengths)

    once, by_length = padding(trainer={"train_sampling_strategy": "group_by_length"})
    assert once == list(range(5 * len(TEXTS)))
    assert by_length < 0.15 < padding()[1]


@pytest.mark.slow
def test_a_session_by_length_resumes_exactly(tune: Any) -> None:
    asked = {"trainer": {"train_sampling_strategy": "group_by_length"}, "data": TEXTS, "epochs": 2}
    session = tune("lengths", **asked)
    session.wait(step=4, timeout=60)
    session.stop().wait(60)
    session.wait(timeout=60)
    assert session.step < 20
    session.resume().wait(60)
    assert finish(session) == finish(tune("whole", **asked))
    assert finish(session) != finish(tune("random", data=TEXTS, epochs=2))
    (ready, *_) = [event for event in session.events if event.kind == "data"]
    assert session.metrics["tokens"].sum() == 2 * ready.tokens
