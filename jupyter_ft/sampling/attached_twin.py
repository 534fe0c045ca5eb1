"""The twin of a model that the user built: a copy of its modules that shares the storage of all that is not trained.

TRL's `forward` on the model's instance is a closure over the live model; the copy drops it, and so speaks for itself
whether it was made before or after a trainer was built.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from trl import RewardTrainer

from ..data import Format
from ..errors import Refused
from ..models import longest
from ..modules import apart
from ..own_tokenizer import own_tokenizer
from .at_boundary import AttachedAtBoundary, parts_of, peel
from .judge import Judging
from .published import Published
from .room import no_room
from .twin import Visits, Voices

PATCHED_METHODS = ("forward", "generate", "save_pretrained")
MOST = 10**6  # tokens of a text where nothing says how many


class AttachedTwin(Voices):
    """The voices of an attached trainer's model: `live`, checkpoints, and `base` where an adapter is trained."""

    def __init__(self, model: Any, tokenizer: Any, find: Callable[[int], Path]) -> None:
        self.trained_on: Format = "messages"
        self.tokenizer = tokenizer
        fixed = [tensor for tensor in _tensors(model) if not tensor.requires_grad]
        self.live = _shell(model, fixed).eval().requires_grad_(False)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        self._published = Published(lambda: self.live, trained)
        self.base = _below(_shell(model, fixed)).eval() if isinstance(model, PeftModel) else None
        self._find = find
        self._visits, self._era = Visits(), 0

    def change(self) -> None:
        """As `Voices.change`."""
        self._published.change()

    def changed(self, step: int, trained: dict[str, torch.Tensor], alpha: float) -> None:
        """As `Voices.changed`."""
        self._published.put(step, trained, alpha)

    def publish(self, step: int, trained: dict[str, torch.Tensor], alpha: float) -> None:
        """The weights of `step` are in `trained`, to be copied where somebody asks."""
        self._published.put(step, trained, alpha)

    def retire(self) -> None:
        """As `Voices.retire`."""
        self._published.end(keeps=True)

    def voice(self, at: str) -> tuple[Any, int]:
        """The model that speaks, and its step. `Refused` for the base where its own weights are what is trained."""
        if at == "base" and self.base is None:
            raise Refused("base: the weights themselves are trained, and no copy of the old ones is kept")
        return super().voice(at)

    def new_past(self) -> Any:
        """A copy of the live voice with trained tensors of its own."""
        own = self._published.names
        return _shell(self.live, [t for name, t in self.live.named_parameters() if name not in own])

    def live_voice(self) -> tuple[Any, int]:
        """The model with the weights of the last step, and that step."""
        return self._published.live()


def judging_of(trainer: Any) -> Judging | None:
    """How the trainer's model answers where it does not speak: labels, a score, or guesses at masked tokens."""
    model, tokenizer = trainer.model, trainer.processing_class
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    name, config = type(inner).__name__, getattr(inner, "config", None)
    if config is None or not hasattr(tokenizer, "model_max_length"):
        return None
    most = min(longest(inner, tokenizer) or MOST, getattr(trainer.args, "max_length", None) or MOST)
    if name in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
        if config.num_labels == 1:
            return Judging((), most, plain=not isinstance(trainer, RewardTrainer))
        several = config.problem_type == "multi_label_classification"
        return None if several else Judging(tuple(map(str, config.id2label.values())), most)
    if name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() and getattr(tokenizer, "mask_token", None) is not None:
        return Judging((), most, masks=True)
    return None


def why_silent(model: Any, tokenizer: Any, judging: Judging | None = None) -> str:
    """The reason for which there can be no chat with `model`; empty where there can."""
    can_generate = getattr(model, "can_generate", None)
    if judging is None and (not callable(can_generate) or not can_generate()):
        inner = model.get_base_model() if isinstance(model, PeftModel) else model
        return f"a {type(inner).__name__} does not generate text"
    if not hasattr(tokenizer, "decode") or not hasattr(tokenizer, "eos_token"):
        return "the trainer has no tokenizer: build it with processing_class=tokenizer to chat"
    return ""


def changed_elsewhere(trainer: Any) -> str:
    """Why its weights may be changed while no optimizer makes a step; empty where they are not."""
    kind = f"{getattr(trainer.args.optim, 'value', trainer.args.optim)} {type(trainer.optimizer).__name__}".lower()
    found = any(name in kind for name in ("lomo", "layerwise", "schedule_free", "schedulefree"))
    return "its optimizer changes them outside its steps" if found else ""


def voices_for(
    model: Any,
    tokenizer: Any,
    find: Callable[[int], Path],
    nudge: Callable[[], None],
    room: int | None = None,
    *,
    why: str = "",
) -> AttachedTwin | AttachedAtBoundary:
    """The voices of a model that is about to be trained: a twin, or where nothing can be shared the model itself.

    It is one copy, and from the end of the run until the next reply two; training takes gradients and Adam's moments.
    `room`: as for `no_room`; `why`: a reason of the trainer's against a copy.
    """
    own = own_tokenizer(tokenizer)
    if own.pad_token is None:
        own.pad_token = own.eos_token
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    why = why or no_room(2 * trained, 3 * trained, next(model.parameters()).device, room)
    if not why and any(_patched(part) for part in parts_of(model)):
        why = "its forward was replaced"
    if not why:
        try:
            twin = AttachedTwin(model, own, find)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's modules say to being copied
            why = f"its modules cannot be copied ({next(iter(str(error).strip().splitlines()), type(error).__name__)})"
        else:
            if not _reaches(twin.live, model):
                return twin
            why = "a copy would reach back into it"
    return AttachedAtBoundary(model, own, nudge, why)


def _patched(part: Any) -> bool:
    """Whether its `forward` is neither its class's nor one that we know how to take off."""
    before = dict(vars(part))
    try:
        peel(part)
        forward = vars(part).get("forward")
    finally:
        vars(part).update(before)
    return forward is not None and getattr(forward, "__func__", None) is not type(part).forward


def _reaches(voice: Any, live: Any) -> bool:
    """Whether a hook or a method of a module of `voice` holds on to a module of `live`."""
    theirs, seen = {id(module) for module in live.modules()}, set[int]()
    todo = [value for module in voice.modules() for value in vars(module).values()]
    while todo:
        thing = todo.pop()
        if id(thing) in theirs:
            return True
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            todo += thing.values()
        elif isinstance(thing, list | tuple | set):
            todo += thing
        elif isinstance(thing, types.MethodType):
            todo += [thing.__self__, thing.__func__]
        elif isinstance(thing, functools.partial):
            todo += [thing.func, *thing.args, *thing.keywords.values()]
        elif isinstance(thing, types.FunctionType):
            for cell in thing.__closure__ or ():
                with suppress(ValueError):  # an empty one
                    todo.append(cell.cell_contents)
    return False


def _tensors(model: Any) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _shell(model: Any, shared: list[torch.Tensor]) -> Any:
    shell = apart(model, shared)
    inner = shell.get_base_model() if isinstance(shell, PeftModel) else shell
    for part in (shell, inner):
        for name in PATCHED_METHODS:
            vars(part).pop(name, None)
    return shell


def _below(shell: Any) -> Any:
    """What is below the adapter; PEFT's `unload` alone leaves a head or embedding that is trained in whole."""
    for module in list(shell.modules()):
        for name, child in module.named_children():
            if isinstance(child, ModulesToSaveWrapper):
                setattr(module, name, child.original_module)
    return shell.unload()
