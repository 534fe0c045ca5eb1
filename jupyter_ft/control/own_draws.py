"""What a trainer's collator draws from by generators of its own, and their states as a checkpoint keeps them (JSON)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

_BITS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
_NUMPYS = {"Generator": np.random.Generator, "RandomState": np.random.RandomState}
Kept = tuple[str, Any]
"""The class of a generator, and its state in what JSON has."""


def masks_of(trainer: Any) -> torch.Generator | None:
    """The generator from which the trainer's collator masks tokens, where it has one of its own."""
    generator = getattr(trainer.data_collator, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


def own_draws(trainer: Any) -> dict[str, Kept]:
    """The states of numpy's and Python's generators that the trainer's collator has, by the name of the attribute."""
    kept = {name: _kept(value) for name, value in getattr(trainer.data_collator, "__dict__", {}).items()}
    return {name: state for name, state in kept.items() if state is not None}


def put_own_draws(trainer: Any, states: dict[str, Kept]) -> None:
    """Have the collator draw on from what `own_draws` gave; one that it makes at its first batch is made now."""
    collator = trainer.data_collator
    for name, (kind, state) in states.items():
        there: Any = getattr(collator, name, None)
        if _like(_kept(there)) != _like((kind, state)):
            there = _new(kind, state)
            setattr(collator, name, there)
        if isinstance(there, random.Random):
            there.setstate((state[0], tuple(state[1]), state[2]))
        elif isinstance(there, np.random.Generator):
            there.bit_generator.state = state
        else:
            there.set_state(state)


def plain(state: Any) -> Any:
    """A generator's state in what JSON has: lists in the place of tuples and arrays."""
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [plain(value) for value in state]
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def _kept(value: Any) -> Kept | None:
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return "Random", plain(value.getstate())
    if isinstance(value, np.random.Generator) and isinstance(value.bit_generator, _BITS):
        return "Generator", plain(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return "RandomState", plain(value.get_state(legacy=False))
    return None


def _like(kept: Kept | None) -> tuple[str, str]:
    """The classes of a generator and of what it draws its bits by: a state fits no others."""
    if kept is None:
        return "", ""
    return kept[0], kept[1]["bit_generator"] if kept[0] in _NUMPYS else ""


def _new(kind: str, state: Any) -> Any:
    if kind not in _NUMPYS:
        return random.Random()
    bits = {one.__name__: one for one in _BITS}
    return _NUMPYS[kind](bits[state["bit_generator"]]())
