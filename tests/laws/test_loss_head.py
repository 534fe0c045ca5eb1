"""With the loss head on, losses, gradients and metrics equal those of TRL's own head."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.recipe import parse_recipe

from ._runs import bare_trainer, finish

METRICS = ("entropy", "mean_token_accuracy")


def _trainer(model: Path, rows: list[dict[str, str]], folder: Path, **asked: Any) -> Any:
    return bare_trainer(model, rows, parse_recipe({"model": str(model), "dtype": "float32", **asked}), folder)


def _full_trainer(trainer: Any, *, tied: bool) -> Any:
    """TRL's trainer over every weight of a copy of what `trainer` has as its base, with the head on."""
    from trl import SFTTrainer

    from jupyter_ft.methods import loss_head
    from jupyter_ft.methods.method import quiet_trl

    model = copy.deepcopy(trainer.model).unload()
    vars(model).pop("forward")
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    with quiet_trl():
        whole = SFTTrainer(
            model=model.requires_grad_(True),
            args=trainer.args,
            train_dataset=trainer.train_dataset,
            processing_class=trainer.processing_class,
        )
    assert loss_head.install(whole)
    return whole


def _one_step(trainer: Any, rows: int = 6) -> tuple[float, dict[str, float], dict[str, Any]]:
    """Loss, metrics and gradients of the first rows, as TRL's `compute_loss` has them."""
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(rows)])
    count = (batch["labels"][:, 1:] != -100).sum() * 2  # as in one of two micro-batches
    trainer._metrics["train"].clear()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
    trainer.model.zero_grad()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss), {name: trainer._metrics["train"][name][-1] for name in METRICS}, gradients


