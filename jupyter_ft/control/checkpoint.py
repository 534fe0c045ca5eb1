"""What exact resumption needs, written and put back: weights, optimizer, schedule, cursor, random streams.

Nothing is pickled: tensors go to safetensors, the rest to JSON. Restoring happens in `on_train_begin`, when the trainer
has made its optimizer and scheduler; `resume_from_checkpoint` is never used (it miscounts rows after a batch edit).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import CheckpointError
from ..messages import Applied, Refused, Resumed, Set
from ..runs import OPTIMIZER, STATE, STREAMS
from ..weights import put_weights, read_weights, write_weights
from .lease import Streams
from .own_draws import masks_of, own_draws, put_own_draws
from .port import Port
from .schedule import WARMUP

_MASKS = "masks"


def write_checkpoint(port: Port, folder: Path) -> None:
    """Fill `folder` with all that `restore_checkpoint` needs. Raises `OSError` where the disk refuses."""
    write_weights(port.trainer.model, folder)
    optimizer = port.trainer.optimizer.state_dict()
    tensors, plain = _parted(optimizer["state"])
    streams = port.turn.streams
    try:
        save_file(tensors, folder / OPTIMIZER)
        save_file(_stream_tensors(streams) | _masks(port.trainer), folder / STREAMS)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    scaler = getattr(port.trainer.accelerator, "scaler", None)
    state = place_of(port) | {
        "cursor": port.cursor.state(),
        "optimizer": {"plain": plain, "groups": optimizer["param_groups"]},
        "scaler": scaler.state_dict() if scaler is not None else None,
        "python": streams.python,
        "collator": own_draws(port.trainer),
        "own": port.own_state(),
    }
    (folder / STATE).write_text(as_json(state), encoding="utf-8")


def place_of(port: Port) -> dict[str, Any]:
    """Where the run is, without the optimizer and the random streams: enough to go on from with fresh ones.

    The order of the rows is left out as well: the sampler gives it again.
    """
    return {
        "step": port.step,
        "max_steps": int(port.trainer.state.max_steps),
        "edits": port.edits.state(),
        "evaluation": port.evaluation.state(),
        "cursor": port.cursor.state() | {"order": None},
        "dtype": str(next(port.trainer.model.parameters()).dtype),
        "batches": port.batching.state(),
        "ahead": list(port.obedience.ahead),
        "scheduled": [edit.model_dump(mode="json") for edit in port.obedience.scheduled],
    }


def as_json(state: dict[str, Any]) -> str:
    """The state as text."""
    return json.dumps(state, default=_plain)


def _parted(state: dict[int, dict[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of an optimizer's state, and what is none, by `INDEX.SLOT`.

    bitsandbytes puts its slots one level down, and gives all weights the same two tables.
    """
    tensors, plain, seen = {}, {}, set[int]()
    for index, slots in state.items():
        below = [value for value in slots.values() if isinstance(value, dict)]
        flat = {name: value for part in (slots, *below) for name, value in part.items() if not isinstance(value, dict)}
        for name, value in flat.items():
            if isinstance(value, torch.Tensor):
                tensor = value.detach().cpu().contiguous()
                tensors[f"{index}.{name}"] = tensor.clone() if tensor.data_ptr() in seen else tensor
                seen.add(tensor.data_ptr())
            else:
                plain[f"{index}.{name}"] = value
    return tensors, plain


def _plain(value: Any) -> Any:
    """A number of numpy's or torch's among what a user's callback has logged; of anything else its text."""
    return (
        value.item()
        if isinstance(value, np.generic | torch.Tensor)
        and (value.size == 1 if isinstance(value, np.generic) else value.numel() == 1)
        else str(value)
    )


