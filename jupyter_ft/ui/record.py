"""The static record of a run: the curve, the changes and the last chats as HTML without scripts, or as plain text.

It is what a saved notebook shows without a kernel. Everything from a model, a dataset or an error is escaped; replies
are rendered from markdown with HTML off and then sanitised.
"""

from __future__ import annotations

from functools import cache
from html import escape

import nh3
import numpy as np
from markdown_it import MarkdownIt

from jupyter_ft.event_log import Floats
from jupyter_ft.messages import ReplyDone
from jupyter_ft.ui.thin import thin
from jupyter_ft.ui.watched import Past, Watched, change_text, past_of, printable, shown

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 26  # of the plot, around its axes
POINTS = 1200
CHANGES_SHOWN = 50
CHATS_SHOWN = 6
TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "del", "code", "pre", "blockquote", "a"),
    *("ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
STYLE = """
.jft-record{--ink:var(--jp-ui-font-color1,var(--vscode-foreground,currentColor));--line:#3b82d6;--bad:#d64545;
--mark:#b7791f;font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);color:var(--ink);max-width:760px}
.jft-record svg{width:100%;height:auto;display:block;color:var(--ink)}
.jft-record svg text{font:11px system-ui,sans-serif;fill:currentColor;opacity:.7}
.jft-record table{border-collapse:collapse;margin:.4em 0 .8em;font-size:12px;color:inherit}
.jft-record p{margin:.4em 0}.jft-record svg{margin:.2em 0 .4em}
.jft-record th,.jft-record td{text-align:left;padding:2px 10px 2px 0;border-bottom:1px solid #8884}
.jft-record .said{border-left:3px solid var(--line);padding:0 0 0 10px;margin:.3em 0 .8em;overflow-wrap:anywhere}
.jft-record .dim{opacity:.65}.jft-record .bad{color:var(--bad)}.jft-record pre{white-space:pre-wrap}
"""


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table").disable("image")


def safe_markdown(text: str) -> str:
    """HTML for text from a model: markdown only, no images, links to http and https only."""
    return nh3.clean(
        _markdown().render(text),
        tags=TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer",
    )


def record_html(session: Watched) -> str:
    """The run as one piece of HTML: no script, nothing loaded from anywhere."""
    past = past_of(session)
    parts = [
        f"<style>{STYLE}</style>",
        f"<p><strong>{escape(session.name)}</strong> <span class='dim'>· {escape(_headline(session, past))}</span></p>",
        _crash(past),
        curve_svg(past),
        _changes_table(past),
        _chats(past) if session.recipe.record_chats else "",
    ]
    return f"<div class='jft-record'>{''.join(parts)}</div>"


def record_text(session: Watched) -> str:
    """The run in a few lines for a terminal."""
    past = past_of(session)
    lines = [f"{session.name} · {_headline(session, past)}"]
    if past.crash is not None:
        lines.append(f"  crashed at step {past.crash.step}: {past.crash.error}")
    if past.bad_steps:
        lines.append(f"  not finite at {_step_list(past.bad_steps)}")
    lines += [f"  step {change.step}: {change_text(change)}" for change in past.changes[-CHANGES_SHOWN:]]
    if session.recipe.record_chats:
        for reply in past.replies[-CHATS_SHOWN:]:
            lines += [f"  > {reply.prompt}", f"  {_speaker(reply)}: {reply.text}"]
    return printable("\n".join(lines))


def _headline(session: Watched, past: Past) -> str:
    said = [session.state, f"step {session.step}" + (f" of {session.total_steps}" if session.total_steps else "")]
    losses = past.steps["loss"]
    if len(losses):
        said.append(f"loss {shown(float(losses[-1]))}")
    return " · ".join(said)


def _step_list(steps: list[int]) -> str:
    listed = ", ".join(str(step) for step in steps[:10])
    more = f" and {len(steps) - 10} more" if len(steps) > 10 else ""
    return f"step{'s' if len(steps) > 1 else ''} {listed}{more}"


def _speaker(reply: ReplyDone) -> str:
    return "base" if reply.at == "base" else f"{reply.at}, step {reply.step}"


def _crash(past: Past) -> str:
    if past.crash is None:
        return ""
    return f"<p class='bad'>Crashed at step {past.crash.step}: {escape(past.crash.error)}</p>"


# --- the curve --------------------------------------------------------------------------------------------------------


def curve_svg(past: Past) -> str:
    """The loss as inline SVG: the line broken where it is not finite, a red tick there, a dashed line per change."""
    steps = thin(past.steps, POINTS, watched=("loss",))
    x, y = steps["step"], steps["loss"]
    if not len(x):
        return "<p class='dim'>No step yet.</p>"
    low, high = _bounds(y[np.isfinite(y)])
    across = LEFT + (x - x[0]) / max(1.0, x[-1] - x[0]) * (WIDTH - LEFT - RIGHT)
    down = TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)
    inside = [
        _axes(low, high, int(x[0]), int(x[-1])),
        f"<path d='{_path(across, down)}' fill='none' stroke='var(--line,#3b82d6)' stroke-width='1.4'/>",
        *(_tick(step, x) for step in past.bad_steps[:200]),
        *(_mark(change.step, x, change_text(change)) for change in past.changes[-200:]),
    ]
    label = f"Loss from step {int(x[0])} to {int(x[-1])}, last {shown(float(y[-1]))}"
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(label)}'>{''.join(inside)}</svg>"


