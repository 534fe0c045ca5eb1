"""Will it fit, as a table: plain text, or HTML where everything is escaped."""

from __future__ import annotations

from html import escape
from typing import Any

from jupyter_ft.memory.fit import Fit, size_text
from jupyter_ft.session.fits import will_it_fit

_PARTS = {
    "weights": "the base",
    "adapter": "what is trained",
    "gradients": "at the peak",
    "optimizer": "",
    "activations": "at the peak",
    "logits": "and what stands beside them",
    "reference": "a copy of the adapter",
    "chat": "its adapter twice, and the keys and values of a conversation",
}


class WillItFit:
    """A `Fit` that shows itself: HTML in a notebook, plain text elsewhere. `fit` has the numbers."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit

    def __bool__(self) -> bool:
        return self.fit.fits

    def __repr__(self) -> str:
        return fit_text(self.fit)

    def _repr_html_(self) -> str:
        return fit_html(self.fit)


def fits(
    model: str | None = None,
    data: object = None,
    *,
    memory: object = None,
    measure: bool = False,
    **recipe: Any,
) -> WillItFit:
    """Whether a run would fit, part by part, before anything is loaded: only the configuration and the tokenizer are.

    `model`, `data` and `recipe` are as for `finetune`; without `data` rows are taken to be of `max_length`. `memory` is
    that of a card that is not here (bytes, or "80 GB"). With `measure` two steps are done on the longest row, on
    weights that are thrown away, and the memory that they take is counted. True where it fits. Raises `ModelError`,
    `RecipeError` or `DataError`.
    """
    return WillItFit(will_it_fit(model, data, recipe, memory=memory, measure=measure))


def head(fit: Fit) -> str:
    """The answer in one line."""
    loaded = f", {size_text(fit.loaded)} of it loaded" if fit.loaded else ""
    answer = "it fits" if fit.fits else "it does not fit"
    return f"{answer}: {size_text(fit.needs)}{loaded}, {fit.machine.name} has {size_text(fit.machine.free)} free"


def rows_of(fit: Fit) -> list[tuple[str, str, str]]:
    """The parts that there are: name, size, what it is."""
    about = dict(_PARTS)
    if fit.work.full:
        about["weights"] = "the base, and the copy that is trained in float32"
    if fit.work.quantization != "none":
        about["weights"] += f", {fit.work.quantization}"
    found = [(name, getattr(fit.parts, name), what) for name, what in about.items()]
    return [(name, size_text(size), what) for name, size, what in found if size]


def advice(fit: Fit) -> list[str]:
    """What would let it fit, as lines of text; nothing where it fits."""
    if fit.fits:
        return []
    found = [
        f"with {' and '.join(change.lines)}: {size_text(change.needs)}, and rows of up to {change.longest:,} tokens fit"
        for change in fit.changes
    ]
    if found:
        return found
    if fit.cards is not None:
        return [
            f"{fit.cards} such devices would do, a 4-bit base shared out between them (FSDP, outside of a notebook); "
            "one alone does not, whatever the recipe"
        ]
    return ["nothing in a recipe would let it: take a smaller model"]


def measured(fit: Fit) -> str:
    """The sentence about the measured step; empty where there was none."""
    found = fit.measured
    if found is None:
        return ""
    if found.failed:
        return f"measured: memory ran out ({found.failed})"
    share = fit.parts.training / found.peak - 1
    return (
        f"measured: {size_text(found.peak)} in a step on the longest row ({found.rows} × {found.length:,} tokens, "
        f"{found.seconds:.1f} s); the estimate without chat is {abs(share):.1%} {'above' if share >= 0 else 'below'}"
    )


def fit_text(fit: Fit) -> str:
    """As plain text."""
    table = rows_of(fit)
    lines = [f"{head(fit)} ({fit.said})"]
    lines += [f"  {name:<12}{size:>10}   {what}".rstrip() for name, size, what in table]
    lines += [f"  {line}" for line in (measured(fit), *advice(fit)) if line]
    return "\n".join(lines)


def fit_html(fit: Fit) -> str:
    """As HTML without scripts."""
    cells = "".join(
        f"<tr><td style='text-align:left'>{escape(name)}</td><td>{escape(size)}</td>"
        f"<td style='text-align:left;opacity:.7'>{escape(what)}</td></tr>"
        for name, size, what in rows_of(fit)
    )
    below = "".join(f"<li>{escape(line)}</li>" for line in (measured(fit), *advice(fit)) if line)
    return (
        f"<div><b>{escape(head(fit))}</b> ({escape(fit.said)})<table>{cells}</table>"
        + (f"<ul>{below}</ul>" if below else "")
        + "</div>"
    )
