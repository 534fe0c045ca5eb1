"""The twin reaches none of the trainer's modules, shares the base, and speaks the same with and without a cache."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.recipe import parse_recipe

from ._runs import bare_trainer


@pytest.fixture(params=["of the base", "of what will be trained"])
def pair(request: Any, tiny_model: Path, rows: list[dict[str, str]], tmp_path: Path) -> tuple[Any, Any]:
    """A trainer that TRL has patched, and a twin of what it trains."""
    from jupyter_ft.models import POOL
    from jupyter_ft.sampling.twin import Twin
    from jupyter_ft.weights import to_train

    recipe = parse_recipe({"model": str(tiny_model), "dtype": "float32", "adapter": {"r": 4}})
    base = POOL.get(str(tiny_model), revision=None, dtype="float32", report=lambda *_: None)
    if request.param == "of the base":
        trainer = bare_trainer(tiny_model, rows, recipe, tmp_path)  # finds the same base: it is alive
        return trainer, _begun(Twin(base, recipe, "messages", lambda step: tmp_path), trainer)
    twins = []

    def before(made: Any) -> Any:
        model = to_train(made, recipe)
        twins.append(Twin(base, recipe, "messages", lambda step: tmp_path, like=model))
        return model

    trainer = bare_trainer(tiny_model, rows, recipe, tmp_path, before)
    return trainer, _begun(twins[0], trainer)


def _begun(twin: Any, trainer: Any) -> Any:
    from jupyter_ft.weights import trained_tensors

    twin.publish(0, trained_tensors(trainer.model), 32.0)
    return twin


def _reachable(start: Any) -> Iterator[Any]:
    """Everything that can be reached from a module by attributes, closures, bound methods and hooks."""
    import torch

    seen: set[int] = set()
    todo = [start]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | str | bytes | int | float | torch.Tensor | torch.dtype):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, dict):
            todo += thing.values()
        elif isinstance(thing, list | tuple | set):
            todo += thing
        elif isinstance(thing, torch.nn.Module):
            todo += vars(thing).values()
        todo += [getattr(thing, name, None) for name in ("__self__", "__wrapped__", "func", "args")]
        for cell in getattr(thing, "__closure__", None) or ():
            todo.append(cell.cell_contents)


def test_it_reaches_none_of_the_trainers_modules(pair: tuple[Any, Any]) -> None:
    trainer, twin = pair
    live = {id(module) for module in trainer.model.modules()}
    assert id(trainer.model.get_base_model()) in {id(x) for x in _reachable(trainer.model.get_base_model().forward)}
    for voice in (twin.live, twin.base):
        assert not [thing for thing in _reachable(voice) if id(thing) in live]


def test_it_shares_the_base_and_owns_its_adapter(pair: tuple[Any, Any]) -> None:
    trainer, twin = pair
    twin.voice("live")
    live = {p.data_ptr() for p in trainer.model.parameters() if not p.requires_grad}
    own = {name: p for name, p in twin.live.named_parameters() if p.data_ptr() not in live}
    assert own
    assert all("lora_" in name for name in own)
    assert {p.data_ptr() for p in twin.base.parameters()} <= live
    assert not {p.data_ptr() for p in own.values()} & {p.data_ptr() for p in trainer.model.parameters()}


def test_it_follows_publications_and_nothing_else(pair: tuple[Any, Any]) -> None:
    import torch

    from jupyter_ft.weights import trained_tensors

    trainer, twin = pair
    ids = torch.tensor([[1, 50, 60, 70]])

    def logits() -> Any:
        model, _ = twin.voice("live")
        with torch.no_grad():
            return model(ids).logits

    trained = trained_tensors(trainer.model)
    first = logits()
    with torch.no_grad():
        for tensor in trained.values():
            tensor.add_(0.5)
    assert torch.equal(logits(), first)
    twin.publish(3, trained, 32.0)
    changed = logits()
    assert not torch.equal(changed, first)
    assert twin.voice("live")[1] == 3
    with torch.no_grad():
        trainer.model.eval()
        torch.testing.assert_close(
            changed, trainer.model.get_base_model().model(ids).last_hidden_state @ _head(trainer).T
        )


def test_what_speaks_stays_as_it_is_until_it_is_asked_for_again(pair: tuple[Any, Any]) -> None:
    """Through publications, weights lent for a while, and the end of the run."""
    import torch

    from jupyter_ft.weights import trained_tensors

    trainer, twin = pair
    trained = {name: p.detach().clone() for name, p in trained_tensors(trainer.model).items()}
    twin.voice("live")
    own = [p for name, p in twin.live.named_parameters() if name in twin.trained]

    def publish(step: int) -> None:
        with torch.no_grad():
            twin.publish(step, {name: p.fill_(step) for name, p in trained.items()}, 32.0)

    def held() -> set[float]:
        return {float(value) for p in own for value in p.unique()}

    for step in (1, 2):
        publish(step)
    assert twin.voice("live")[1] == 2
    assert held() == {2}
    publish(3)
    assert held() == {2}
    assert twin.voice("live")[1] == 3
    assert held() == {3}
    publish(4)
    lent = twin._published.lend()
    with torch.no_grad():
        for p in own:
            p.fill_(9)
    publish(5)
    twin.retire()
    assert lent is twin.live
    assert held() == {9}
    for _ in range(2):
        assert twin.voice("live")[1] == 5
        assert held() == {5}
    twin._published.lend()
    with torch.no_grad():
        for p in own:
            p.fill_(9)
    assert twin.voice("live")[1] == 5
    assert held() == {5}


@pytest.mark.slow
def test_a_run_that_nobody_asks_holds_one_model_and_its_weights_once(tune: Any) -> None:
    import torch
    from peft import PeftModel

    def held() -> tuple[int, int]:
        gc.collect()
        found = [thing for thing in gc.get_objects() if isinstance(thing, PeftModel) and thing not in before]
        adapters = {
            p.untyped_storage().data_ptr()
            for p in gc.get_objects()
            if isinstance(p, torch.Tensor) and not p.is_meta and p.shape == (7, 64)
        }
        return len(found), len(adapters)

    before = [thing for thing in gc.get_objects() if isinstance(thing, PeftModel)]
    asked = {"adapter": {"r": 7, "targets": ["q_proj"]}, "trainer": {"optim": "sgd"}}
    session = tune("lean", max_steps=40, snapshot_steps=1000, **asked)  # no copy of a step waits for the disk
    session.wait(step=1, timeout=60)
    session.pause().wait(60)
    models, adapters = held()
    assert models == 2  # the trainer's, and the pattern that the base keeps for all its runs
    session.chat("Where is order 3?", max_new_tokens=1)
    assert held() == (3, 2 * adapters)
    session.resume().wait(60)
    session.wait(timeout=60)
    session.chat("Where is order 3?", max_new_tokens=1)
    assert held() == (2, adapters)


def test_a_question_waits_until_the_weights_are_those_of_a_step(pair: tuple[Any, Any]) -> None:
    from jupyter_ft.weights import trained_tensors

    trainer, twin = pair
    trained = trained_tensors(trainer.model)
    _fill(trained, 1.0)
    twin.publish(1, trained, 32.0)
    got: list[tuple[int, set[float]]] = []
    asks = threading.Thread(target=lambda: got.append((twin.voice("live")[1], _values(twin))))
    twin.change()
    _fill(dict(list(trained.items())[::2]), 2.0)
    asks.start()
    asks.join(0.2)
    assert got == []
    _fill(trained, 2.0)
    twin.changed(2, trained, 32.0)
    asks.join(20)
    assert got == [(2, {2.0})]


def test_weights_wait_to_be_changed_until_they_are_copied(pair: tuple[Any, Any], monkeypatch: Any) -> None:
    import torch

    from jupyter_ft.weights import trained_tensors

    trainer, twin = pair
    trained = trained_tensors(trainer.model)
    twin.voice("live")
    twin.publish(1, trained, 32.0)
    copies, done, changes = torch._foreach_copy_, threading.Event(), threading.Thread(target=twin.change)

    def slowly(*args: Any) -> Any:
        changes.start()
        changes.join(0.2)
        assert changes.is_alive()
        done.set()
        return copies(*args)

    monkeypatch.setattr(torch, "_foreach_copy_", slowly)
    twin.voice("live")
    changes.join(20)
    assert done.is_set()
    assert not changes.is_alive()


def test_a_run_that_failed_while_its_weights_changed_has_no_live_voice(pair: tuple[Any, Any]) -> None:
    from jupyter_ft.errors import Refused
    from jupyter_ft.weights import trained_tensors

    trainer, twin = pair
    twin.publish(1, trained_tensors(trainer.model), 32.0)
    twin.change()
    twin.retire()
    with pytest.raises(Refused, match="ask a step that is kept"):
        twin.voice("live")
    assert twin.voice("base")[1] == 0


def test_a_copy_that_memory_has_no_room_for_is_made_later_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from jupyter_ft.errors import Refused
    from jupyter_ft.sampling.published import Published

    theirs = torch.nn.Linear(4, 4)
    published = Published(lambda: torch.nn.Linear(4, 4, device="meta").requires_grad_(False), ["weight", "bias"])

    def no_room(_: Any) -> Any:
        raise RuntimeError("not enough memory")

    published.model.extra = torch.nn.Parameter(torch.zeros(1))  # tells where it is
    published.put(1, dict(theirs.named_parameters()), 1.0)
    with monkeypatch.context() as short:
        short.setattr(torch.Tensor, "clone", no_room)
        with pytest.raises(RuntimeError, match="not enough memory"):
            published.live()
    model, step = published.live()
    assert step == 1
    assert torch.equal(model.weight, theirs.weight)
    assert model.weight.data_ptr() != theirs.weight.data_ptr()
    published.put(2, dict(theirs.named_parameters()), 1.0)
    with monkeypatch.context() as short:
        short.setattr(torch.Tensor, "clone", no_room)
        published.end(keeps=True)
    with pytest.raises(Refused, match="ask a step that is kept"):
        published.live()


def test_the_weights_of_a_trainer_that_goes_on_are_copied_at_the_end() -> None:
    import torch

    from jupyter_ft.sampling.published import Published

    for keeps in (True, False):
        theirs = torch.nn.Linear(4, 4)
        published = Published(lambda: torch.nn.Linear(4, 4, device="meta"), ["weight", "bias"])
        published.put(1, dict(theirs.named_parameters()), 1.0)
        published.end(keeps=keeps)
        model, _ = published.live()
        assert torch.equal(model.weight, theirs.weight)
        assert (model.weight.data_ptr() != theirs.weight.data_ptr()) is keeps


@pytest.mark.slow
@pytest.mark.parametrize("attached", [False, True])
def test_nobody_copies_weights_while_the_optimizer_changes_them(
    attached: bool, tune: Any, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import jupyter_ft

    inside, go, calls, own = threading.Event(), threading.Event(), [], torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(own(self, *args, **kwargs))
        if len(calls) == 3:
            inside.set()
            assert go.wait(60)
        return calls[-1]

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    session = jupyter_ft.attach(build(), name="kept") if attached else tune("kept", adapter={"r": 4}, max_steps=6)
    assert inside.wait(60)
    receipt = session.ask([{"role": "user", "content": "Where is order 7?"}], max_new_tokens=2)
    turn = session._chat._voices._published._turn
    while not (waits := bool(turn._waiters)) and receipt.answer is None:
        threading.Event().wait(0.01)
    go.set()
    assert waits
    assert receipt.wait(60) >= 3


def _fill(tensors: dict[str, Any], value: float) -> None:
    import torch

    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(value)


def _values(twin: Any) -> set[float]:
    return {float(v) for name, p in twin.live.named_parameters() if name in twin.trained for v in p.unique()}


@pytest.mark.parametrize("whole", ["lm_head", "embed_tokens", "norm"])
def test_the_base_of_an_attached_model_has_nothing_that_is_trained(whole: str, tiny_model: Path) -> None:
    """A head or an embedding beside the adapter; a norm below it, which the user has made trainable."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from jupyter_ft.sampling.attached_twin import AttachedTwin

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        untouched = base(ids).logits
    saved = [whole] if whole != "norm" else None
    model = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
    )
    base.model.norm.weight.requires_grad_(whole == "norm")
    twin = AttachedTwin(model, None, lambda step: tiny_model)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(0.5)
        assert torch.equal(twin.voice("base")[0](ids).logits, untouched)