def _bounds(finite: Floats) -> tuple[float, float]:
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    pad = 0.06 * (high - low) or max(abs(high) * 0.1, 0.1)
    return low - pad, high + pad


def _path(across: Floats, down: Floats) -> str:
    pieces, pen_up = [], True
    for x, y in zip(across, down, strict=True):
        if np.isfinite(y):
            pieces.append(f"{'M' if pen_up else 'L'}{x:.1f} {y:.1f}")
        pen_up = not np.isfinite(y)
    return "".join(pieces)


def _at(step: int, x: Floats) -> float:
    first, last = float(x[0]), float(x[-1])
    return LEFT + min(1.0, max(0.0, (step - first) / max(1.0, last - first))) * (WIDTH - LEFT - RIGHT)


def _tick(step: int, x: Floats) -> str:
    at, top = _at(step, x), HEIGHT - BOTTOM
    line = f"x1='{at:.1f}' x2='{at:.1f}' y1='{top - 12}' y2='{top}' stroke='var(--bad,#d64545)' stroke-width='2.5'"
    return f"<line class='bad' {line}><title>step {step}: not finite</title></line>"


def _mark(step: int, x: Floats, text: str) -> str:
    at = _at(step, x)
    line = f"x1='{at:.1f}' x2='{at:.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}' stroke='var(--mark,#b7791f)'"
    return f"<line {line} stroke-dasharray='4 3'><title>step {step}: {escape(text)}</title></line>"


def _axes(low: float, high: float, first: int, last: int) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = [f"<path d='M{LEFT} {TOP}V{bottom}H{right}' fill='none' stroke='currentColor' opacity='.35'/>"]
    for part in (0.0, 0.5, 1.0):
        y, x = TOP + (1 - part) * (bottom - TOP), LEFT + part * (right - LEFT)
        drawn.append(
            f"<text x='{LEFT - 6}' y='{y + 4:.0f}' text-anchor='end'>{shown(low + part * (high - low))}</text>"
        )
        anchor = ("start", "middle", "end")[int(part * 2)]
        step = round(first + part * (last - first))
        drawn.append(f"<text x='{x:.0f}' y='{HEIGHT - 8}' text-anchor='{anchor}'>{step}</text>")
    return "".join(drawn)


# --- the tables -------------------------------------------------------------------------------------------------------


def _changes_table(past: Past) -> str:
    said = f"<p class='bad'>Not finite at {_step_list(past.bad_steps)}.</p>" if past.bad_steps else ""
    rows = [
        f"<tr><td>{change.step}</td><td>{escape(change_text(change))}</td></tr>"
        for change in past.changes[-CHANGES_SHOWN:]
    ]
    if not rows:
        return said
    return f"{said}<table><thead><tr><th>Step</th><th>Change</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _chats(past: Past) -> str:
    return "".join(
        f"<div class='dim'>{escape(reply.prompt)}</div>"
        f"<div class='said'><div class='dim'>{escape(_speaker(reply))}</div>{safe_markdown(reply.text)}</div>"
        for reply in past.replies[-CHATS_SHOWN:]
    )
