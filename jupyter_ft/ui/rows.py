"""A look at rows as HTML without scripts, or as plain text.

Text of the data is escaped, and characters that cannot be seen are named. Marks are elements that still say something
where a sanitiser takes the stylesheet away (GitHub).
"""

from __future__ import annotations

import base64
from html import escape
from unicodedata import name as name_of

import numpy as np
from numpy.typing import NDArray

from jupyter_ft.data.look import Look, Overview, Shown
from jupyter_ft.data.pieces import Column, Piece

from .watched import printable

PAGE = 8
BINS = 24
LEVELS = "▁▂▃▄▅▆▇█"
MOST_DROPPED = 50
AGAINST = ("rejected",)
"""Answers that the model learns not to give."""
STYLE = """
.jft-data{--on:#2da44e;--warn:#bf8700;--bad:#d1242f;--line:#8883;max-width:1100px;
font:13px/1.5 var(--jp-ui-font-family,var(--vscode-font-family,system-ui,sans-serif));
color:var(--jp-ui-font-color1,var(--vscode-foreground,currentColor));font-variant-numeric:tabular-nums}
.jft-data p,.jft-data ul{margin:.25em 0}.jft-data .dim{opacity:.68}
.jft-data .sum{display:flex;flex-wrap:wrap;align-items:flex-end;gap:10px 30px;margin:.7em 0}
.jft-data .fig b{display:block;font-size:19px;font-weight:600;line-height:1.2}.jft-data .fig i{display:none}
.jft-data .hist{display:block;width:300px;max-width:100%;height:auto}
.jft-data ul.beware{list-style:none;padding:0}
.jft-data .beware li{border-left:3px solid var(--warn);padding:1px 0 1px 9px;margin:4px 0}
.jft-data summary{cursor:pointer;opacity:.75}
.jft-data .key{font-size:12px;margin:.9em 0 .4em}
.jft-data .row{border:1px solid var(--line);border-radius:6px;margin:0 0 10px;overflow:hidden}
.jft-data .head{display:flex;flex-wrap:wrap;gap:0 12px;padding:3px 10px;background:#8881;
border-bottom:1px solid var(--line);font-size:12px}
.jft-data .tag{color:var(--warn);font-weight:600}.jft-data .dropped .tag{color:var(--bad)}
.jft-data .cols{display:flex;flex-wrap:wrap}.jft-data .col{flex:1 1 300px;min-width:0}
.jft-data .col:not(.wide)+.col{border-left:1px solid var(--line)}
.jft-data .wide{flex-basis:100%}.jft-data .wide:not(:last-child){border-bottom:1px solid var(--line)}
.jft-data .name{padding:4px 10px 0;font-size:11px;font-weight:600;opacity:.68}
.jft-data pre{margin:0;padding:5px 10px 7px;background:none;border:0;color:inherit;max-height:440px;overflow:auto;
white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;
font:12.5px/1.6 var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace))}
.jft-data pre span{opacity:.62}.jft-data del{opacity:.45}
.jft-data mark{background:#2da44e33;color:inherit;border-radius:2px;padding:1px 0;
-webkit-box-decoration-break:clone;box-decoration-break:clone}
.jft-data code{font:inherit;font-size:.86em;color:inherit;background:#8882;border:1px solid #8885;
border-radius:4px;padding:0 3px;margin:0 1px}
.jft-data mark code{background:#2da44e33;border-color:#2da44e88}
.jft-data .against mark{background:#d1242f2b}
.jft-data .against mark code{background:#d1242f2b;border-color:#d1242f88}
.jft-data var{font:inherit;font-size:.8em;font-weight:600;background:var(--bad);color:#fff;
border-radius:3px;padding:0 3px;margin:0 1px}
.jft-data em{display:block;font:600 11px/1.4 system-ui,sans-serif;color:var(--warn);
border-top:1px dashed currentColor;margin:5px 0 2px}
"""


def look_html(look: Look, first: int = 0, count: int = PAGE) -> str:
    """The overview and a page of rows: nothing is loaded from anywhere, nothing runs."""
    return f"<style>{STYLE}</style>{page_html(look, first, count)}"


