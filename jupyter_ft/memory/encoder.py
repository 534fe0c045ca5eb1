"""What a step of an encoder keeps, and when: BERT's layers, in the words of `parts.py`; bytes, a token's unless said.

Where attention's own dropout is on (BERT's is, as it is published), `sdpa` has no fused kernel on the CPU and keeps
three matrices of scores for each head: the probabilities, what is dropped of them, and what is left. They are float32,
and so are queries, keys and values then. A head that guesses masked tokens answers at every position, whether it is
masked or not. tests/test_masked_fit.py holds all of it against what is counted in a real step.
"""

from __future__ import annotations

from .shape import Shape
from .work import Moment, Work

_KNOWN = {"query": 0, "key": 0, "value": 0, "attention.output.dense": 1, "intermediate.dense": 2, "output.dense": 3}
"""Which inputs of a layer a linear reads: of attention, what comes out of it, of the middle, of the middle's end."""


def moments(shape: Shape, work: Work, trained: int) -> list[Moment]:
    """The moments of a step at which its peak may be; `trained` numbers have gradients."""
    tokens, full, h, i = work.rows * work.length, work.full, shape.hidden, shape.inner
    c, v = work.compute, shape.vocabulary
    kept = tokens * layer_keeps(shape, work)
    every = shape.layers * (tokens * 4 * h if work.checkpointing else kept)
    again = kept if work.checkpointing else 0
    asked = tokens * (1 + 3 * 8 * (2 if work.accumulated else 1)) + _casts(shape, work, trained)
    asked += tokens * (2 * 4 * h + 12 if full else 0)  # the embeddings' norm and dropout
    top = tokens * ((4 * 4 if full else 3 * c) * h + 8 + work.kept_by(h))  # the head's own layer
    gradients, head = 4 * trained, 4 * v * h if full else 0
    logits = tokens * 3 * 4 * v  # their log-softmax, its gradient and theirs
    if work.head != "masks":
        logits, head = tokens * work.labels * 4, 0
    wide = tokens * (2 * i * c + 2 * c * h)
    scores = tokens * 4 * shape.heads * work.length * 2 if _drops(shape, work) else 0
    middle = tokens * (2 * c * i + (3 if shape.drops_hidden else 2) * c * h)  # gone when attention is reached
    dense = 2 * head if shape.tied else head  # a table of embeddings has a gradient of its whole size
    low = gradients - 4 * shape.in_linears // shape.layers - head if full else gradients
    found = [
        (every + asked + top, logits, 0),
        (every + asked + top, logits // 3, head),
        (every + again + asked + wide, 0, head + (4 * h * h if full else 0)),
        (every + again + asked + max(0, scores - middle) + tokens * 3 * c * h, 0, head),
        (kept + asked + max(wide, scores - middle), 0, max(0, low)),
        (tokens * 4 * h + dense, 0, gradients),
    ]
    return [(a, b, gradients) for a, b, _ in found] if work.accumulated else found


def layer_keeps(shape: Shape, work: Work) -> int:
    """Bytes that a layer keeps of a token for the backward pass."""
    h, i, c = shape.hidden, shape.inner, work.compute
    norms = 2 * ((4 if work.full else c) * h + 8)
    masks = 2 * c * h if shape.drops_hidden and work.own_dropout else 0
    if _drops(shape, work):
        attention = 4 * 3 * shape.queries + 3 * 4 * shape.heads * work.length
    else:
        attention = c * 4 * shape.queries + 4 * shape.heads + (c * work.length if work.masked else 0)
    return norms + masks + attention + c * i + _inputs(shape, work)


def _drops(shape: Shape, work: Work) -> bool:
    """Whether attention drops some of its probabilities where no kernel does that for it, as CUDA's do."""
    return shape.drops_attention and work.own_dropout and work.device != "cuda"


def _inputs(shape: Shape, work: Work) -> int:
    """The inputs that the linear layers, or their adapters, keep, and what comes out of each `A`."""
    h, i, c = shape.hidden, shape.inner, work.compute
    given = c * h if _drops(shape, work) else 0  # without dropout attention keeps what comes out of it, too
    if work.full:
        return c * ((4 if work.autocast else 2) * h + i) + given  # autocast casts for each of q, k and v
    mine = [one for one in shape.wanted(work.targets) if shape.layers == 1 or ".0." in f".{one.name}."]
    out = sum(work.kept_by(one.outputs) for one in mine)
    if work.dropout:
        return out + sum(one.inputs * (c + (1 if work.device == "cuda" else 4)) for one in mine)
    read = [next((at for end, at in _KNOWN.items() if one.name.endswith(end)), None) for one in mine]
    if work.autocast or None in read:  # each adapter casts its own copy
        return out + sum(one.inputs * c for one in mine)
    sizes = (c * h, given, c * h, c * i)
    return out + sum(sizes[at] for at in set(read) if at is not None)


def _casts(shape: Shape, work: Work, trained: int) -> int:
    """Copies in half precision of the trained weights, which autocast keeps for the length of a forward pass; or the
    scales of DoRA.
    """
    if work.dora:  # magnitudes by norms, less one, and the norms
        return 4 * 4 * sum(one.outputs for one in (*shape.wanted(work.targets), shape.linears[0]))
    if not work.autocast:
        return 0
    return work.compute * (shape.in_linears + shape.vocabulary * shape.hidden if work.full else trained)


def beside_the_files(shape: Shape, work: Work) -> int:
    """What transformers makes under the base for what its files lack: a pooler, a head that scores, numbers of places.

    Files that hold a pooler have it counted twice, which is little.
    """
    made = shape.hidden * (shape.hidden + 1) + 2 * (shape.hidden + 1)
    kept = 0 if work.head == "masks" or work.full else made  # PEFT keeps the one that it trains another of
    return 4 * (made + kept) + 2 * 8 * (shape.longest or 512)


def in_head(shape: Shape, work: Work) -> int:
    """Numbers that are trained of a head's own layer, or of the adapter on it."""
    if work.head == "masks":
        each = (2 * work.r + work.dora) * shape.hidden
        return 0 if work.full or work.targets != "all-linear" else each
    return shape.hidden * (shape.hidden + 1) if work.head == "score" else 0
