"""One reply from one model: streamed, stoppable, and drawn without touching the global random generators."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
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


class _Stopper(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        stop = self._should_stop()
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


class _Stream:
    """Receives token ids from `generate` one by one and tells of the text so far."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text
        self.ids: list[int] = []
        self.first: float | None = None
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:  # the first call carries the prompt
            self._prompt_seen = True
            return
        self.first = self.first or time.perf_counter()
        self.ids += value.reshape(-1).tolist()
        text = self.text()
        if not text.endswith("\ufffd"):  # half of a character: wait for the rest
            self._on_text(text)

    def end(self) -> None:
        self._on_text(self.text())

    def text(self) -> str:
        return cast(str, self._tokenizer.decode(self.ids, skip_special_tokens=True))


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
    began = time.perf_counter()
    room = (getattr(model.config, "max_position_embeddings", None) or 10**9) - len(prompt)
    if room < 1:
        raise Refused(f"the conversation has {len(prompt)} tokens, more than the model can read; start a new one")
    ends = _end_tokens(model, tokenizer)
    limit = min(manner.max_new_tokens, room)
    settings = GenerationConfig(
        max_new_tokens=limit, do_sample=False, use_cache=True, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    ids = torch.tensor([prompt], device=model.device)
    stream = _Stream(tokenizer, on_text)
    with torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=_processors(manner, model.device),
            stopping_criteria=StoppingCriteriaList([_Stopper(should_stop)]),
            streamer=stream,
        )
    now = time.perf_counter()
    ended = "eos" if stream.ids and stream.ids[-1] in ends else "length" if len(stream.ids) >= limit else "stopped"
    return Spoken(stream.text(), len(stream.ids), now - began, (stream.first or now) - began, ended)


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