def page_html(look: Look, first: int = 0, count: int = PAGE, *, told: bool = True, note: str = "") -> str:
    """The same without the stylesheet; `told`: with the overview. `note` stands above the rows."""
    rows = "".join(_row(shown, look.overview.by_token) for shown in look.page(first, count))
    above = _overview(look.overview) if told else ""
    noted = f"<ul class='beware'><li>{escape(note)}</li></ul>" if note else ""
    return f"<div class='jft-data'>{above}{KEY}{noted}{rows}{_more(look, first, count)}</div>"


KEY = (
    "<p class='key'><mark>trained</mark> · <span class='dim'>read, not trained</span> · <code>special token</code> · "
    "<del>cut off</del> · <var>U+200B</var> <span class='dim'>a character that cannot be seen</span></p>"
)


def _more(look: Look, first: int, count: int) -> str:
    left = len(look.rows) - first - count
    return f"<p class='dim'>{left:,} more rows</p>" if left > 0 else ""


# --- the overview -----------------------------------------------------------------------------------------------------


def _overview(told: Overview) -> str:
    title, _, rest = told.title.partition(" · ")
    said = "".join(f"<p class='dim'>{escape(line)}</p>" for line in told.said)
    head = f"<p><strong>{escape(title)}</strong> <span class='dim'>· {escape(rest)}</span></p>"
    return f"{head}{said}{_sum(told)}{_beware(told)}"


def _figures(told: Overview) -> list[tuple[str, str]]:
    """Each figure and what it counts."""
    share = told.trained / max(told.tokens, 1)
    of = f"of the first {told.of_first:,} rows" if told.of_first else ""
    held_out = [(f"{told.held_out:,}", "held out")] if told.held_out else []
    trained = (f"{share:.0%}" if share >= 0.01 or not share else f"{share:.1%}", "of them trained")
    rows = (f"{told.rows:,}", f"rows to train on {of}".strip())
    return [rows, *held_out, (f"{told.tokens:,}", "tokens"), *([trained] if told.by_token else [])]


def _sum(told: Overview) -> str:
    if not len(told.lengths):
        return ""
    tiles = "".join(f"<div class='fig'><b>{figure}</b> {what}<i> · </i></div>" for figure, what in _figures(told))
    caption = _spread(told.lengths)
    picture = f"<img class='hist' alt='{escape(caption)}' src='{_histogram(told.lengths)}'>"
    return f"<div class='sum'>{tiles}<div class='fig'>{picture}<span class='dim'>{escape(caption)}</span></div></div>"


def _spread(lengths: NDArray[np.int64]) -> str:
    middle, most = np.percentile(lengths, [50, 95]).astype(int)
    return f"tokens a row: {lengths.min():,} to {lengths.max():,}, half up to {middle:,}, 95% up to {most:,}"


def _bins(lengths: NDArray[np.int64], bins: int = BINS) -> NDArray[np.int64]:
    low, high = int(lengths.min()), int(lengths.max())
    counts: NDArray[np.int64] = np.histogram(lengths, bins=bins, range=(low - 0.5, high + 0.5))[0]
    return counts


def _histogram(lengths: NDArray[np.int64]) -> str:
    """An SVG of its own, since a sanitiser takes away one in the page; its colours go with light and dark."""
    counts = _bins(lengths)
    heights = np.where(counts > 0, np.maximum(2, counts / counts.max() * 40), 0)
    bars = "".join(
        f"<rect x='{at * 12.5:.1f}' y='{44 - height:.1f}' width='11' height='{height:.1f}' rx='1.5'/>"
        for at, height in enumerate(heights)
        if height
    )
    line = "<path d='M0 45.5H300' stroke='#888' stroke-opacity='.5'/>"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 300 47' fill='#3b82d6'>{bars}{line}</svg>"
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _beware(told: Overview) -> str:
    listed = "".join(f"<li>{escape(line)}</li>" for line in told.cautions)
    if len(told.dropped) > 1:
        rows = "".join(f"<li>row {number:,}: {escape(why)}</li>" for number, why in told.dropped[:MOST_DROPPED])
        more = len(told.dropped) - MOST_DROPPED
        rest = f"<li>{more:,} more</li>" if more > 0 else ""
        folded = f"<details><summary>Rows that are dropped</summary><ul>{rows}{rest}</ul></details>"
        return f"<ul class='beware'>{listed}</ul>{folded}"
    return f"<ul class='beware'>{listed}</ul>" if listed else ""


