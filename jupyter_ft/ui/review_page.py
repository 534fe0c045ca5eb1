"""What the Review tab shows: how to open a review, the pair on the table, the answer that is edited.

Prompts are escaped; answers are rendered from markdown with HTML off and sanitised. Which weights gave an answer is
written only where the review is not blind.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from jupyter_ft.hyperparameters import DpoHyperparameters
from jupyter_ft.ui.record import safe_markdown
from jupyter_ft.ui.watched import Watched, shown

if TYPE_CHECKING:
    from jupyter_ft.session.review import Desk, Pair

SETTINGS = {name: DpoHyperparameters.model_fields[name].default for name in ("learning_rate", "epochs")}
REASONS = ("more correct", "more helpful", "clearer", "better tone", "shorter", "safer")
ASIDE = (("tie", "↓", "ArrowDown t", "Tie"), ("both_bad", "b", "b", "Both bad"), ("skip", "s", "s", "Skip"))
SIDES = (("left", "←", "ArrowLeft"), ("right", "→", "ArrowRight"))
STYLE = """
.jft-review{display:flex;flex-direction:column;gap:10px}
.jft-review h4{margin:0;font-size:12px;color:var(--jft-dim)}
.jft-review .top{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:12px;color:var(--jft-dim)}
.jft-review .top button{margin-left:auto}
.jft-review .saved{color:var(--jft-save)}.jft-review .saved::before{content:"✓ "}
.jft-review .prompt{padding:6px 10px;border-radius:6px;background:var(--jft-soft);white-space:pre-wrap;
overflow-wrap:anywhere;max-height:220px;overflow:auto}
.jft-review .question{font-weight:600}
.jft-review .two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr));gap:10px 14px}
.jft-review .side{display:flex;flex-direction:column;gap:8px;min-width:0;border:1px solid var(--jft-edge);
border-radius:6px;padding:8px 10px}
.jft-review .side .jft-body{flex:1;max-height:360px;overflow:auto}
.jft-review .others{display:flex;flex-wrap:wrap;align-items:center;gap:6px 8px}
.jft-review .two~.others,.jft-review label~.others{margin-top:10px}
.jft-review .reasons{display:flex;flex-wrap:wrap;align-items:center;gap:4px 14px;margin:10px 0 0;padding:8px 0 0;
border:0;border-top:1px solid var(--jft-edge);font-size:12px}
.jft-review .reasons legend{float:left;padding:0;color:var(--jft-dim)}
.jft-review .reasons label{display:inline-flex;align-items:center}
.jft-review .reasons textarea{flex:1 1 200px;resize:vertical}
.jft-review kbd{font:11px/1.3 var(--jp-code-font-family,ui-monospace,monospace);color:inherit;background:none;
border:1px solid currentColor;border-radius:3px;padding:0 4px;margin-right:4px;opacity:.75;box-shadow:none}
.jft-review .opening{display:flex;flex-wrap:wrap;align-items:flex-end;gap:8px 16px}
.jft-review .opening p{flex-basis:100%}.jft-review .opening .wide{flex:1 1 100%}
.jft-review label>textarea{display:block;width:100%;margin-top:4px;resize:vertical}
.jft-review .after input{width:6em}
.jft-review .after p{flex-basis:100%}
.jft-review .after{display:flex;flex-wrap:wrap;gap:6px 14px;font-size:12px;
padding-top:8px;border-top:1px solid var(--jft-edge)}
"""


def button(name: str, do: str, text: str, more: str = "", *, key: str = "", kind: str = "") -> str:
    """A button that says `do` and `more` to the tab; `key` names the keys that press it."""
    keyed = f" data-key='{key}'" if key else ""
    return f"<button class='{kind}' data-testid='review-{name}'{keyed} data-say='do={do}{more}'>{text}</button>"


def opening_html(session: Watched) -> str:
    """How to open a review."""
    kept = len(session.feedback)
    told = f" {kept} judgements are kept already." if kept else ""
    pairs = [("live,live", "two answers of the weights of now"), ("live,base", "now against the base")]
    pairs += [(f"live,{step}", f"now against step {step}") for step in session.visitable]
    options = "".join(f"<option value='{value}'>{text}</option>" for value, text in pairs)
    return (
        "<div data-form='opening' class='opening'><p>Two answers to a prompt; you say which is better, without knowing "
        f"whose they are. What you choose is kept with the run, and it can be trained on.{told}</p>"
        f"<label>Compare <select name='at' data-testid='review-at'>{options}</select></label>"
        "<label>Reviewer <input type='text' name='reviewer' placeholder='who chooses' data-testid='review-reviewer'>"
        "</label><label class='wide'>Prompts, one a line <textarea name='prompts' rows='3' "
        "placeholder='empty: those of the data, held-out ones first' data-testid='review-prompts'></textarea></label>"
        f"{button('begin', 'begin', 'Begin', key='Mod+Enter', kind='jft-primary')}</div>"
    )


def table_html(desk: Desk) -> str:
    """The pair on the table, or why there is none."""
    pair = desk.pair()
    undo = button("undo", "undo", "<kbd>u</kbd> Undo", key="u") if desk.progress.mine else ""
    if pair is None:
        waits = "Nothing is left to judge." if desk.done else "The next pair is being prepared…"
        kind = "jft-bad" if desk.error else "jft-dim"
        return f"<p class='{kind}' data-testid='review-waits'>{escape(desk.error or waits)}</p><p>{undo}</p>"
    of = f"&pair={_id(pair)}"
    others = "".join(
        button(name, "judge", f"<kbd>{hint}</kbd> {text}", f"{of}&choice={name}", key=key)
        for name, hint, key, text in ASIDE
    )
    edit = button("edit", "edit", "<kbd>e</kbd> Edit the better one", of, key="e")
    return (
        f"{_prompt(pair)}<div data-form='pair {_id(pair)}'>{_answers(desk, pair)}"
        f"<div class='others'>{others}{edit}{undo}</div>{_reasons()}</div>"
    )


def edit_html(desk: Desk, pair: Pair, side: str) -> str:
    """Which answer is to be edited, or the one that is."""
    of = f"&pair={_id(pair)}"
    if side not in ("left", "right"):
        which = "".join(
            button(f"edit-{one}", "edit", f"<kbd>{hint}</kbd> The {one} one", f"{of}&side={one}", key=key)
            for one, hint, key in SIDES
        )
        back = button("cancel", "", "<kbd>Esc</kbd> Back", key="Escape e")
        ask = f"<div class='others'><span>Which is the better one, to be edited?</span>{which}{back}</div>"
        return f"{_prompt(pair)}{_answers(desk, pair, choose=False)}{ask}"
    save, back = (
        button(
            "save", "judge", "<kbd>Ctrl+Enter</kbd> Save", f"{of}&choice={side}", key="Mod+Enter", kind="jft-primary"
        ),
        button("cancel", "", "<kbd>Esc</kbd> Back", key="Escape"),
    )
    return (
        f"{_prompt(pair)}<div data-form='pair {_id(pair)}'><label>The {side} answer, as it should be"
        f"<textarea name='edited' rows='9' data-focus data-testid='edited'>\n{escape(_text(pair, side))}</textarea>"
        "</label>"
        f"<div class='others'>{save}{back}</div>{_reasons()}</div>"
    )


def train_html(text: str, *, kind: str = "") -> str:
    """The button that trains, and what may be said with it."""
    fields = "".join(
        f"<label>{name.replace('_', ' ')} <input type='text' name='{name}' placeholder='{shown(value)}' "
        f"data-testid='review-{name}'></label>"
        for name, value in SETTINGS.items()
    )
    return f"<div class='others' data-form='train'>{button('train', 'train', text, kind=kind)}{fields}</div>"


def _id(pair: Pair) -> str:
    return quote(pair.id)


def _text(pair: Pair, side: str) -> str:
    return pair.left if side == "left" else pair.right


def _prompt(pair: Pair) -> str:
    turns = "".join(
        f"<div><span class='jft-dim'>{escape(turn['role'])}</span> {escape(turn['content'])}</div>"
        for turn in pair.prompt[:-1]
    )
    question = f"<div class='question' data-testid='review-prompt'>{escape(pair.question)}</div>"
    return f"<h4>Pair {pair.number}</h4><div class='prompt'>{turns}{question}</div>"


def _answers(desk: Desk, pair: Pair, *, choose: bool = True) -> str:
    """Both side by side; whose they are only where the review is not blind."""
    written = []
    for side, hint, key in SIDES:
        at, step = (pair.left_at, pair.left_step) if side == "left" else (pair.right_at, pair.right_step)
        whose = "" if desk.blind else f"<p class='jft-dim'>{escape(at)}, step {step}</p>"
        of = f"&pair={_id(pair)}"
        better = button(side, "judge", f"<kbd>{hint}</kbd> This is better", f"{of}&choice={side}", key=key)
        edit = button(f"edit-{side}", "edit", "Edit", f"{of}&side={side}", kind="jft-small")
        body = f"<div class='jft-body' data-testid='answer-{side}'>{safe_markdown(_text(pair, side))}</div>"
        below = f"<div class='others'>{better}{edit}</div>" if choose else ""
        written.append(f"<section class='side' aria-label='{side} answer'>{whose}{body}{below}</section>")
    return f"<div class='two'>{''.join(written)}</div>"


def _reasons() -> str:
    boxes = "".join(
        f"<label><input type='checkbox' name='tags' value='{reason}' data-key='{at}' data-testid='reason-{at}'>"
        f"<kbd>{at}</kbd> {reason}</label>"
        for at, reason in enumerate(REASONS, 1)
    )
    return (
        f"<fieldset class='reasons'><legend>Why? (before you choose)</legend>{boxes}"
        "<input type='text' name='tag' placeholder='another reason' aria-label='Another reason' data-testid='reason'>"
        "<textarea name='comment' rows='1' placeholder='c  Comment' aria-label='Comment' data-key='c' "
        "data-testid='comment'></textarea></fieldset>"
    )