def _head(trainer: Any) -> Any:
    return trainer.model.get_output_embeddings().weight


@pytest.mark.slow
def test_cached_and_uncached_greedy_replies_agree(pair: tuple[Any, Any]) -> None:
    import torch

    from jupyter_ft.sampling.generate import Manner, speak
    from jupyter_ft.weights import trained_tensors

    trainer, twin = pair
    trained = trained_tensors(trainer.model)
    with torch.no_grad():
        for tensor in trained.values():
            tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    twin.publish(1, trained, 32.0)
    model, _ = twin.voice("live")
    prompt = twin.tokenizer("Where is my order?")["input_ids"]
    said = speak(model, twin.tokenizer, prompt, Manner(max_new_tokens=30))
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(said.tokens):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert said.text == twin.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    assert len(set(ids[len(prompt) :])) > 3  # else this proves little


@pytest.mark.slow
def test_sampling_is_exact_and_private(pair: tuple[Any, Any]) -> None:
    import torch

    from jupyter_ft.sampling.generate import GumbelNoise, Manner, speak

    _, twin = pair
    model, _ = twin.voice("live")
    prompt = twin.tokenizer("Hello")["input_ids"]
    state = torch.get_rng_state()
    warm = Manner(max_new_tokens=20, temperature=1.0, seed=5)
    assert speak(model, twin.tokenizer, prompt, warm).text == speak(model, twin.tokenizer, prompt, warm).text
    assert (
        speak(model, twin.tokenizer, prompt, Manner(20, 1.0, seed=6)).text
        != speak(model, twin.tokenizer, prompt, warm).text
    )
    assert torch.equal(torch.get_rng_state(), state)

    scores = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(20_000, 1)
    picks = GumbelNoise(torch.Generator().manual_seed(0))(torch.empty(0), scores).argmax(-1)
    shares = torch.bincount(picks, minlength=3) / len(picks)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.015, rtol=0)
