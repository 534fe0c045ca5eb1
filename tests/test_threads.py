"""A reply beside a run computes with fewer threads; the run, the notebook and threads to come keep theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jupyter_ft.event_log import EventLog
from jupyter_ft.messages import Ask
from jupyter_ft.recipe import parse_recipe
from jupyter_ft.sampling.chat import Chat
from jupyter_ft.sampling.twin import Twin


@pytest.fixture
def eight_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def twin(tiny_model: Path, tmp_path: Path) -> Twin:
    from jupyter_ft.models import POOL

    recipe = parse_recipe({"model": str(tiny_model), "dtype": "float32", "adapter": {"r": 4}})
    base = POOL.get(str(tiny_model), revision=None, dtype="float32", report=lambda *_: None)
    return Twin(base, recipe, "messages", lambda step: tmp_path)


@pytest.mark.parametrize(("beside", "wanted"), [(True, 2), (False, 8)])
def test_a_reply_spares_the_cores_of_a_run(eight_threads: None, twin: Twin, beside: bool, wanted: int) -> None:
    inside: list[int] = []
    in_new_threads: list[int] = []

    def note(*_: Any) -> None:
        inside.append(torch.get_num_threads())
        new = threading.Thread(target=lambda: in_new_threads.append(torch.get_num_threads()))
        new.start()
        new.join()

    twin.live.get_base_model().lm_head.register_forward_hook(note)
    log = EventLog()
    chat = Chat(log, None, beside=lambda: beside)
    chat.begin(twin, "threads")
    question = Ask(messages=[{"role": "user", "content": "Where is order 3?"}], at="live", max_new_tokens=4)
    chat.put(question)
    assert log.wait_for(lambda: log.answer(question.id) is not None, 60)
    chat.close("over", 10)
    assert inside
    assert set(inside) == {wanted}
    assert set(in_new_threads) == {8}
    assert torch.get_num_threads() == 8


def test_a_session_knows_of_the_run_beside_it(tune: Any) -> None:
    from jupyter_ft.session.handle import _a_run_computes

    session = tune("beside", epochs=10_000)
    session.wait(step=1)
    assert _a_run_computes()
    session.stop().wait()
    session.wait_until_over(60)
    assert not _a_run_computes()
