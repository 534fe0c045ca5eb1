"""Replies, alone or in a batch: streamed, stoppable, and drawn without touching the global random generators."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import Refused


@dataclass(frozen=True)
class Manner:
    """How to speak. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; `seed` None draws a new one."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Spoken:
    """A whole reply. `ended` is `eos`, `length` or `stopped`; seconds are from the call."""

    text: str
    tokens: int
    seconds: float
    first_token_seconds: float
    ended: str


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise from a private generator, so that the arg-max is a sample (Gumbel-max trick).

    transformers' own sampling draws from the global generator, which training may be using.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Noisy `scores`, shape (batch, vocabulary)."""
        uniform = torch.rand(scores.shape, generator=self._generator, device=scores.device, dtype=torch.float32)
        return scores.float() - torch.log(-torch.log(uniform.clamp_(1e-20, 1.0 - 1e-7)))


@dataclass
class Row:
    """One of the prompts that are continued together: its token ids, how to speak, and who hears of it.

    `on_text` is told the whole text so far after each token. The Rust tokenizers are not safe to share: a row of
    another session has its own.
    """

    tokenizer: Any
    prompt: list[int]
    manner: Manner
    on_text: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
    limit: int = 0
    ids: list[int] = field(default_factory=list)
    first: float | None = None
    over: float | None = None

    def text(self) -> str:
        """What is said so far."""
        return cast(str, self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def hear(self, token: int, ends: list[int]) -> None:
        """Take in the next token; with it the row may be over."""
        self.first = self.first or time.perf_counter()
        self.ids.append(token)
        if token in ends or len(self.ids) >= self.limit or self.should_stop():
            self.over = time.perf_counter()
        text = self.text()
        if self.over is not None or not text.endswith("\ufffd"):  # half of a character: wait for the rest
            self.on_text(text)


class _Rows(StoppingCriteria):  # type: ignore[misc]
    """Tells each row of its next token, and `generate` which rows have ended. (It asks before a streamer is told.)"""

    def __init__(self, rows: list[Row], ends: list[int]) -> None:
        self._rows, self._ends = rows, ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if row.over is None:
                row.hear(token, self._ends)
        return torch.tensor([row.over is not None for row in self._rows], device=input_ids.device)


class _Each(LogitsProcessor):  # type: ignore[misc]
    """Each row by its own manner, as if it were alone."""

    def __init__(self, chains: list[LogitsProcessorList]) -> None:
        self._chains = chains

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = [chain(input_ids[n : n + 1], scores[n : n + 1]).float() for n, chain in enumerate(self._chains)]
        return torch.cat(rows)


def speak(
    model: Any,
    tokenizer: Any,
    prompt: list[int],
    manner: Manner,
    *,
    on_text: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Spoken:
    """Continue the token ids `prompt`; `on_text` is told the whole text so far after each token.

    Raises `Refused` where the prompt leaves no room in the model's context.
    """
    return speak_rows(model, [Row(tokenizer, prompt, manner, on_text, should_stop)])[0]


def speak_rows(model: Any, rows: list[Row]) -> list[Spoken]:
    """Continue several prompts in one batch, each until its own end; shorter ones are padded on the left.

    Raises `Refused` where a prompt leaves no room in the model's context.
    """
    began = time.perf_counter()
    ends, longest = _end_tokens(model, rows[0].tokenizer), max(len(row.prompt) for row in rows)
    for row in rows:
        row.limit = min(row.manner.max_new_tokens, room(model, row.prompt))
    pad = rows[0].tokenizer.pad_token_id if rows[0].tokenizer.pad_token_id is not None else next(iter(ends), 0)
    ids = torch.tensor([[pad] * (longest - len(row.prompt)) + row.prompt for row in rows], device=model.device)
    mask = torch.tensor(
        [[0] * (longest - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=model.device
    )
    most = max(row.limit for row in rows)
    settings = GenerationConfig(
        max_new_tokens=most, do_sample=False, use_cache=True, eos_token_id=ends, pad_token_id=pad
    )
    chains = [_processors(row.manner, model.device) for row in rows]
    with torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList([_Each(chains)] if any(chains) else []),
            stopping_criteria=StoppingCriteriaList([_Rows(rows, ends)]),
        )
    return [_spoken(row, began, ends) for row in rows]


def _spoken(row: Row, began: float, ends: list[int]) -> Spoken:
    now = row.over or time.perf_counter()
    ended = "eos" if row.ids and row.ids[-1] in ends else "length" if len(row.ids) >= row.limit else "stopped"
    return Spoken(row.text(), len(row.ids), now - began, (row.first or now) - began, ended)


def room(model: Any, prompt: list[int]) -> int:
    """The tokens that may follow `prompt`; `Refused` where there is room for none."""
    left = (getattr(model.config, "max_position_embeddings", None) or 10**9) - len(prompt)
    if left < 1:
        raise Refused(f"the conversation has {len(prompt)} tokens, more than the model can read; start a new one")
    return left


def answer_all(model: Any, tokenizer: Any, prompts: list[list[int]], most: int) -> list[str]:
    """The greedy answers to some prompts (token ids) of at most `most` tokens, together; long prompts lose their start.

    Draws from no generator. Raises what torch does where memory is short.
    """
    room = (getattr(model.config, "max_position_embeddings", None) or 10**9) - most
    prompts = [prompt[-room:] if room > 0 else prompt for prompt in prompts]
    ends, longest = _end_tokens(model, tokenizer), max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    settings = GenerationConfig(
        max_new_tokens=most, do_sample=False, use_cache=True, eos_token_id=ends, pad_token_id=pad
    )
    with torch.no_grad():
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, longest:].tolist()
    whole = [next((row[:at] for at, token in enumerate(row) if token in ends), row) for row in written]
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in whole]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    declared = model.generation_config.eos_token_id
    ends = set(declared if isinstance(declared, list) else [declared]) | {tokenizer.eos_token_id}
    return sorted(end for end in ends if end is not None)


def _processors(manner: Manner, device: torch.device) -> LogitsProcessorList:
    chain = LogitsProcessorList()
    if manner.temperature > 0:
        chain.append(TemperatureLogitsWarper(manner.temperature))
        if manner.top_k > 0:
            chain.append(TopKLogitsWarper(manner.top_k))
        if manner.top_p < 1:
            chain.append(TopPLogitsWarper(manner.top_p))
        seed = manner.seed if manner.seed is not None else int.from_bytes(os.urandom(6), "big")
        chain.append(GumbelNoise(torch.Generator(device).manual_seed(seed)))
    return chain
