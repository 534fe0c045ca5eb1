"""Optimizers in 8 bits: their state is kept to the bit, learns like Adam's, and stays behind nowhere."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

import jupyter_ft
from jupyter_ft.errors import RecipeError
from jupyter_ft.messages import Logged
from jupyter_ft.session import model

from ._runs import finish

WIDE = {"adapter": {"kind": "lora", "r": 64}, "learning_rate": 2e-3}  # 64 by 64: bitsandbytes leaves less in 32 bits


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit", "lion_8bit", "paged_adamw_32bit", "adamw"])
def test_stopped_and_resumed_equals_never_stopped(tune: Any, optim: str) -> None:
    from safetensors.torch import load_file

    from jupyter_ft.runs import OPTIMIZER

    def start(name: str) -> Any:
        session = tune(name, **WIDE, optim=optim, weight_decay=0.01)
        session.set(learning_rate=1e-3, weight_decay=0.1, step=4).wait(60)
        return session

    whole = finish(start("whole"))
    session = start("parted")
    session.wait(step=6, timeout=60)
    session.stop().wait(60)
    session.wait_until_over(60)
    session.resume().wait(60)
    assert finish(session) == whole
    kinds = {str(t.dtype) for t in load_file(session.run_folder.checkpoint(session.step) / OPTIMIZER).values()}
    assert ("torch.uint8" in kinds) == ("8bit" in optim)
    said = [e.text for e in session.events if isinstance(e, Logged) and e.text.startswith("optim:")]
    assert bool(said) == optim.startswith("paged")


@pytest.mark.slow
def test_in_8_bits_it_learns_as_it_does_in_32(tune: Any) -> None:
    eight, plain = finish(tune("eight", **WIDE, optim="adamw_8bit"))[0], finish(tune("plain", **WIDE))[0]
    assert eight != plain
    assert eight[0] == plain[0]
    assert eight[-1] == pytest.approx(plain[-1], rel=0.02)


@pytest.mark.slow
def test_nothing_stays_behind_in_the_process(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    """bitsandbytes keeps a list of embeddings that are to be spared, and with them a base that nobody uses."""
    from jupyter_ft.models import POOL

    own = shutil.copytree(tiny_model, tmp_path / "own")  # a base that nobody else in this process can hold
    session = jupyter_ft.finetune(str(own), rows, "own", **WIDE, optim="adamw_8bit")
    session.wait(timeout=60)
    bases = [weakref.ref(b.model.get_input_embeddings().weight) for key, b in POOL._bases.items() if str(own) in key]
    assert bases
    session.close()
    del session
    gc.collect()
    assert [base() for base in bases if base() is not None] == []


def test_what_is_missing_is_said(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import torch

    from jupyter_ft.methods.optimizer import on_device

    with pytest.raises(RecipeError, match="bitsandbytes has no adamw_8bit for meta; take adamw_torch"):
        on_device("adamw_8bit", torch.device("meta"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RecipeError, match="optim: lion_8bit needs bitsandbytes"):
        on_device("lion_8bit", torch.device("cpu"))
    monkeypatch.setattr(model, "find_spec", lambda name: None)
    for asked, said in (({"optim": "adamw_8bit"}, "optim: adamw_8bit needs"), ({"adapter": "qlora"}, "nf4 needs")):
        with pytest.raises(RecipeError, match=said):
            jupyter_ft.finetune(str(tiny_model), [{"prompt": "a", "completion": "b"}], **asked)
    assert on_device("paged_adamw_32bit", torch.device("cpu")) == "adamw_torch"
