"""The static record of a run: the curve, the changes and the last chats as HTML without scripts, or as plain text.

It is what a saved notebook shows without a kernel. Everything from a model, a dataset or an error is escaped; replies
are rendered from markdown with HTML off and then sanitised.
"""

from __future__ import annotations

import math
import re
from functools import cache
from html import escape

import nh3
from markdown_it import MarkdownIt

from jupyter_ft.messages import Health, MemoryShort, ReplyDone
from jupyter_ft.ui.curve import curve_image
from jupyter_ft.ui.watched import Past, Watched, change_text, held_out, past_of, printable, shown

CHANGES_SHOWN = 50
CHATS_SHOWN = 6
TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "del", "code", "pre", "blockquote", "a"),
    *("ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
STYLE = """
.jft-record{font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif);max-width:760px;
color:var(--jp-ui-font-color1,var(--vscode-foreground,currentColor))}
.jft-record .curve{display:block;width:100%;height:auto;margin:.2em 0 .4em}
.jft-record table{border-collapse:collapse;margin:.4em 0 .8em;font-size:12px;color:inherit}
.jft-record p{margin:.4em 0}.jft-record summary{cursor:pointer}
.jft-record table :is(th,td){text-align:left!important;padding:2px 10px 2px 0;border-bottom:1px solid #8884}
.jft-record .said{border-left:3px solid #3b82d6;padding:0 0 0 10px;margin:.3em 0 .8em;overflow-wrap:anywhere}
.jft-record .dim{opacity:.65}.jft-record .bad{color:#d64545}.jft-record .amber{color:#b7791f}
.jft-record pre{white-space:pre-wrap}.jft-record .probes td{vertical-align:top;overflow-wrap:anywhere}
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
    title = f"<p>{_title(session, past)}</p>"
    return f"<style>{STYLE}</style><div class='jft-record'>{title}{_body(session, past)}</div>"


def folded_record(session: Watched, *, unfolded: bool, mark: str) -> str:
    """The record under a line that can be clicked open, where something better stands above it; found by its `mark`."""
    past = past_of(session)
    inside = f"<summary>{_title(session, past)}</summary>{_body(session, past)}"
    about = f"class='jft-record jft-below' data-record='{mark}'{' open' if unfolded else ''}"
    return f"<style>{STYLE}</style><details {about}>{inside}</details>"


def _title(session: Watched, past: Past) -> str:
    return f"<strong>{escape(session.name)}</strong> <span class='dim'>· {escape(headline(session, past))}</span>"


def _body(session: Watched, past: Past) -> str:
    parts = [
        _crash(past),
        _why(past),
        _notice(past),
        _warning(session, past),
        curve_image(past),
        _held_out(past),
        _changes_table(past),
        *([probes_table(past), chats(past, CHATS_SHOWN)] if session.recipe.record_chats else []),
    ]
    return "".join(parts)


def record_text(session: Watched) -> str:
    """The run in a few lines for a terminal."""
    past = past_of(session)
    lines = [f"{session.name} · {headline(session, past)}"]
    if past.crash is not None:
        lines.append(f"  crashed at step {past.crash.step}: {past.crash.error}")
    lines += [f"  {why}"] if (why := why_text(past)) else []
    lines += [f"  {with_step(notice)}" for notice in past.notices[-1:] if level_of(notice) != "green"]
    if warned := warning_text(session, past):
        lines.append(f"  {warned}")
    if best := best_text(past):
        lines.append(f"  {best}")
    if past.bad_steps:
        lines.append(f"  not finite at {_step_list(past.bad_steps)}")
    lines += [f"  step {change.step}: {change_text(change)}" for change in past.changes[-CHANGES_SHOWN:]]
    if session.recipe.record_chats:
        names, *probes = _strip(past) or [[]]
        for prompt, *spoken in probes:
            lines += [f"  > {prompt}", *(f"  {at.lower()}: {text}" for at, text in zip(names[1:], spoken, strict=True))]
        for reply in past.replies[-CHATS_SHOWN:]:
            lines += [f"  > {reply.prompt}", f"  {_speaker(reply)}: {reply.text}"]
    return printable("\n".join(lines))


def headline(session: Watched, past: Past) -> str:
    """`finished · step 40 of 40 · loss 1.234`; of a policy, whose loss has no level, the reward."""
    said = [session.state, f"step {session.step}" + (f" of {session.total_steps}" if session.total_steps else "")]
    by = "reward" if "reward" in past.steps else "loss"
    last = next((float(value) for value in reversed(past.steps[by]) if by == "loss" or not math.isnan(value)), None)
    if last is not None:
        said.append(f"{by} {shown(last)}")
    return " · ".join(said)


def best_text(past: Past) -> str:
    """`held-out loss 2.31 → 1.62, lowest 1.58 at step 80`; empty where no held-out rows were scored."""
    steps, losses = held_out(past)
    if not steps:
        return ""
    best = past.evals[-1].best_step
    rewards = {event.step: event.metrics["eval_reward"] for event in past.evals if "eval_reward" in event.metrics}
    if best in rewards:  # of a policy, whose loss has no level of its own
        first, *_, last = [*rewards.values()] * 2
        return f"held-out reward {shown(first)} → {shown(last)}, highest {shown(rewards[best])} at step {best}"
    lowest = dict(zip(steps, losses, strict=True)).get(best)
    moved = shown(losses[0]) if len(losses) == 1 else f"{shown(losses[0])} → {shown(losses[-1])}"
    metric = past.evals[-1].best_metric
    if metric != "eval_loss":
        worth = next(
            (event.metrics[metric] for event in past.evals if event.step == best and metric in event.metrics), 0
        )
        return f"held-out loss {moved}, best {metric.removeprefix('eval_')} {shown(float(worth))} at step {best}"
    return f"held-out loss {moved}" + (f", lowest {shown(lowest)} at step {best}" if lowest is not None else "")


def why_text(past: Past) -> str:
    """Why it waits, is paused or has ended; empty where the last notice says so."""
    noticed = any(past.why in notice.said or notice.said in past.why for notice in past.notices[-1:])
    return "" if noticed else past.why


def warning_text(session: Watched, past: Past) -> str:
    """The first thing that the run does without, and how many more there are; empty where it lacks none."""
    first, *more = [*dict.fromkeys(past.warnings)] or [""]
    return first + (f" (and {len(more)} more: %ft logs {session.name} --level warning)" if more else "")


def level_of(notice: Health | MemoryShort) -> str:
    """`green`, `amber` or `red`; memory that ran out is amber where the run goes on, red where it pauses."""
    if isinstance(notice, Health):
        return notice.level
    return "amber" if notice.micro_batch else "red"


def with_step(notice: Health | MemoryShort) -> str:
    """What a notice says, and at which step where it does not say so itself."""
    if re.search(rf"\bstep {notice.step}\b", notice.said, re.IGNORECASE):
        return notice.said[:1].upper() + notice.said[1:]
    return f"Step {notice.step}: {notice.said}"


def _step_list(steps: list[int]) -> str:
    listed = ", ".join(str(step) for step in steps[:10])
    more = f" and {len(steps) - 10} more" if len(steps) > 10 else ""
    return f"step{'s' if len(steps) > 1 else ''} {listed}{more}"


def _speaker(reply: ReplyDone) -> str:
    if reply.at.isdecimal():
        return f"step {reply.at}"
    return "base" if reply.at == "base" else f"{reply.at}, step {reply.step}"


def _crash(past: Past) -> str:
    if past.crash is None:
        return ""
    return f"<p class='bad'>Crashed at step {past.crash.step}: {escape(past.crash.error)}</p>"


def _notice(past: Past) -> str:
    if not past.notices or level_of(past.notices[-1]) == "green":
        return ""
    last = past.notices[-1]
    kind = "bad" if level_of(last) == "red" else "amber"
    return f"<p class='{kind}'>{escape(with_step(last))}</p>"


def _why(past: Past) -> str:
    why = why_text(past)
    return f"<p>{escape(printable(why[0].upper() + why[1:]))}</p>" if why else ""


def _warning(session: Watched, past: Past) -> str:
    warned = warning_text(session, past)
    return f"<p class='amber'>{escape(printable(warned))}</p>" if warned else ""


def _held_out(past: Past) -> str:
    best = best_text(past)
    return f"<p>{escape(best[0].upper() + best[1:])}</p>" if best else ""


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


def _strip(past: Past) -> list[list[str]]:
    """The probes as they are now: a line of names, then each prompt with what the base and the last step answered."""
    base = {answer.number: answer.text for answer in past.probes if answer.at == "base"}
    spoken = [answer for answer in past.probes if answer.at == "live"]
    last = max((answer.step for answer in spoken), default=0)
    now = sorted((answer.number, answer) for answer in spoken if answer.step == last)
    rows = [[answer.prompt, *([base.get(number, "")] if base else []), answer.text] for number, answer in now]
    return [["Probe", *(["Base"] if base else []), f"Step {last}"], *rows] if rows else []


def probes_table(past: Past) -> str:
    """The probes, base against now; everything escaped."""
    names, *rows = _strip(past) or [[]]
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table class='probes'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    return escape(printable(text)).replace("\n", "<br>")


def chats(past: Past, most: int) -> str:
    """The last replies; what models said is sanitised."""
    return "".join(
        f"<div class='dim'>{escape(reply.prompt)}</div>"
        f"<div class='said'><div class='dim'>{escape(_speaker(reply))}</div>{safe_markdown(reply.text)}</div>"
        for reply in past.replies[-most:]
    )
