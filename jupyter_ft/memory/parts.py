"""What a training step takes at its peak, part by part. Arithmetic alone; bytes throughout, a token's unless said.

Held from beginning to end: weights, adapter, optimizer, reference. The rest comes and goes, and the peak is the
largest of four moments:

    the loss     everything that the backward pass needs is there, and the logits of a tile of positions on top
    the top      the backward pass of the last layer has begun: the gradients of its activations stand beside them
    the bottom   the first layer is left, and all gradients of the weights are there
    the update   no activation is left, all gradients are there

With accumulation the gradients of the micro-batches before are there at all four. What a layer keeps follows
Korthikanti et al. (arXiv 2205.05198, section 4.1), for transformers' Llama with `sdpa` in place of eager attention,
which keeps no scores, and for LoRA, where a frozen product keeps nothing and the adapter keeps its input. Sizes of the
loss heads are those of `methods/loss_head.py` and of TRL's `kernels/chunked_logprob.py`. tests/test_memory_fit.py holds
all of it against what is counted in a real step.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import encoder
from .shape import Shape
from .work import Moment, Work

TILE = 2**23  # elements of a tile of our loss head
TRL_ROWS, TRL_COLUMNS = 4096, 32768  # of a tile of TRL's, whatever the vocabulary is
SCALARS = 256  # bytes of losses, counts and norms
SCORED = 24  # bytes of a scored position: its label, its scores, and whether it counts
KEPT_ANSWER = 24  # bytes of a token of an answer that waits for its step: its id, its masks, and what it was scored
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: arXiv 2305.14314, section 3, double quantisation
INT8 = 1.0  # arXiv 2208.07339; a scale for each row is beside it
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings")
_OPTIMIZER = {"sgd": 0.0, "adafactor": 0.1, "lion": 4.0, "rmsprop": 4.0, "adagrad": 4.0}  # bytes a trained weight


@dataclass(frozen=True)
class Parts:
    """Bytes at the peak of a step, and `chat` beside it (0 where chat can do without)."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    reference: int
    chat: int

    @property
    def training(self) -> int:
        """All but chat."""
        return self.whole - self.chat

    @property
    def whole(self) -> int:
        """All of it."""
        return sum(getattr(self, name) for name in self.__dataclass_fields__)


def parts(shape: Shape, work: Work) -> Parts:
    """The parts of a step of `work` on a model of `shape`."""
    trained = trained_weights(shape, work)
    weights = base_bytes(shape, work) + (4 * trained if work.full else 0)
    moments = encoder.moments(shape, work, trained) if shape.encodes else _moments(shape, work)
    when, logits, gradients = max(moments, key=sum)
    adapter = 0 if work.full else 4 * trained
    return Parts(
        weights=weights + _small(shape, work),
        adapter=adapter,
        gradients=gradients,
        optimizer=int(_state(work) * trained) + 4 * _tensors(shape, work),
        activations=when,
        logits=logits,
        reference=adapter if work.reference and not work.full else 0,
        chat=_chat(shape, work, adapter),
    )


# --- held throughout --------------------------------------------------------------------------------------------------


def base_bytes(shape: Shape, work: Work) -> int:
    """The frozen base in memory, quantised where it is asked to be: its linear layers, not embeddings, norms, head."""
    if shape.packed:
        return shape.packed
    inside = {"nf4": NF4, "int8": INT8}.get(work.quantization, float(work.plain)) * shape.in_linears
    rows = 4 * sum(one.outputs for one in shape.linears) if work.quantization == "int8" else 0
    return int(inside + rows + work.plain * (shape.weights - shape.in_linears))


def trained_weights(shape: Shape, work: Work) -> int:
    """How many numbers are trained: `r (inputs + outputs)` of each adapted layer (arXiv 2106.09685), or all."""
    head = work.labels * shape.hidden
    if work.full:
        return head + shape.weights - (work.head == "score" and not shape.tied) * shape.vocabulary * shape.hidden
    head += encoder.in_head(shape, work) if shape.encodes else 0
    if not isinstance(work.targets, str):
        head += work.r * (shape.vocabulary + shape.hidden) * sum(name in EMBEDDINGS for name in work.targets)
    return head + sum(work.r * (o.inputs + o.outputs) + work.dora * o.outputs for o in shape.wanted(work.targets))


def _tensors(shape: Shape, work: Work) -> int:
    """How many tensors are trained; Adam counts the steps of each."""
    return len(shape.linears) + 2 * shape.layers + 3 if work.full else 2 * len(shape.wanted(work.targets)) + 1


