"""What would make a step fit: the lines of a recipe, each tried by the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_ft.recipe import Recipe

from .parts import parts
from .shape import Shape
from .work import Work, at

SHORTEST = 256  # tokens; below this a row says little
MOST_TOKENS = 2**17
MOST_CARDS = 64
OFFLOADED = ("sft", "cpt", "dpo", "kto", "reward")  # whose trainer has `activation_offloading`
Apply = Callable[[Work], Work]


@dataclass(frozen=True)
class Change:
    """Settings, by dotted names, and the bytes that are needed with them; rows of up to `longest` tokens would fit.

    `live`: they can be changed while the run goes on.
    """

    settings: Mapping[str, Any]
    needs: int
    longest: int
    live: bool = False

    @property
    def lines(self) -> list[str]:
        """As the body of a cell has it."""
        passed = {key.removeprefix("trainer."): v for key, v in self.settings.items() if key.startswith("trainer.")}
        plain = [f"{key}: {_yaml(v)}" for key, v in self.settings.items() if not key.startswith("trainer.")]
        inner = ", ".join(f"{key}: {_yaml(value)}" for key, value in passed.items())
        return [*plain, *([f"trainer: {{{inner}}}"] if passed else [])]


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def changes(shape: Shape, work: Work, recipe: Recipe, room: int) -> list[Change]:
    """Each single change with which a step fits into `room` bytes; where there is none, the fewest that do together.

    Empty where nothing does.
    """
    found: list[Change] = []
    for group in _groups(work, recipe):
        for settings, apply in group:  # of a group the mildest that is enough
            needs = parts(shape, apply(work)).whole
            if needs <= room:
                live = settings.keys() <= {"batch_size", "accumulation"}
                found.append(Change(settings, needs, _longest(shape, apply(work), room), live))
                break
    return found or _together(shape, work, recipe, room)


Lever = tuple[dict[str, Any], Apply]


def _groups(work: Work, recipe: Recipe) -> Iterator[list[Lever]]:
    """The levers, from what costs least: the rows of a step stay the same, the length of a row does not."""
    yield _batches(work, recipe)
    if not work.checkpointing:
        yield [({"trainer.activation_checkpointing": True}, lambda w: at(w, checkpointing=True))]
    if work.plain == 4 and work.device == "cuda" and not work.full:
        yield [({"dtype": "bfloat16"}, lambda w: at(w, plain=2, compute=2))]
    if work.full:
        yield [({"adapter": "lora"}, _lora)]
    if work.quantization == "none":
        yield [({"adapter": "lora", "quantization": "nf4"} if work.full else {"quantization": "nf4"}, _nf4)]
    if work.full and "8bit" not in work.optimizer:
        yield [({"trainer.optim": "adamw_8bit"}, lambda w: at(w, optimizer="adamw_8bit"))]
    offloads = recipe.method in OFFLOADED and work.head != "masks"
    if work.device == "cuda" and offloads and not work.offloaded:
        yield [({"trainer.activation_offloading": True}, lambda w: at(w, offloaded=True))]
    yield _shorter(work)


def _lora(work: Work) -> Work:
    return at(work, adapter="lora")


def _nf4(work: Work) -> Work:
    return at(work, adapter="lora", quantization="nf4")


def _batches(work: Work, recipe: Recipe) -> list[Lever]:
    live, found = recipe.hyperparameters, list[Lever]()
    each, least = work.rows // live.batch_size, 2 if recipe.method == "kto" else 1
    size = live.batch_size // 2
    while size >= least:
        steps = -(-live.batch_size * live.accumulation // size)
        found.append(
            (
                {"batch_size": size, "accumulation": steps},
                lambda w, size=size: at(w, rows=each * size, accumulated=True),  # type: ignore[misc]
            )
        )
        size //= 2
    return found


def _shorter(work: Work) -> list[Lever]:
    found, length = list[Lever](), work.length // 64 * 64
    while length > SHORTEST:
        length = max(SHORTEST, length * 3 // 4 // 64 * 64)
        found.append(
            (
                {"max_length": length},
                lambda w, length=length: at(  # type: ignore[misc]
                    w, length=min(w.length, length), trained=min(w.trained, length), reply=min(w.reply, length + 256)
                ),
            )
        )
    return found


def _together(shape: Shape, work: Work, recipe: Recipe, room: int) -> list[Change]:
    """Levers one upon the other until it fits, then less those that it fits without."""
    pulled: list[Lever] = []
    for group in _groups(work, recipe):
        for lever in group:
            same = {key for settings, _ in pulled for key in settings} & lever[0].keys()
            pulled = [one for one in pulled if not same & one[0].keys()] + [lever]
            if _needs(shape, work, pulled) <= room:
                break
        else:
            continue
        break
    else:
        return []
    for lever in list(pulled):
        less = [one for one in pulled if one is not lever]
        if _needs(shape, work, less) <= room:
            pulled = less
    settings = {key: value for one, _ in pulled for key, value in one.items()}
    return [Change(settings, _needs(shape, work, pulled), _longest(shape, _pulled(work, pulled), room))]


def _needs(shape: Shape, work: Work, levers: list[Lever]) -> int:
    return parts(shape, _pulled(work, levers)).whole


def _pulled(work: Work, levers: list[Lever]) -> Work:
    for _, apply in levers:
        work = apply(work)
    return work


def _longest(shape: Shape, work: Work, room: int) -> int:
    """The most tokens of a row that fit into `room` with all else as it is, in steps of 64."""
    share = work.trained / work.length
    least, most = work.length // 64, (shape.longest or MOST_TOKENS) // 64
    while least < most:
        middle = (least + most + 1) // 2
        tried = at(work, length=middle * 64, trained=int(middle * 64 * share))
        least, most = (middle, most) if parts(shape, tried).whole <= room else (least, middle - 1)
    return max(work.length, least * 64)


def cards(shape: Shape, work: Work, room: int) -> int | None:
    """How many devices with `room` bytes each would do, a 4-bit base and what is trained shared out between them, with
    a row each, checkpointing and the length that is asked for. None where that many devices do not exist in one place.
    """
    least = at(_nf4(work), rows=max(1, min(work.rows, 2 if work.reference else 1)), checkpointing=True)
    found = parts(shape, least)
    held = found.weights + found.adapter + found.optimizer + found.reference + found.gradients
    own = found.activations + found.logits + found.chat
    return next((count for count in range(2, MOST_CARDS + 1) if held / count + own <= room), None)