# --- a row ------------------------------------------------------------------------------------------------------------


def _counted(shown: Shown, by_token: bool) -> str:
    if not by_token:
        return f"{shown.tokens:,} tokens"
    share = f" ({shown.trained / shown.tokens:.0%})" if shown.tokens else ""
    return f"{shown.tokens:,} tokens, {shown.trained:,} trained{share}"


def _row(shown: Shown, by_token: bool) -> str:
    wide = [column for column in shown.columns if not _answers(column, shown)]
    beside = [column for column in shown.columns if _answers(column, shown)]
    state = f"<span class='tag'>{shown.state}</span>" if shown.state != "train" else ""
    note = f"<span>{escape(shown.note)}</span>" if shown.note else ""
    head = f"<strong>Row {shown.number:,}</strong><span class='dim'>{_counted(shown, by_token)}</span>{state}{note}"
    columns = "".join(_column(column, "col wide") for column in wide) + "".join(_column(c, "col") for c in beside)
    kind = f"row {shown.state.replace(' ', '-')}"
    return f"<div class='{kind}'><div class='head'>{head}</div><div class='cols'>{columns}</div></div>"


def _answers(column: Column, shown: Shown) -> bool:
    """Whether a column stands beside others: answers to one prompt do."""
    return len(shown.columns) > 2 and column is not shown.columns[0]


def _column(column: Column, kind: str) -> str:
    name = f"<div class='name'>{escape(column.name)} · {column.tokens:,} tokens</div>" if column.name else ""
    kind += " against" if column.name in AGAINST else ""
    return f"<div class='{kind}'>{name}<pre>{''.join(map(_piece, column.pieces))}</pre></div>"


_ELEMENT = {"given": "span", "trained": "mark", "lost": "del", "mark": "em"}


def _piece(piece: Piece) -> str:
    element, text = _ELEMENT[piece.kind], escape(piece.text)
    if piece.shape == "token":
        text = f"<code>{text}</code>"
    elif piece.shape == "hidden":
        text = f"<var title='{escape(name_of(chr(int(piece.text[2:], 16)), 'control character'))}'>{text}</var>"
    return f"<{element}>{text}</{element}>"


# --- plain text -------------------------------------------------------------------------------------------------------


def look_text(look: Look, first: int = 0, count: int = PAGE) -> str:
    """The same for a terminal; what is trained stands in «»."""
    told = look.overview
    lines = [told.title, *(f"  {line}" for line in told.said)]
    if len(told.lengths):
        counts = _bins(told.lengths)
        levels = np.ceil(counts / counts.max() * len(LEVELS)).astype(int)
        bars = "".join(LEVELS[level - 1] if level else " " for level in levels)
        lines += ["  " + ", ".join(f"{figure} {what}" for figure, what in _figures(told))]
        lines += [f"  {bars}  {_spread(told.lengths)}"]
    lines += [f"  ! {line}" for line in told.cautions]
    for shown in look.page(first, count):
        state = f" · {shown.state}" if shown.state != "train" else ""
        note = f" · {shown.note}" if shown.note else ""
        lines += ["", f"row {shown.number:,} · {_counted(shown, told.by_token)}{state}{note}"]
        for column in shown.columns:
            lines += [f"  {column.name}:"] if column.name else []
            lines += [f"    {line}" for line in _plain(column).splitlines()]
    left = len(look.rows) - first - count
    return printable("\n".join([*lines, *(["", f"{left:,} more rows"] if left > 0 else [])]))


def _plain(column: Column) -> str:
    """The pieces of a column, what is trained in «», what is cut off after a line that says so."""
    written, open_ = [], False
    for piece in column.pieces:
        if (piece.kind == "trained") != open_:
            written.append("»" if open_ else "«")
            open_ = not open_
        text = f"⟨{piece.text}⟩" if piece.shape == "hidden" else piece.text
        written.append(f"\n[{text}]\n" if piece.kind == "mark" else text)
    return "".join([*written, "»" if open_ else ""])