def _small(shape: Shape, work: Work) -> int:
    """Rotary frequencies, a new head that PEFT keeps beside the one that it trains, losses and norms."""
    head = 0 if work.full else 4 * work.labels * shape.hidden
    return 4 * shape.head_size + head + SCALARS + (encoder.beside_the_files(shape, work) if shape.encodes else 0)


def _state(work: Work) -> float:
    name = work.optimizer.removeprefix("paged_")
    if "8bit" in name:
        return (2 if "adam" in name else 1) * (1 + 4 / 256)  # a scale for every 256, arXiv 2110.02861
    return next((size for word, size in _OPTIMIZER.items() if name.startswith(word)), 8.0)  # Adam: two in float32


def _chat(shape: Shape, work: Work, adapter: int) -> int:
    """The twin's adapter once somebody asks, the last weights when the run ends, and the keys and values of one
    conversation. Full weights are copied only where there is room (`sampling/room.py`): chat asks for nothing there."""
    if work.full:
        return 0
    cache = 0 if work.head in ("score", "masks") else 2 * shape.layers * shape.keys * work.plain * work.reply
    return 2 * adapter + cache


# --- what comes and goes ----------------------------------------------------------------------------------------------


def _moments(shape: Shape, work: Work) -> list[Moment]:
    tokens = work.rows * work.length
    kept, last = tokens * layer_keeps(shape, work), tokens * _final(shape, work)
    every = shape.layers * (tokens * _between(shape, work) if work.checkpointing else kept)
    one = kept if work.checkpointing else 0
    asked = tokens * (1 + 3 * 8 * (2 if work.accumulated else 1))  # ids, mask, labels, of the next micro-batch too
    asked += work.made * work.length * KEPT_ANSWER
    shared = _casts(shape, work) + 2 * 4 * work.length * shape.head_size + asked
    shared += work.rows * work.length**2 if work.masked and (work.checkpointing or work.head == "score") else 0
    beside = tokens * _beside(shape, work)
    layer = 4 * shape.in_linears // shape.layers if work.full else 0
    head = 4 * shape.vocabulary * shape.hidden if work.full and work.head != "score" else 0
    gradients = 4 * trained_weights(shape, work)
    down = 4 * shape.hidden * (shape.inner + 1) if work.full else 0  # and the last norm
    low = kept + shared + beside + (tokens * _between(shape, work) if work.checkpointing else 0)
    logits, slopes = _head(shape, work)
    embedding = 0 if shape.tied else 4 * shape.vocabulary * shape.hidden
    dense = 2 * 4 * shape.vocabulary * shape.hidden if work.full and shape.tied and work.head != "score" else 0
    moments = [
        (every + last + shared, logits, slopes),
        (every + one + shared + beside, 0, head + down),
        (low, 0, max(0, gradients - layer - embedding + down) if work.full else gradients),
        (dense + shared + tokens * 4 * shape.hidden, 0, gradients),
    ]
    if work.offloaded:  # what is kept for the backward pass waits in the memory of the machine
        moments = [(max(0, a - every) + 2 * (one or kept), b, g) for a, b, g in moments]
    if not work.optimizer.endswith("fused") and "8bit" not in work.optimizer:
        moments.append((gradients if work.device == "cuda" else _largest(shape, work), 0, gradients))
    if work.made:
        moments.append(_generation(shape, work))
    return [(a, b, gradients) for a, b, _ in moments] if work.accumulated else moments


def _generation(shape: Shape, work: Work) -> Moment:
    """Answers are made: keys and values of all of them, one layer's once more where they grow and for each head, and
    the logits of a token; or before the first token, all tokens of the prompts in one layer, without a backward pass.
    """
    c, prompt = work.compute, work.length - work.trained
    cache = work.made * 2 * shape.layers * shape.keys * c
    grown = work.made * work.length * 2 * c * (shape.keys + shape.queries)
    logits = work.made * shape.vocabulary * (c + 3 * 4)
    read = work.made * prompt * (3 * shape.inner * c + 4 * 4 * shape.hidden)
    written = cache * work.length + grown + logits
    return max(written, cache * prompt + read) + work.made * work.length * KEPT_ANSWER, 0, 0


