"""Packing: several short rows in one, each attending to itself alone.

Rows are packed once, before the trainer is built, so a packed row is a row to the sampler, the cursor and a checkpoint.
transformers builds the block mask from `position_ids` that start again at zero, where no attention mask is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from trl import pack_dataset

from ..data.render import UNTRAINED
from ..errors import RecipeError

SHORTEST = 256
"""A packed row is at least so long, in tokens: attention costs its square, and longer rows gained nothing on a CPU."""

Row = dict[str, Any]


def pack(rows: Sequence[Any], max_length: int) -> tuple[list[Row], str, list[NDArray[np.int64]]]:
    """`rows` (`input_ids`, `labels`) packed whole, with `seq_lengths` besides, the sentence about it, and which.

    Those are the rows (from 0) in each packed row, in their order there. A packed row is as long as the longest row,
    `SHORTEST` tokens at least and `max_length` at most. The first token of each row has no label, since what precedes
    it is another row. The same rows give the same packed rows. Raises `ValueError` for a row longer than `max_length`.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    if longest > max_length:
        raise ValueError(f"a row of {longest} tokens is longer than max_length {max_length}")
    length = min(max_length, max(longest, SHORTEST))
    # the first label is of no use, so it carries the number of its row
    stream = Dataset.from_list(
        [{"input_ids": row["input_ids"], "labels": [at, *row["labels"][1:]]} for at, row in enumerate(rows)]
    )
    # as a stream: packing a `Dataset` shows a progress bar and writes a cache
    packed = list(pack_dataset(stream.to_iterable_dataset(), length, "bfd", {"batch_size": None}))
    inside: list[NDArray[np.int64]] = []
    for row in packed:
        starts = [0, *accumulate(row["seq_lengths"][:-1])]
        inside.append(np.array([row["labels"][start] for start in starts]))
        for start in starts:
            row["labels"][start] = UNTRAINED
    filled = sum(len(row["input_ids"]) for row in packed) / (length * len(packed))
    said = f"packed into {len(packed):,} row{'s' * (len(packed) > 1)} of up to {length} tokens ({filled:.0%} full)"
    return packed, said, inside


def is_packed(rows: Sequence[Any]) -> bool:
    """Whether `rows` came from `pack`."""
    return bool(rows) and "seq_lengths" in rows[0]


@dataclass(frozen=True)
class PackedCollator:
    """A batch of packed rows, one under the other: attention costs the square of a row, not of the whole batch."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels` and `position_ids`, each (batch, longest). Rows without `seq_lengths` are taken whole.

        What fills up a row is at position 0, each token a row of its own to the block mask, and has no label.
        """
        shape = len(rows), max(len(row["input_ids"]) for row in rows)
        ids, labels = torch.full(shape, self.pad_token_id), torch.full(shape, UNTRAINED)
        positions = torch.zeros(shape, dtype=torch.long)
        for at, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[at, :length] = torch.tensor(row["input_ids"])
            labels[at, :length] = torch.tensor(row["labels"])
            parts = row.get("seq_lengths") or [length]
            positions[at, :length] = torch.cat([torch.arange(part) for part in parts])
        return {"input_ids": ids, "labels": labels, "position_ids": positions}


def check_blocks(model: Any) -> None:
    """Raises `RecipeError` where a packed row sees the one before it: not every model builds the block mask."""
    token = torch.tensor([[5, 6, 7, 8, 9, 10], [1, 2, 3, 8, 9, 10]], device=next(model.parameters()).device)
    token = token % model.config.get_text_config().vocab_size
    positions = torch.tensor([0, 1, 2, 0, 1, 2], device=token.device).expand(2, -1)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one, other = model(input_ids=token, position_ids=positions, use_cache=False).logits[:, 3:]
    finally:
        model.train(training)
    if not torch.equal(one, other):
        kind = model.config.model_type
        raise RecipeError(f"packing: packed rows would see each other in a model of type {kind}; leave packing out")
