"""An export is loaded again as anybody would, by transformers and PEFT, and asked what the run's own weights are asked.

Nothing is taken from the pool but the path of the base. Loading sets torch's default dtype and draws from the global
generators, so it holds the lease, and what was drawn is put back.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import quantized
from ..building import cast
from ..capture import for_users_only
from ..control.lease import LEASE, seeded_streams
from ..data import chat_ids
from ..demo import quiet_transformers
from ..errors import DataError, ExportError, Refused
from ..launch.voices import twin_of
from ..sampling.chat import with_system
from ..sampling.generate import Manner, speak
from ..sampling.judge import Judged, Judging, judge
from ..sampling.probes import Probe
from ..sampling.room import no_room
from ..sampling.twin import load
from ..threads import sparing
from .merge import bytes_of
from .origin import Origin, Report

TOKENS = 32  # of an answer
_AUTO = "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForMaskedLM"


@dataclass(frozen=True)
class Answer:
    """What one model answers to one prompt; `numbers` (logits, probabilities or scores) are compared."""

    ids: list[int]
    text: str
    numbers: torch.Tensor


@dataclass(frozen=True)
class Check:
    """How an export compares: of `of` prompts `same` are answered the same, `tokenized` read as the same tokens.

    `largest` is the largest difference of the `what`.
    """

    same: int
    tokenized: int
    of: int
    largest: float
    what: str
    by: str
    why: str = ""

    @property
    def whole(self) -> bool:
        """Whether every prompt was read and answered the same."""
        return self.same == self.tokenized == self.of

    @property
    def said(self) -> str:
        """One line of it."""
        if not self.of:
            return f"loaded again by {self.by}; no prompt of the run could be put to it"
        numbers = f"largest difference of the {self.what} {self.largest:.1g}"
        counted = f"{self.same} of {self.of} answers the same"
        read = "" if self.tokenized == self.of else f"; {self.of - self.tokenized} prompts are read as other tokens"
        why = f" ({self.why})" if self.why and (self.same < self.of or self.largest > 1e-3) else ""
        return f"loaded again by {self.by}: {counted}; {numbers}{read}{why}"


def own_answers(origin: Origin, weights: Path, report: Report) -> tuple[Origin, list[Answer]]:
    """What the run's own weights of the step answer: the model that chat visits it with. Without what they refuse."""
    labels = origin.judging.labels if origin.judging is not None else ()
    twin = twin_of(origin.base, origin.recipe, origin.trained_on, origin.folder, labels=labels)
    load(twin.live, weights)
    tokenizer, kept, found = origin.base.new_tokenizer(), [], []
    for probe in origin.prompts:
        with suppress(Refused, DataError):  # too long for the model, or nothing that its template can write
            found += _answers(
                replace(origin, prompts=[probe]), (twin.live, tokenizer), report, "asking the run's weights"
            )
            kept.append(probe)
    return replace(origin, prompts=kept), found


def compare(
    origin: Origin, own: Sequence[Answer], folder: Path, weights: str, report: Report, *, why: str = ""
) -> Check:
    """Load the export in `folder` (`weights`: `adapter`, `model`, or the name of a GGUF file) and ask it the same."""
    by = "transformers and peft" if weights == "adapter" else "transformers"
    report("loading it again", 0, 0)
    try:
        with LEASE, seeded_streams(0), quiet_transformers(), _hushed():
            voice = _loaded(origin, folder, weights)
    except Exception as error:  # whatever makes transformers refuse it makes it useless
        first = next(iter(str(error).strip().splitlines()), "")
        raise ExportError(
            f"it was written but cannot be loaded again: {type(error).__name__}: {first[:200]}"
        ) from error
    theirs = _answers(origin, voice, report, "asking what was loaded", own)
    what = "logits" if origin.judging is None else "probabilities" if origin.judging.labels else "scores"
    pairs = list(zip(own, theirs, strict=True))
    return Check(
        same=sum(_same(mine, other, origin.judging) for mine, other in pairs),
        tokenized=sum(mine.ids == other.ids for mine, other in pairs),
        of=len(pairs),
        largest=max((_apart(mine.numbers, other.numbers) for mine, other in pairs), default=0.0),
        what="probabilities of the words" if origin.judging is not None and origin.judging.masks else what,
        by=by,
        why=why,
    )


