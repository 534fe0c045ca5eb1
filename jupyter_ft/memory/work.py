"""What a training step is asked to do, and a moment of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Head = Literal["ours", "trl", "triton", "score", "masks"]
Moment = tuple[int, int, int]
"""Bytes of activations, of logits, and of gradients."""


@dataclass(frozen=True)
class Work:
    """What a step is asked to do.

    `rows` are sequences in a micro-batch (a choice between two answers is two), `length` the tokens of the longest,
    `trained` how many of them are scored. `plain` and `compute` are the bytes of a number of the base, and of one that
    a product is taken in. `made` answers of `trained` tokens are generated at once. `masked`: rows of several
    lengths, or packed ones. `own_dropout`: that of the model's own layers is left on, where it has any.
    """

    rows: int
    length: int
    trained: int
    plain: int = 4
    compute: int = 4
    adapter: Literal["lora", "full"] = "lora"
    r: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    dora: bool = False
    dropout: bool = False
    quantization: str = "none"
    optimizer: str = "adamw_torch_fused"
    head: Head = "ours"
    labels: int = 0
    reference: bool = False
    accumulated: bool = False
    made: int = 0
    masked: bool = True
    checkpointing: bool = False
    offloaded: bool = False
    device: str = "cpu"
    reply: int = 1024
    own_dropout: bool = True

    @property
    def full(self) -> bool:
        """Whether every weight is trained."""
        return self.adapter == "full"

    def kept_by(self, outputs: int) -> int:
        """What an adapter keeps of a token beside its input: what comes out of `A`; DoRA also both sums."""
        return self.compute * (self.r + 2 * self.dora * outputs)

    @property
    def autocast(self) -> bool:
        """Whether products are taken in half precision beside weights in float32."""
        return self.compute < 4


def at(work: Work, **changes: object) -> Work:
    """`work` with some of it changed."""
    return replace(work, **changes)  # type: ignore[arg-type]
