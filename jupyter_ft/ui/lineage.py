"""The Lineage tab, and the form under the curve that makes a fork: both written by the kernel.

A fork's panel appears below the panel in which it was made, where the front end draws one widget in another; elsewhere
the page says what shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from jupyter_ft.errors import FineTuneError
from jupyter_ft.recipe import controls
from jupyter_ft.runs import RunFolder
from jupyter_ft.session import sessions
from jupyter_ft.session.lineage import Run, family_of
from jupyter_ft.session.start import free_name
from jupyter_ft.ui.served import Page, Said
from jupyter_ft.ui.watched import Watched, past_of, shown, typed

if TYPE_CHECKING:
    from jupyter_ft.session import Session

FIRST = ("learning_rate", "max_steps")
"""The settings that a fork is asked for at once; the others are folded away."""
STYLE = """
.jft-lineage ul{list-style:none;margin:0;padding-left:18px}.jft-lineage>ul{padding-left:0}
.jft-lineage li{padding:2px 0 2px 10px;border-left:2px solid var(--jft-edge)}
.jft-lineage [aria-current] b{color:var(--jft-accent)}
.jft-lineage small{color:var(--jft-dim);font-size:12px;margin-left:6px;overflow-wrap:anywhere}
"""
FORM_STYLE = """
.jft-fork{border:1px solid var(--jft-edge);border-radius:6px;padding:8px 10px;font-size:12px}
.jft-fork .fields{display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center;padding:4px 0}
.jft-fork input{width:110px;padding:1px 6px!important;font-size:12px!important}
.jft-fork summary{cursor:pointer;color:var(--jft-dim)}
"""
Show = Callable[["Session"], bool]
"""Shows the panel of a session beside this one; False where it cannot be told whether that is drawn."""


class ForkTab:
    """The form under the curve: `at=STEP` asks for it, `do=fork` makes the fork."""

    version = 0

    def __init__(self, session: Watched, show: Show) -> None:
        self._session, self._show = session, show

    def page(self, said: Said) -> Page:
        """The form, or what came of it. What is wrong with a wish stands above the form, and what was typed stays."""
        at = str(said.whole("at") or "live")
        if said("do") == "close":
            return Page("")
        wrong = ""
        if said("do") == "fork":
            try:
                return self._made(at, said)
            except FineTuneError as error:
                wrong = f"<p class='jft-bad' data-testid='fork-wrong'>{escape(str(error))}</p>"
        return Page(f"<div class='jft-fork'>{wrong}{self._form(at)}</div>", FORM_STYLE, again=f"at={at}", told=wrong)

    def _made(self, at: str, said: Said) -> Page:
        names = [str(one["name"]) for one in controls(self._session.hyperparameters, self._session.recipe)]
        changes = {name: typed(text) for name in names if (text := said(f"set.{name}").strip())}
        session = cast("Session", self._session)
        child = session.fork(said("called").strip() or free_name(f"{session.name}-fork"), at, **changes)
        self._show(child)
        name = escape(child.name)
        where = f"at step {at}" if at != "live" else "here"
        text = f"<b>{name}</b> goes on from {escape(session.name)} {where}; a cell with <code>%ft show {name}</code>"
        body = (
            f"<p data-testid='forked'>{text} shows its panel anywhere.</p>{_button('fork-close', 'do=close', 'Close')}"
        )
        return Page(f"<div class='jft-fork'>{body}</div>", FORM_STYLE, again="do=close", told=f"forked: {child.name}")

    def _form(self, at: str) -> str:
        session = self._session
        values = {str(one["name"]): one["value"] for one in controls(session.hyperparameters, session.recipe)}
        for change in reversed(past_of(session).changes if at != "live" else []):
            values |= {name: old for name, (old, _) in change.changes.items() if change.step > int(at)}
        live = controls(session.hyperparameters, session.recipe)
        fields = {str(one["name"]): _field(one | {"value": values[str(one["name"])]}) for one in live}
        first = "".join(fields.pop(name, "") for name in FIRST)
        wanted = escape(free_name(f"{session.name}-fork"), quote=True)
        about = f"name='called' data-testid='fork-name' placeholder='{wanted}' data-focus='1'"
        name = f"<label>Name <input type='text' {about}></label>"
        from_ = f"step {at}" if at != "live" else "the weights of now"
        make = _button("fork-make", f"do=fork&at={at}", "Fork", keys="Mod+Enter", kind="jft-primary")
        cancel = _button("fork-close", "do=close", "Cancel", keys="Escape")
        return (
            f"<div data-form='fork-{at}'><b>A new run from {from_}</b>; what stays empty is as it was there."
            f"<div class='fields'>{name}{first}{make}{cancel}</div>"
            f"<details><summary>Other settings</summary><div class='fields'>{''.join(fields.values())}</div></details>"
            "</div>"
        )


class LineageTab:
    """The family of a run as a tree; a name opens the panel of a run that is open, or says what opens it."""

    def __init__(self, session: Watched, show: Show) -> None:
        self._session, self._show = session, show
        self._changes, self._known = 0, ""

    @property
    def version(self) -> int:
        """Grows when a run is begun, opened, closed or over."""
        now = repr([(session.name, session.state) for session in sessions.values()])
        if now != self._known:
            self._known, self._changes = now, self._changes + 1
        return self._changes

    def page(self, said: Said) -> Page:
        """The tree, and what was said of the run that was clicked."""
        version, told, name = self.version, "", said("run")
        if name and name in sessions and self._show(sessions[name]):
            told = "Its panel is below this one, where this page can draw it. "
        if name:
            verb = "show" if name in sessions else "open"
            told += f"A cell with <code>%ft {verb} {escape(name)}</code> shows {escape(name)}."
        oldest = family_of(RunFolder(Path(self._session.folder)))
        alone = (
            ""
            if oldest.children
            else "<p class='jft-dim'>Nothing was forked from it. Fork here… under the curve does.</p>"
        )
        line = f"<p role='status' data-testid='lineage-told'>{told}</p>" if told else ""
        html = f"<div class='jft-lineage'>{line}<ul>{self._item(oldest, set())}</ul>{alone}</div>"
        return Page(html, STYLE, version=version)

    def _item(self, run: Run, above: set[str]) -> str:
        if run.name in above:
            return ""
        here = run.name == self._session.name
        mark = " aria-current='true'" if here else ""
        name = f"<b>{escape(run.name)}</b>"
        if not here:
            name = _button(f"run-{run.name}", f"run={quote(run.name)}", name, kind="jft-small")
        left = f"at step {run.step}, {run.how}" if run.parent else run.how
        told = " · ".join(filter(None, (left, _state(run.name))))
        inside = "".join(self._item(child, above | {run.name}) for child in run.children)
        return f"<li{mark}>{name} <small>{escape(told)}</small>{f'<ul>{inside}</ul>' if inside else ''}</li>"


def _state(name: str) -> str:
    session = sessions.get(name)
    return f"{session.state}, step {session.step}" if session is not None else "not open"


def _field(one: dict[str, Any]) -> str:
    name, now = str(one["name"]), escape(shown(one["value"]), quote=True)
    about = f"name='set.{name}' data-testid='fork-{name}' title='{escape(str(one['help']), quote=True)}'"
    return f"<label>{name.replace('_', ' ')} <input type='text' {about} placeholder='{now}'></label>"


def _button(name: str, say: str, text: str, *, keys: str = "", kind: str = "") -> str:
    keyed = f" data-key='{keys}'" if keys else ""
    return f"<button class='{kind}' data-testid='{name}'{keyed} data-say='{escape(say, quote=True)}'>{text}</button>"