def layer_keeps(shape: Shape, work: Work) -> int:
    """Bytes that a layer keeps of a token for the backward pass."""
    h, i, c = shape.hidden, shape.inner, work.compute
    norms = 2 * 4 * h + 2 * 4 + (2 * 4 * h if work.full else 0)  # their inputs in float32; of trained ones, also x̂
    keys = shape.queries if work.masked else shape.keys  # with a mask, keys and values are repeated for each head
    attention = c * (2 * shape.queries + 2 * keys) + 4 * shape.heads + (c * work.length if work.masked else 0)
    middle = c * i * (3 if shape.gated else 1)
    rough = 0 if shape.exact or shape.gated else 2 * h * (c + 4)  # an encoder's dropout
    return norms + attention + middle + rough + _inputs(shape, work)


def _inputs(shape: Shape, work: Work) -> int:
    """The inputs that the linear layers, or their adapters, keep, and what comes out of each `A`."""
    h, i, c = shape.hidden, shape.inner, work.compute
    if work.full:
        return c * i + (2 * 4 * h if not work.autocast else (5 if shape.gated else 4) * c * h)
    mine = [o for o in shape.wanted(work.targets) if shape.layers == 1 or ".0." in f".{o.name}."]
    out = sum(work.kept_by(one.outputs) for one in mine)
    if work.dropout:
        return out + sum(o.inputs * (c + (1 if work.device == "cuda" else 4)) for o in mine)
    if work.autocast:  # each adapter casts its own copy
        return out + sum(o.inputs * c for o in mine)
    ends = {o.name.rpartition(".")[2] for o in mine}
    known = {"q_proj": h, "k_proj": h, "v_proj": h, "gate_proj": h, "up_proj": h, "o_proj": 0, "down_proj": i}
    if not ends <= known.keys():
        return out + sum(o.inputs * c for o in mine)
    first = h if ends & {"q_proj", "k_proj", "v_proj"} else 0
    second = h if ends & {"gate_proj", "up_proj"} else 0
    return out + c * (first + second + (i if "down_proj" in ends else 0))


def _final(shape: Shape, work: Work) -> int:
    """The last norm: its input and what comes out of it."""
    return 4 * shape.hidden + (4 if work.full else work.compute) * shape.hidden + (4 * shape.hidden if work.full else 0)


def _between(shape: Shape, work: Work) -> int:
    """What is handed from layer to layer: all that checkpointing keeps."""
    return (4 if work.full else work.plain) * shape.hidden


def _beside(shape: Shape, work: Work) -> int:
    """Gradients of the widest activations of a layer, less what is freed by then."""
    if work.autocast and not work.full:  # an adapter casts its input to float32, and the layer's own is still there
        return (work.compute + 4) * shape.inner + 7 * work.compute * shape.hidden
    return 2 * shape.inner * work.compute + 4 * shape.hidden


def _casts(shape: Shape, work: Work) -> int:
    """Copies in half precision of the trained weights, which autocast keeps for the length of a forward pass; and the
    layer that is unpacked of a quantised base."""
    casts = 0
    if work.autocast:
        casts = work.compute * (shape.in_linears if work.full else trained_weights(shape, work))
    if work.quantization == "none" and not shape.packed:
        return casts
    return casts + work.compute * shape.widest


def _largest(shape: Shape, work: Work) -> int:
    if work.full:
        return 4 * max(shape.vocabulary * shape.hidden, shape.widest)
    return 4 * work.r * max(shape.inner, shape.hidden)


def _head(shape: Shape, work: Work) -> tuple[int, int]:
    """Bytes of logits (and what stands beside them), and of the gradient of a trained output layer."""
    v, h, c = shape.vocabulary, shape.hidden, work.compute
    if work.head == "score":
        return work.rows * work.length * work.labels * 4, 0
    weight = 4 * v * h if work.full else 0
    cast = c * v * h if work.full and work.autocast else 0
    if work.head == "ours":
        count = work.rows * work.trained
        tile, each = min(count, max(1, TILE // v)) * v, SCORED * count
        if not work.full:
            return (c + 12) * tile + 3 * c * count * h + each, 0
        beside = (12 if c == 4 else 16) * tile + c * count * h + cast + each
        return beside + (weight if count * v > TILE else 0), weight if count * v > TILE else 0
    count = work.rows * (work.length if work.head == "trl" else work.trained)
    rows, columns = min(count, TRL_ROWS), min(v, TRL_COLUMNS)
    buffer = c * rows * TRL_COLUMNS + (c + 4) * count * h + cast
    unfolded = 29 * rows * columns if work.head == "trl" else 0  # seven tiles in float32 and one of truth values
    return buffer + unfolded + (4 * columns * h if work.full else 0), weight