def restore_checkpoint(port: Port, folder: Path) -> None:
    """Put a verified checkpoint into a trainer that is about to begin."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    trainer = port.trainer
    port.have_rows(state["cursor"]["rows"])
    if state["cursor"]["rows"] != port.cursor.rows:
        raise CheckpointError(f"the run had {state['cursor']['rows']} rows, now there are {port.cursor.rows}")
    if state["dtype"] != str(next(trainer.model.parameters()).dtype):
        raise CheckpointError(
            f"the run was trained in {state['dtype']}, which is not what this machine loads the base in"
        )
    device = str(trainer.args.device)
    put_weights(trainer.model, read_weights(folder, device))
    if "optimizer" in state:
        _restore_optimizer(trainer, state, load_file(folder / OPTIMIZER))
    fresh = type(port.cursor).from_state(state["cursor"])
    port.cursor.__dict__.update(fresh.__dict__)
    trainer.state.global_step, trainer.state.max_steps = state["step"], state["max_steps"]
    trainer.state.epoch = fresh.progress
    trainer._globalstep_last_logged = trainer._initial_global_step = state["step"]
    port.edits.restore(state["edits"])
    port.evaluation.restore(state.get("evaluation"))
    port.restore_own(state.get("own") or {})
    if state.get("batches"):
        port.batching.restore(state["batches"])
    port.obedience.ahead = list(state["ahead"])
    edits = [Set.model_validate(edit) for edit in state["scheduled"]]
    gone = _taken_back(port) | {edit.id for edit in edits if isinstance(port.log.answer(edit.id), Refused)}
    schedule_again(port, [edit for edit in edits if edit.id not in gone])
    if "optimizer" in state:
        tensors = load_file(folder / STREAMS)
        port.turn.restore(_streams_from(tensors, state["python"]))
        if _MASKS in tensors:
            _restore_masks(trainer, tensors[_MASKS])
        put_own_draws(trainer, state.get("collator") or {})
    else:
        _begin_fresh(port)


def _begin_fresh(port: Port) -> None:
    """Where the weights alone were kept: an optimizer that has seen no gradient, and draws from the seed on."""
    trainer = port.trainer
    trainer.optimizer.state.clear()  # taken back to here, it has seen some
    port.turn.restore(Streams.seeded(trainer.args.seed))
    if masks_of(trainer) is not None:
        trainer.data_collator.create_rng()
    port.edits.warm_up(WARMUP)


def _restore_optimizer(trainer: Any, state: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    slots: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *state["optimizer"]["plain"].items()]:
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    groups = [_as_group(group) for group in state["optimizer"]["groups"]]
    trainer.optimizer.load_state_dict({"state": slots, "param_groups": groups})
    if state["scaler"] is not None and trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])


def _masks(trainer: Any) -> dict[str, torch.Tensor]:
    """The state of the generator from which a collator masks tokens, where it has one of its own."""
    generator = masks_of(trainer)
    return {} if generator is None else {_MASKS: generator.get_state()}


def _restore_masks(trainer: Any, state: torch.Tensor) -> None:
    """Have the collator draw on from `state`; one that makes its generator at its first batch is given one."""
    collator: Any = trainer.data_collator
    if masks_of(trainer) is None and callable(getattr(collator, "create_rng", None)):
        collator.create_rng()  # transformers' own uses none, since 5.24, that it has not made
    generator = masks_of(trainer)
    if generator is None:
        generator = collator.generator = torch.Generator()
    generator.set_state(state)


def schedule_again(port: Port, waiting: Sequence[Set] = ()) -> None:
    """Have the edits that were made after the step of the port made again, each at its step, then the `waiting` ones.

    In the order of the log: of two edits at one step the later counts. Those that a person took back are not made.
    """
    edits: dict[str, Set] = {}
    gone = _taken_back(port)
    for event in port.log.read(steps="none")[0].events:
        if isinstance(event, Applied) and event.changes and event.step > port.step and event.command not in gone:
            changes = {name: new for name, (_, new) in event.changes.items()}
            edits[event.command] = Set(id=event.command, changes=changes, step=event.step)
    edits |= {edit.id: edit for edit in waiting if edit.id not in edits}
    port.obedience.scheduled = [edit for edit in edits.values() if edit.id not in port.obedience.ahead]


def _taken_back(port: Port) -> set[str]:
    """The edits that a person has taken back together with the steps that they were made at."""
    made: dict[str, int] = {}
    gone: set[str] = set()
    for event in port.log.read(steps="none")[0].events:
        if isinstance(event, Applied) and event.changes:
            made[event.command] = event.step
        elif isinstance(event, Resumed) and event.rewound:
            gone |= {command for command, step in made.items() if step > event.step and command not in event.ahead}
    return gone


def _as_group(group: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if key == "betas" else value for key, value in group.items()}


def _stream_tensors(streams: Streams) -> dict[str, torch.Tensor]:
    numbers = streams.numpy["state"]
    tensors = {"torch": streams.torch_cpu, "numpy": torch.from_numpy(numbers["key"].astype(np.int64))}
    tensors["numpy_rest"] = torch.tensor(
        [float(numbers["pos"]), float(streams.numpy["has_gauss"]), float(streams.numpy["gauss"])], dtype=torch.float64
    )
    return tensors | {f"cuda{i}": state for i, state in enumerate(streams.torch_cuda)}


def _streams_from(tensors: dict[str, torch.Tensor], python: list[Any]) -> Streams:
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    key = tensors["numpy"].numpy().astype(np.uint32)
    numbers = {"key": key, "pos": int(position)}
    return Streams(
        torch_cpu=tensors["torch"],
        torch_cuda=[tensors[f"cuda{i}"] for i in range(sum(name.startswith("cuda") for name in tensors))],
        python=(python[0], tuple(python[1]), python[2]),
        numpy={"bit_generator": "MT19937", "state": numbers, "has_gauss": int(has_gauss), "gauss": gauss},
    )
