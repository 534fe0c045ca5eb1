"""The replies of one `%%chat` cell, side by side, as HTML and as text."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from jupyter_ft.messages import Event, Refused, ReplyDone, ReplyPart, ReplyStarted
from jupyter_ft.ui.record import safe_markdown
from jupyter_ft.ui.watched import printable

STYLE = """
.jft-told{display:flex;flex-wrap:wrap;gap:10px;font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);
color:var(--jp-ui-font-color1,var(--vscode-foreground,currentColor));max-width:1100px}
.jft-told section{flex:1 1 260px;min-width:0;border:1px solid var(--jp-border-color2,var(--vscode-panel-border,#8885));
border-left:3px solid #3b82d6;border-radius:4px;padding:6px 12px;overflow-wrap:anywhere}
.jft-told section.base{border-left-color:#7c8794}
.jft-told header{font-size:11px;opacity:.75}.jft-told .bad{color:#d64545}
.jft-told p{margin:.4em 0}.jft-told pre{white-space:pre-wrap}
"""


@dataclass
class Column:
    """One column: the weights `at`, and what is known of their reply so far."""

    label: str
    at: str
    command: str
    waiting: str = "waiting"
    text: str = ""
    step: int | None = None
    done: ReplyDone | None = None
    refused: str = ""

    @property
    def answered(self) -> bool:
        """Whether nothing more will come."""
        return self.done is not None or bool(self.refused)

    def hear(self, event: Event) -> bool:
        """Take in an event; whether it was about this column."""
        if getattr(event, "command", None) != self.command:
            return False
        if isinstance(event, ReplyStarted):
            self.step = event.step
        elif isinstance(event, ReplyPart):
            self.text += event.text
        elif isinstance(event, ReplyDone):
            self.done, self.text, self.step = event, event.text, event.step
        elif isinstance(event, Refused):
            self.refused = event.reason
        return True

    @property
    def stamp(self) -> str:
        """`live · step 12 · 9.8 tok/s`, `best (step 40) · 9.8 tok/s`."""
        if self.step is None:
            return f"{self.label} · {'no reply' if self.refused else self.waiting}"
        if self.label.endswith("best"):
            said = [f"{self.label} (step {self.step})"]
        else:
            said = [self.label] if self.at == "base" else [self.label, f"step {self.step}"]
        if self.done is None:
            said.append("…")
        else:
            said.append(f"{self.done.tokens_per_second:.1f} tok/s")
            said += {"stopped": ["stopped"], "length": ["cut at max_new_tokens"]}.get(self.done.ended, [])
        return " · ".join(said)


def html_of(columns: list[Column]) -> str:
    """All columns as one piece of HTML, in the colours of the notebook; what models said is sanitised."""
    return f"<style>{STYLE}</style><div class='jft-told'>{''.join(map(_section, columns))}</div>"


def _section(column: Column) -> str:
    said = f"<p class='bad'>{escape(column.refused)}</p>" if column.refused else safe_markdown(column.text)
    kind = "base" if column.at == "base" else "own"
    return f"<section class='{kind}'><header>{escape(column.stamp)}</header>{said}</section>"


def text_of(columns: list[Column]) -> str:
    """All columns as text, one under the other."""
    return "\n\n".join(f"[{column.stamp}]\n{printable(column.refused or column.text)}" for column in columns)
