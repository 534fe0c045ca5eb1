"""A base that the weights of a run do not fit, and a tokenizer that cannot pad: one line each."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.base_files import changed, fingerprint
from jupyter_ft.errors import ModelError, Refused, TrainingFailed
from jupyter_ft.launch.same_base import noted_in


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


def narrower(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 32, 64, 8
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def other_weights(folder: Path) -> None:
    """A model of the same shapes in the same place, as one that was trained on and saved there."""
    import torch
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "layers.1" in name and "q_proj" in name)
    tensors = {n: t + 0.01 * torch.ones_like(t) if n == name else t.clone() for n, t in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})


def test_one_tensor_that_is_another_makes_another_base_and_saving_again_does_not(own: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    before = fingerprint(own)
    assert set(before) == {"config.json", "model.safetensors"}
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"transformers_version": "4.0.0"}))
    again = tmp_path / "again"
    AutoModelForCausalLM.from_pretrained(own).save_pretrained(again)
    assert changed(before, fingerprint(own)) == ""
    assert changed(before, fingerprint(again)) == ""
    other_weights(own)
    assert changed(before, fingerprint(own)) == "model.safetensors"
    (own / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert changed(before, fingerprint(own)) == "config.json"


@pytest.mark.slow
def test_a_base_that_was_saved_over_is_noticed_before_anything_goes_on_from_it(
    tune: Any, own: Path, rows: list[dict[str, str]], runs: Path, tmp_path: Path
) -> None:
    settings = {"batch_size": 4, "dtype": "float32"}
    session = jupyter_ft.finetune(str(own), rows, "first", **settings)
    session.wait(step=3, timeout=60)
    session.stop().wait(60)
    session.wait_until_over(60)
    said = session.chat("hi", max_new_tokens=5)
    session.close()
    kept = shutil.copytree(own, tmp_path / "kept")
    other_weights(own)
    gc.collect()
    line = (
        rf"the model in {own} has changed since 'first' began \(model.safetensors is another\): "
        "put the old files back, or start a new run"
    )
    with pytest.raises(ModelError, match=f"^{line}$"):
        jupyter_ft.finetune(None, rows, "second", start_from="first", **settings)
    session = jupyter_ft.open("first")
    with pytest.raises(ModelError, match=f"^{line}$"):
        session.fork("calmer", at="last", learning_rate=1e-5)
    with pytest.raises(Refused, match=f"^ask: {line}$"):
        session.chat("hi", max_new_tokens=3)
    with pytest.raises(ModelError, match=f"^{line}$") as kept_by_the_notebook:
        session.export(tmp_path / "out", at="last")
    with pytest.raises(ModelError, match=f"^{line}$"):
        jupyter_ft.finetune(None, rows, "second", start_from="first", **settings)
    assert kept_by_the_notebook.tb is not None
    with pytest.raises(Refused, match=f"^resume: {line}$"):
        session.resume().wait(60)
    assert session.state == "stopped"  # as it was: nothing of it has been begun
    assert sorted(path.name for path in runs.iterdir()) == ["first"]
    other = jupyter_ft.finetune(str(own), rows, "other", max_steps=2, **settings).wait(timeout=60)
    shutil.copytree(kept, own, dirs_exist_ok=True)
    with pytest.raises(
        ModelError, match="'first' began on, but another was loaded from there and is still in use: close"
    ):
        session.fork("calmer", at="last", learning_rate=1e-5)
    other.close()
    assert session.resume().wait(60)
    session.wait(timeout=60)
    session.close()
    calmer = jupyter_ft.open("first").fork("calmer", at=3, learning_rate=1e-5, max_steps=5)
    assert calmer.wait(timeout=60).chat("hi", at=3, max_new_tokens=5) == said
    assert noted_in(calmer.folder) == noted_in(session.folder)


@pytest.mark.slow
def test_a_reward_model_does_not_judge_over_another_base(tune: Any, own: Path) -> None:
    from .test_grpo import ASKED
    from .test_methods import PAIRS

    judge = jupyter_ft.finetune(str(own), PAIRS, "judge", method="reward", max_steps=2, dtype="float32", max_length=128)
    judge.wait(timeout=60)
    judge.close()
    asked = ASKED | {"method": "grpo", "accumulation": 1, "rewards": "judge"}
    policy = tune("policy", **asked)
    policy.wait(step=2, timeout=60)
    policy.stop().wait(60)
    policy.wait_until_over(60)
    other_weights(own)
    gc.collect()
    line = (
        rf"the model in {own} has changed since 'judge' began \(model.safetensors is another\): "
        "put the old files back, or start a new run"
    )
    with pytest.raises(ModelError, match=f"^{line}$"):
        tune("second", **asked)
    with pytest.raises(Refused, match=f"^resume: {line}$"):
        policy.resume().wait(60)


@pytest.mark.slow
def test_the_commit_that_a_run_began_on_is_gone_on_with(
    own: Path, rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--some--model"
    (repo / "refs").mkdir(parents=True)
    for commit, change in (("a" * 40, None), ("b" * 40, other_weights)):
        shutil.copytree(own, repo / "snapshots" / commit)
        if change:
            change(repo / "snapshots" / commit)
    (repo / "refs" / "main").write_text("a" * 40)
    settings = {"batch_size": 4, "dtype": "float32", "max_steps": 3}
    session = jupyter_ft.finetune("some/model", rows, "first", **settings).wait(timeout=60)
    said = session.chat("hi", at="base", max_new_tokens=9)
    session.close()
    (repo / "refs" / "main").write_text("b" * 40)  # as a fetch for another run leaves it
    gc.collect()
    assert noted_in(session.folder)["commit"] == "a" * 40
    session = jupyter_ft.open("first")
    assert session.chat("hi", at="base", max_new_tokens=9) == said
    forked = session.fork("more", at="last", max_steps=5).wait(timeout=60)
    assert noted_in(forked.folder)["commit"] == "a" * 40
    other = jupyter_ft.finetune("some/model", rows, "new", **settings).wait(timeout=60)
    assert noted_in(other.folder)["commit"] == "b" * 40


@pytest.mark.slow
def test_a_run_of_before_goes_on_where_the_weights_fit_at_all(tune: Any, own: Path, rows: list[dict[str, str]]) -> None:
    settings = {"batch_size": 4, "dtype": "float32", "max_steps": 4}
    session = jupyter_ft.finetune(str(own), rows, "first", **settings)
    session.wait(timeout=60)
    session.close()
    (session.folder / "base.json").unlink()
    other_weights(own)
    session = jupyter_ft.open("first")
    assert session.chat("hi", max_new_tokens=3).step == 4
    session.close()
    narrower(own)
    session = jupyter_ft.open("first")
    with pytest.raises(Refused, match=r"^ask: the weights do not fit \(.*\): they are of another model, or of other"):
        session.chat("hi", max_new_tokens=3)
    child = jupyter_ft.finetune(None, rows, "second", start_from="first", **settings)
    with pytest.raises(TrainingFailed, match=r"^second failed at step 0: the weights do not fit \([^\n]+$"):
        child.wait(timeout=60)


def test_a_tokenizer_that_has_nothing_to_pad_with(own: Path, rows: list[dict[str, str]]) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (own / name).exists():
            kept = {
                k: v for k, v in json.loads((own / name).read_text()).items() if k not in ("pad_token", "eos_token")
            }
            (own / name).write_text(json.dumps(kept))
    session = jupyter_ft.finetune(str(own), rows, "unpadded", max_steps=2)
    with pytest.raises(TrainingFailed, match=r"^[^\n]+set tokenizer.pad_token and save it there again$"):
        session.wait(timeout=60)
