"""What the laws measure a run by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def losses(session: Any) -> list[float]:
    return [float(x) for x in session.log.read()[0].steps["loss"]]


def final_hash(session: Any) -> str:
    from jupyter_ft.weights import read_weights

    return hash_of(read_weights(session.run_folder.checkpoint(session.step)))


def hash_of(tensors: dict[str, torch.Tensor]) -> str:
    from jupyter_ft.weights import plain_name

    digest = hashlib.sha256()
    tensors = {plain_name(name): tensor for name, tensor in tensors.items()}
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def finish(session: Any) -> tuple[list[float], str]:
    session.wait(timeout=300)
    return losses(session), final_hash(session)


def finish_taken_back(session: Any, step: int) -> tuple[list[float], str]:
    session.wait(step=step + 2, timeout=60)
    session.rewind(step).wait(60)
    return finish(session)


def replies(session: Any) -> list[Any]:
    return [event for event in session.events if event.kind == "reply"]


def bare_trainer(
    model: Path, rows: list[dict[str, str]], recipe: Any, folder: Path, before: Callable[[Any], Any] = lambda made: made
) -> Any:
    """The method's own trainer on the same rows, built the same way, with nothing of ours attached; not for labels.

    `before(model)` gives what the method is to build on.
    """
    from jupyter_ft.control.lease import seeded_streams
    from jupyter_ft.data import hold_out, load
    from jupyter_ft.heads import scoring_model
    from jupyter_ft.methods import METHODS
    from jupyter_ft.methods.packing import pack
    from jupyter_ft.models import POOL

    base = POOL.get(str(model), revision=None, dtype=recipe.dtype, report=lambda *_: None)
    method = METHODS[recipe.method]
    train, apart = hold_out(load(rows, {}, method=recipe.method), recipe.held_out, {}, recipe.seed, recipe.method)

    def tokens(examples: Any) -> Any:
        return method.render(examples, base.tokenizer, system=recipe.system, max_length=recipe.max_length).rows

    held_out = tokens(apart) if apart else None
    ready = pack(tokens(train), recipe.max_length)[0] if recipe.packing else tokens(train)
    with seeded_streams(recipe.seed):
        made = scoring_model(base, ()) if method.scores else base.shell()
        return method.build(before(made), base.new_tokenizer(), recipe, ready, folder, held_out=held_out)


def spoken(model: Any, question: str, tokens: int) -> str:
    """What `model` says by transformers' own greedy generation, its tokenizer found by its path."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.config._name_or_path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    out = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


# --- of an attached trainer ---

TIMES = ("runtime", "per_second")


def trained(trainer: Any) -> str:
    return hash_of({name: p for name, p in trainer.model.named_parameters() if p.requires_grad})


def history(trainer: Any) -> list[dict[str, Any]]:
    return [untimed(entry) for entry in trainer.state.log_history]


def untimed(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if not k.endswith(TIMES)}
