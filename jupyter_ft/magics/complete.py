"""Completion on the first line: verbs, sessions, live fields, options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jupyter_ft.hyperparameters import Hyperparameters
from jupyter_ft.recipe import ALIASES, Adapter
from jupyter_ft.session import sessions
from jupyter_ft.session.race import races

from .chat import GRAMMAR as CHAT
from .finetune import GRAMMAR as FINETUNE
from .line import Grammar
from .verbs import VERBS

OF_A_RACE = ("status", "show", "stop", "wait", "close")
"""The verbs that take the name of a race as well."""


def complete(_shell: Any, event: Any) -> list[str]:
    """What may stand at the cursor; IPython keeps what fits."""
    magic, *words = event.text_until_cursor.split()
    if words and event.text_until_cursor.endswith(words[-1]):
        words.pop()  # it is being typed
    return [word for word in _candidates(magic.lstrip("%"), words) if word.startswith(event.symbol)]


def _candidates(magic: str, words: list[str]) -> Iterable[str]:
    if magic == "finetune":
        return [*_options(FINETUNE), *(f"{name}=" for name in Hyperparameters.model_fields)]
    if magic == "chat" or words[:1] == ["chat"]:
        return [*_options(CHAT), *sessions, "base", "live"]
    if not words:
        return [*VERBS, "chat"]
    verb = VERBS.get(words[0])
    if verb is None:
        return []
    fields = [f"{name}=" for name in _keys(verb.grammar.keys)] if verb.grammar.pairs else []
    named = [*sessions, *(races if words[0] in OF_A_RACE else ())] if len(words) == 1 or words[0] == "compare" else []
    return [*_options(verb.grammar), *named, *fields]


def _keys(keys: Iterable[str]) -> Iterable[str]:
    """Settings as they are typed; what has another name in the same place (`adapter.rank`) under its own alone."""
    found = [
        ALIASES.get(key, key) if key.startswith("adapter.") and "." in ALIASES.get(key, "") else key for key in keys
    ]
    inner = [f"adapter.{name}" for name in Adapter.model_fields] if "adapter" in found else []
    return dict.fromkeys([*found, *inner])


def _options(grammar: Grammar) -> list[str]:
    return [option.name for option in grammar.options]