@pytest.mark.slow
def test_a_session_with_it_equals_a_bare_trainer_with_trls(
    tune: Any, tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    asked = {"epochs": 2, "batch_size": 4, "accumulation": 2, "learning_rate": 5e-3, "adapter": {"r": 4}}
    session = tune(**asked)
    ours, _ = finish(session)
    trainer = _trainer(tiny_model, rows, tmp_path / "bare", loss_head="trl", **asked)
    assert "loss_head" not in vars(trainer)
    Streams.seeded(42).put()
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert ours == pytest.approx([step["loss"] for step in steps], abs=1e-5, rel=0)
    for name in METRICS:
        assert session.metrics[name].tolist() == pytest.approx([step[name] for step in steps], abs=1e-4)
    adapter = load_file(session.folder / "adapter" / "adapter_model.safetensors")
    theirs = {name.replace(".default.", "."): p for name, p in trained_tensors(trainer.model).items()}
    assert adapter.keys() == theirs.keys()
    assert max(float((adapter[name] - theirs[name].detach()).abs().max()) for name in adapter) < 1e-4
    assert any(torch.count_nonzero(p) for name, p in adapter.items() if "lora_B" in name)


@pytest.mark.slow
def test_a_run_takes_it_away_at_its_end(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_ft.methods import METHODS

    built, sft = [], METHODS["sft"]

    def note(*args: Any, **more: Any) -> Any:
        trainer = sft.build(*args, **more)
        built.append((trainer, "loss_head" in vars(trainer)))
        return trainer

    monkeypatch.setitem(METHODS, "sft", replace(sft, build=note))
    session = tune(max_steps=2)
    finish(session)
    ((trainer, was_there),) = built
    assert was_there
    assert "loss_head" not in vars(trainer)


@pytest.mark.parametrize("kind", ["lora", "checkpointing", "dft", "full", "tied"])
@pytest.mark.parametrize("tiles", ["one", "many"])
def test_loss_gradients_and_metrics_equal_trls(
    tiny_model: Path, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, tiles: str
) -> None:
    import torch

    from jupyter_ft.methods import loss_head

    trainer = _trainer(tiny_model, rows, tmp_path, trainer={"loss_type": "dft"} if kind == "dft" else {})
    if kind == "checkpointing":
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        assert all(layer.gradient_checkpointing for layer in trainer.model.get_base_model().model.layers)
    if kind in ("full", "tied"):
        trainer = _full_trainer(trainer, tied=kind == "tied")
    if tiles == "many":
        monkeypatch.setattr(loss_head, "LOGITS_AT_ONCE", 259 * 7)
    ours = _one_step(trainer)
    loss_head.remove(trainer)
    theirs = _one_step(trainer)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5, rel=0)
    assert ours[1] == pytest.approx(theirs[1], abs=1e-4)
    assert ours[2].keys() == theirs[2].keys() != set()
    assert any(torch.count_nonzero(gradient) for gradient in theirs[2].values())
    assert max(float((ours[2][name] - theirs[2][name]).abs().max()) for name in theirs[2]) < 1e-5
    assert ("model.lm_head.weight" in theirs[2] or "lm_head.weight" in theirs[2]) is (kind == "full")


def test_under_bf16_it_is_as_close_as_bf16_allows(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    import torch

    from jupyter_ft.methods import loss_head

    trainer = _trainer(tiny_model, rows, tmp_path, dtype="bfloat16")
    ours = _one_step(trainer)
    loss_head.remove(trainer)
    theirs = _one_step(trainer)
    assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
    assert ours[1] == pytest.approx(theirs[1], abs=1e-3)
    flat = [torch.cat([gradient.flatten() for gradient in side[2].values()]) for side in (ours, theirs)]
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) > 0.9999


def test_rows_without_a_label_give_zero_and_no_error(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    import torch

    trainer = _trainer(tiny_model, rows, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(9))
    loss.backward()
    assert float(loss) == 0
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert gradients
    assert not any(torch.count_nonzero(gradient) for gradient in gradients)


@pytest.mark.parametrize("trained", [False, True])
def test_it_never_holds_all_the_logits(monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from jupyter_ft.methods import loss_head

    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                largest = max(largest, x.numel() if isinstance(x, torch.Tensor) else 0)
            return out

    positions, vocabulary, hidden_size = 64, 500, 8
    monkeypatch.setattr(loss_head, "LOGITS_AT_ONCE", 16 * vocabulary)
    hidden = torch.randn(positions, hidden_size, requires_grad=True)
    weight = torch.randn(vocabulary, hidden_size, requires_grad=trained)
    with Sizes():
        log_probs, _, _ = loss_head.score(hidden, weight, None, torch.arange(positions))
        log_probs.sum().backward()
    assert 16 * vocabulary == largest < positions * vocabulary
    assert (weight.grad is not None) is trained


def test_what_it_does_not_score_goes_to_trls_forward(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    import torch

    from jupyter_ft.methods import loss_head

    trainer = _trainer(tiny_model, rows, tmp_path)
    model, trls = trainer.model.get_base_model(), trainer.loss_head.theirs
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    with torch.no_grad():
        for asked in ({}, {"fused_lm_head": True, "output_hidden_states": True}):
            ours, theirs = model(**batch, **asked), trls(**batch, **asked)
            assert type(ours) is type(theirs)
            assert torch.equal(ours.loss, theirs.loss)
        assert "logits" in model(**batch)
        shifted = {"input_ids": batch["input_ids"], "shift_labels": batch["input_ids"], "fused_lm_head": True}
        assert torch.equal(model(**shifted).log_probs, trls(**shifted).log_probs)
        mine = model(**batch, fused_lm_head=True)
    loss_head.remove(trainer)
    assert model.forward == trls
    assert mine.loss == pytest.approx(float(model(**batch, fused_lm_head=True).loss), abs=1e-5)


def test_removed_under_accelerates_wrapping_it_is_out_of_use(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    from jupyter_ft.methods import loss_head

    trainer = _full_trainer(_trainer(tiny_model, rows, tmp_path, dtype="bfloat16", max_steps=1), tied=False)
    trainer.train()
    ours, calls = trainer.loss_head, []
    assert trainer.model.forward.__func__ is not ours  # accelerate has wrapped it, to cast what it gives
    theirs = ours.theirs
    ours_uses = next(c for c in ours.__closure__ if c.cell_contents is theirs)
    ours_uses.cell_contents = lambda *a, **k: (calls.append(k), theirs(*a, **k))[1]
    _one_step(trainer)
    assert not calls
    loss_head.remove(trainer)
    _one_step(trainer)
    assert calls


@pytest.mark.parametrize("wrong", ["capped", "scaled", "wrapped", "router", "half", "parts", "twice"])
def test_it_is_left_out_where_it_does_not_apply(tiny_model: Path, rows: Any, tmp_path: Path, wrong: str) -> None:
    import torch

    from jupyter_ft.methods import loss_head

    trainer = _trainer(tiny_model, rows, tmp_path, loss_head="trl")
    assert "loss_head" not in vars(trainer)
    model = trainer.model.get_base_model()
    if wrong == "capped":
        model.config.final_logit_softcapping = 30.0
    elif wrong == "scaled":
        model.config.logits_scaling = 2.0
    elif wrong == "wrapped":
        model.lm_head = type("Watched", (torch.nn.Linear,), {})(64, 259)
    elif wrong == "router":
        trainer.aux_loss_enabled = True
    elif wrong == "half":
        trainer.args.fp16 = True
    elif wrong == "parts":
        model.hf_device_map = {"": 0}
    elif wrong == "twice":
        assert loss_head.install(trainer)
    before = model.forward
    assert loss_head.why_not(trainer)
    assert not loss_head.install(trainer)
    assert model.forward == before
