"""`report.html`: a run on one page that needs nothing else, to open without a kernel and without a network.

No row of the data is in it, but for the prompts of probes. What models, files and people said is escaped or sanitised;
the page's own policy lets no script run but the two that are written here, and no request leave it.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jupyter_ft._version import __version__
from jupyter_ft.errors import RunFolderError
from jupyter_ft.names import without_secrets as without_secrets  # noqa: PLC0414 - the bundle takes it from here
from jupyter_ft.runs import RunFolder
from jupyter_ft.ui.curve import curve_image
from jupyter_ft.ui.figure import figure
from jupyter_ft.ui.record import STYLE, best_text, chats, headline, level_of, probes_table
from jupyter_ft.ui.watched import Past, Watched, past_of, printable, shown

ROWS_SHOWN = 500  # of each table, the newest
CHATS_SHOWN = 200
_PAGE_STYLE = """
body{margin:2em auto;max-width:960px;padding:0 1em;font:14px/1.5 system-ui,sans-serif;color:#1f2933;background:#fff}
h1{font-size:1.5em;margin:0 0 .2em}h2{font-size:1.1em;margin:1.6em 0 .4em}
.jft-record{max-width:none}pre.recipe{background:#f5f7f9;padding:.8em 1em;border-radius:6px;overflow-x:auto}
.jft-record table td.number{text-align:right;font-variant-numeric:tabular-nums}
"""


def write_report(session: Watched, path: Path | None = None) -> Path:
    """Write the page to `path` (the run's folder, `report.html`) and give its path. About 5 MB, most of it plotly.js.

    It is published by one rename. Raises `RunFolderError` where the place cannot be written.
    """
    path = (session.folder / "report.html" if path is None else path).expanduser()
    if path.is_dir():
        path = path / f"{session.name}.html"
    staging = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        try:
            staging.write_text(report_html(session), encoding="utf-8")
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}; give another path") from None
    return path.resolve()


def report_html(session: Watched) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    past, nonce = past_of(session), secrets.token_urlsafe(18)
    policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:"
    drawn = (
        figure(session)
        .update_layout(title_text="", margin_t=30)
        .to_json()
        .replace("<", "\\u003c")
        .replace("\u2028", " ")
        .replace("\u2029", " ")
    )
    draw = f"Plotly.newPlot('figure', Object.assign({drawn}, {{config: {{responsive: true, displaylogo: false}}}}))"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width"><title>{escape(session.name)}</title>
<style>{STYLE}{_PAGE_STYLE}</style></head>
<body><div class="jft-record">{_head(session, past)}
<div id="figure"></div><noscript>{curve_image(past)}</noscript>
{_sections(session, past)}</div>
<script nonce="{nonce}">{get_plotlyjs()}</script>
<script nonce="{nonce}">{draw}</script>
</body></html>
"""


def _head(session: Watched, past: Past) -> str:
    asked, about = _asked(session)
    said = past.data or str(_part(about, "data").get("said", ""))
    trained = float(np.nansum(session.log.read()[0].steps["seconds"]))
    lines = [
        headline(session, past) + (f" · {best}" if (best := best_text(past)) else ""),
        f"{_duration(trained)} of training" + (f", started {about['started']}" if "started" in about else ""),
        f"Model {asked.get('model', '')}" + (f", {said}" if said else ""),
    ]
    crash = f"Crashed at step {past.crash.step}: {past.crash.error}" if past.crash is not None else ""
    told = "".join(f"<p>{_clean(line)}</p>" for line in lines)
    return f"<h1>{_clean(session.name)}</h1>{told}" + (f"<p class='bad'>{_clean(crash)}</p>" if crash else "")


def _sections(session: Watched, past: Past) -> str:
    asked, about = _asked(session)
    recorded = session.recipe.record_chats
    versions = {**_part(about, "versions"), "jupyter_ft": about.get("jupyter_ft", __version__)}
    written = time.strftime("%Y-%m-%d %H:%M:%S")
    parts = [
        _table("Changes", ("step", "field", "old", "new"), _changes(past)),
        _table("Held-out rows", ("step", "eval_loss", "", "rows", "seconds", "besides"), _evaluations(past)),
        _confusion(past),
        _table("Notices", ("step", "level", "what"), [(n.step, level_of(n), n.said) for n in past.notices]),
        _table("Refused steps", ("step", "loss", "grad_norm", "rows of the data"), _refused(past)),
        _table("Checkpoints", ("step", "MB", "seconds", "folder"), _checkpoints(past)),
        f"<h2>Probes</h2>{probes}" if recorded and (probes := probes_table(past)) else "",
        f"<h2>Chats</h2>{chats(past, CHATS_SHOWN)}" if recorded and past.replies else "",
        f"<h2>Recipe</h2><pre class='recipe'>{_clean(_yaml(without_secrets(asked)))}</pre>",
        _table("Versions", ("package", "version"), [(name, versions[name]) for name in sorted(versions)]),
        f"<p class='dim'>Written {written} by jupyter-ft {__version__}, while the run was {session.state}.</p>",
    ]
    return "".join(parts)


def _changes(past: Past) -> list[tuple[object, ...]]:
    return [
        (change.step, name, shown(old), shown(new))
        for change in past.changes
        for name, (old, new) in change.changes.items()
    ]


def _evaluations(past: Past) -> list[tuple[object, ...]]:
    best = past.evals[-1].best_step if past.evals else None
    return [
        (
            event.step,
            shown(event.metrics.get("eval_loss")),
            "best" if event.step == best else "",
            event.rows,
            f"{event.seconds:.1f}",
            ", ".join(
                f"{name.removeprefix('eval_')} {shown(v)}" for name, v in event.metrics.items() if _besides(name)
            ),
        )
        for event in past.evals
    ]


def _besides(name: str) -> bool:
    """Whether a metric is told in a word beside the loss: a classifier's recalls have a table of their own."""
    return name != "eval_loss" and not name.startswith("eval_recall_")


def _confusion(past: Past) -> str:
    """Of a classifier: which label was taken for which at the best step, else at the last one that tells."""
    told = [event for event in past.evals if event.confusion is not None]
    best = [event for event in told if event.step == past.evals[-1].best_step]
    for event in (best or told)[-1:]:
        assert event.confusion is not None
        labels, counts = event.confusion.labels, event.confusion.counts
        scores = [f"{name} {shown(event.metrics[key])}" for name, key in _SCORES if key in event.metrics]
        title = f"Labels at step {event.step}: {', '.join(scores)}"
        rows = [
            (label, *row, shown(round(row[at] / sum(row), 2)) if sum(row) else "")
            for at, (label, row) in enumerate(zip(labels, counts, strict=True))
        ]
        return _table(title, ("label, taken for", *labels, "recall"), rows)
    return ""


_SCORES = (("accuracy", "eval_accuracy"), ("macro F1", "eval_f1_macro"))


def _refused(past: Past) -> list[tuple[object, ...]]:
    refused = {refusal.step: refusal for refusal in past.refused}
    found: list[tuple[object, ...]] = []
    for step in past.bad_steps:
        if step not in refused:
            found.append((step, "not finite", "", ""))
            continue
        one = refused[step]
        found.append((step, shown(one.loss), shown(one.grad_norm), ", ".join(map(str, one.rows[:40]))))
    return found


def _checkpoints(past: Past) -> list[tuple[object, ...]]:
    return [
        (saved.step, f"{saved.bytes / 1e6:.1f}", f"{saved.seconds:.1f}", Path(saved.path).name)
        for saved in past.checkpoints
    ]


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    listed = list(rows)
    if not listed:
        return ""
    left_out = f"<p class='dim'>The last {ROWS_SHOWN} of {len(listed)}.</p>" if len(listed) > ROWS_SHOWN else ""
    head = "".join(f"<th>{_clean(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in listed[-ROWS_SHOWN:])
    return f"<h2>{title}</h2>{left_out}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return f"<td class='number'>{value}</td>" if isinstance(value, int) else f"<td>{_clean(str(value))}</td>"


def _clean(text: str) -> str:
    return escape(printable(text))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- the recipe -------------------------------------------------------------------------------------------------------


def _asked(session: Watched) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe as the run folder has it, and what stands beside it there."""
    try:
        return RunFolder(session.folder).read_recipe()
    except RunFolderError:
        recipe = session.recipe
        return recipe.model_dump(mode="json") | recipe.hyperparameters.model_dump(mode="json"), {}


def _part(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = about.get(key)
    return part if isinstance(part, dict) else {}


def _yaml(asked: Mapping[str, Any]) -> str:
    told = {key: value for key, value in asked.items() if value not in (None, "", {}, [])}
    return str(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