def _same(mine: Answer, other: Answer, judging: Judging | None) -> bool:
    scored = judging is not None and not judging.labels and not judging.masks
    return mine.text == other.text and (not scored or torch.allclose(mine.numbers, other.numbers, 1e-2, 1e-3))


def _apart(mine: torch.Tensor, other: torch.Tensor) -> float:
    if mine.shape != other.shape or not bool(torch.isfinite(other).all()):
        return float("inf")
    return float((mine - other).abs().max()) if mine.numel() else 0.0


# --- loading it as its user does --------------------------------------------------------------------------------------


def _loaded(origin: Origin, folder: Path, weights: str) -> tuple[Any, Any]:
    import transformers
    from peft import PeftModel

    judging, base = origin.judging, origin.base
    auto = getattr(transformers, _AUTO[0 if judging is None else 2 if judging.masks else 1])
    options: dict[str, Any] = {"dtype": torch.get_default_dtype()}
    device = base.model.device
    if no_room(bytes_of(base), 0, device):
        device = torch.device("cpu")
    if weights == "adapter":
        if (folder / "config.json").is_file():
            options["config"] = transformers.AutoConfig.from_pretrained(folder)
        quantised = base.quantization != "none"
        if quantised and quantized.on_disk(transformers.AutoConfig.from_pretrained(base.path)) == "none":
            options["quantization_config"] = _as_quantised(base)
        if quantised:
            options["device_map"] = {"": device}
        model = auto.from_pretrained(base.path, **options)
        if quantised:
            quantized.as_ours(model, origin.dtype)
            with quantized.told_to_peft(model, base.quantization):
                model = PeftModel.from_pretrained(model, str(folder))
        else:
            model = PeftModel.from_pretrained(cast(model, origin.dtype), str(folder))
    elif weights == "model":
        model = cast(auto.from_pretrained(folder, **options), origin.dtype)
    else:
        if hasattr(transformers, "GgufConfig"):
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model = cast(auto.from_pretrained(folder, gguf_file=weights, **options), origin.dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model.requires_grad_(False).eval().to(device), tokenizer


@contextmanager
def _hushed() -> Iterator[None]:
    """No report of transformers' on a head that the base lacks: PEFT puts it in afterwards."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with for_users_only():
            yield
    finally:
        logging.set_verbosity(level)


def _as_quantised(base: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if base.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=base.model.config.dtype,
    )


# --- asking -----------------------------------------------------------------------------------------------------------


def _answers(
    origin: Origin, voice: tuple[Any, Any], report: Report, what: str, forced: Sequence[Answer] = ()
) -> list[Answer]:
    """What a `voice` (model, tokenizer) answers to the prompts; its numbers are along `forced`, where that is given."""
    found = []
    for at, probe in enumerate(origin.prompts):
        report(what, at, len(origin.prompts))
        with sparing(origin.beside), torch.no_grad():
            along = forced[at].text if forced else None
            found.append(_answer(origin, *voice, probe, along))
    return found


def _answer(origin: Origin, model: Any, tokenizer: Any, probe: Probe, along: str | None) -> Answer:
    messages = with_system(probe.messages, origin.recipe.system)
    if origin.judging is not None:
        judged = judge(model, tokenizer, messages, origin.judging)
        return Answer([judged.tokens], _told(judged, origin), torch.tensor(list(judged.scores.values())))
    ids = chat_ids(tokenizer, messages, trained_on=origin.trained_on)
    spoken = speak(model, tokenizer, ids, Manner(TOKENS))
    answer = tokenizer(spoken.text if along is None else along, add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*ids, *answer]], device=model.device)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    last = len(answer) + 1
    few = {"logits_to_keep": last} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
    logits = model(input_ids=row, attention_mask=torch.ones_like(row), **few).logits[0, -last:]
    return Answer(ids, spoken.text, logits.float().cpu())


def _told(judged: Judged, origin: Origin) -> str:
    """The likeliest label or words; nothing of a reward model, whose score is a number alone."""
    tells = origin.judging is not None and (origin.judging.labels or origin.judging.masks)
    return max(judged.scores, key=lambda one: judged.scores[one]) if tells else ""
