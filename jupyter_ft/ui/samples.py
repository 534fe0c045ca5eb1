"""The Samples tab: what the base and the steps along the run answer to fixed prompts, as a film strip.

Text of prompts and models is escaped; what differs is marked word by word.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from html import escape
from itertools import pairwise

from jupyter_ft.event_log import Cursor
from jupyter_ft.messages import Probed, Resumed
from jupyter_ft.ui.served import Page, Said
from jupyter_ft.ui.watched import Watched

FRAMES = 40  # of a strip, the newest; the base always
LONGEST = 4000  # characters of an answer that are compared and shown
RUN = 3  # words that two answers have in common
ALIKE = 0.25  # of the shorter one; with less in common it is another answer
HOW = (
    "Nothing was asked along this run. <code>probes: [a prompt, another]</code> in the recipe asks the base before the "
    "first step, and the run every N steps."
)
STYLE = """
.jft-samples h4{margin:14px 0 6px;font-size:13px;white-space:pre-wrap;overflow-wrap:anywhere}
.jft-samples section:first-child h4{margin-top:0}
.jft-samples .pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr));gap:8px 14px}
.jft-samples .film{display:flex;gap:10px;overflow-x:auto;padding:8px 0 6px}
.jft-samples .film .frame{flex:0 0 240px;max-height:240px;overflow:auto}
.jft-samples .frame{border:1px solid var(--jft-edge);border-radius:6px;padding:6px 9px;min-width:0}
.jft-samples .frame b,.jft-samples .frame button{display:block;margin-bottom:4px!important;font-size:12px}
.jft-samples .text{white-space:pre-wrap;overflow-wrap:anywhere}
.jft-samples summary{cursor:pointer;color:var(--jft-dim);font-size:12px;padding-top:6px}
.jft-samples ins{text-decoration:none;border-radius:2px;background:color-mix(in srgb,var(--jft-save) 26%,transparent)}
.jft-samples del{color:var(--jft-dim);background:color-mix(in srgb,var(--jft-bad) 14%,transparent)}
.jft-samples .same{color:var(--jft-dim);font-size:12px}
"""


class SamplesTab:
    """Reads the log further each time that it is asked."""

    version = 0

    def __init__(self, session: Watched) -> None:
        self._session = session
        self._seen = Cursor()
        self._probed: list[Probed] = []

    def page(self, said: Said) -> Page:
        """All prompts; the newest answers first."""
        news, self._seen = self._session.log.read(self._seen, steps="none")
        for event in news.events:
            if isinstance(event, Probed):
                self._probed.append(event)
            elif isinstance(event, Resumed):
                self._probed = [one for one in self._probed if one.step <= event.step]
        if not self._probed:
            asked = bool(getattr(self._session.recipe, "probes", None))
            waits = "The base answers the probes before the first step."
            return Page(f"<p class='jft-dim'>{waits if asked else HOW}</p>")
        return Page(f"<div class='jft-samples'>{samples_html(self._probed, self._session.visitable)}</div>", STYLE)


def by_prompt(probed: list[Probed]) -> list[list[Probed]]:
    """The answers to each prompt, the base's first, then by step; of a step answered twice, the last."""
    strips: dict[int, dict[tuple[bool, int], Probed]] = {}
    for one in probed:
        strips.setdefault(one.number, {})[one.at != "base", one.step] = one
    return [[strips[number][place] for place in sorted(strips[number])] for number in sorted(strips)]


def samples_html(probed: list[Probed], kept: list[int] | None = None) -> str:
    """A section for each prompt: the base against now, then the strip; steps that are `kept` can be talked to."""
    return "".join(_strip(frames, kept or []) for frames in by_prompt(probed))


def _strip(frames: list[Probed], kept: list[int]) -> str:
    first, now = frames[0], frames[-1]
    pair = _frame(first, None, kept) + (_frame(now, first, kept, "now, ") if now is not first else "")
    head = f"<section><h4>{escape(first.prompt)}</h4><div class='pair'>{pair}</div>"
    if len(frames) < 3:
        return f"{head}</section>"
    shown = [first, *frames[1:][-FRAMES:]]
    film = _frame(first, None, kept) + "".join(_frame(after, before, kept) for before, after in pairwise(shown))
    left_out = f", the last {FRAMES}" if len(frames) > len(shown) else ""
    summary = f"Along the run: {len(frames) - 1} steps{left_out}, each against the one before"
    return f"{head}<details open><summary>{summary}</summary><div class='film'>{film}</div></details></section>"


def _frame(one: Probed, before: Probed | None, kept: list[int], said: str = "") -> str:
    name = "base" if one.at == "base" else f"{said}step {one.step}"
    step = "base" if one.at == "base" else str(one.step)
    head = f"<b>{name}</b>"
    if one.at == "base" or one.step in kept:
        about = f"data-testid='frame-{step}' title='Chat with {'the base' if step == 'base' else f'step {step}'}'"
        head = f"<button class='jft-small' data-chat='{step}' {about}>{name}</button>"
    cut = "…" if one.ended == "length" else ""
    same = before is not None and before.text == one.text
    told = "<span class='same'>the same</span>" if same else ""
    text = escape(one.text[:LONGEST]) if before is None or same else difference(before.text, one.text)
    return f"<div class='frame'>{head}<div class='text'>{text}{cut}</div>{told}</div>"


@lru_cache(maxsize=2048)
def difference(old: str, new: str) -> str:
    """`new` as HTML, with what it has and `old` had not in `<ins>`, and what it has no longer in `<del>`.

    Few words in common are chance: they are not kept among what changed, and of another answer nothing is struck out.
    """
    a, b = (re.findall(r"\S+\s*|^\s+", text[:LONGEST]) for text in (old, new))
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    ends = ((0, 0), (len(a), len(b)))
    common = [m for m in blocks if m.size >= RUN or (m.a, m.b) in ends or (m.a + m.size, m.b + m.size) in ends]
    if sum(m.size for m in common) < ALIKE * min(len(a), len(b)):
        return f"<ins>{escape(''.join(b))}</ins>"
    written, at, to = [], 0, 0
    for m in common:
        written += [f"<del>{escape(''.join(a[at : m.a]))}</del>"] if m.a > at else []
        written += [f"<ins>{escape(''.join(b[to : m.b]))}</ins>"] if m.b > to else []
        written.append(escape("".join(b[m.b : m.b + m.size])))
        at, to = m.a + m.size, m.b + m.size
    return "".join(written)
