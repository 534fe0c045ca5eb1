"""The magics: they parse, validate, call the API and return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import no_var_expand

from jupyter_ft.session import sessions

from . import chat as _chat
from . import finetune as _finetune
from . import verbs as _verbs
from .complete import complete
from .conversation import Conversation
from .line import parse, refuse_token_in, split, wants_help
from .notebook import one_red_line, say

_MISPLACED = "%%"  # what a magic's line is where the cell had something above it


class Magics:
    """The magics of one shell, and the conversations of its cells."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._conversations: dict[str, Conversation] = {}
        self.registered: dict[tuple[str, str], Callable[..., None]] = {}
        self.hook: Callable[..., list[str]] = complete
        self.transform = _cells_for(self)

    def owns(self, name: str) -> bool:
        """Whether `%name` and `%%name` reach us, and nothing else."""
        magics = self._shell.magics_manager.magics
        ours = [self.registered.get((kind, name)) for kind in ("line", "cell")]
        return None not in ours and ours == [magics[kind].get(name) for kind in ("line", "cell")]

    @no_var_expand  # type: ignore[untyped-decorator]
    def finetune(self, line: str, cell: str | None = None) -> None:
        """%%finetune NAME --model M --data D: start a run in the background; its recipe is the body. -h for more."""
        with one_red_line():
            if cell is None:
                _only_help(line, _finetune.GRAMMAR.help(), "finetune", "recipe")
            else:
                _finetune.run(self._shell, line, cell)

    @no_var_expand  # type: ignore[untyped-decorator]
    def ft(self, line: str, cell: str | None = None) -> None:
        """%ft: the sessions; %ft VERB [NAME] [key=value …]: look, steer, open and close. -h for more."""
        with one_red_line():
            words = split(line)
            if line.strip() == _MISPLACED:
                raise UsageError(_finetune.NOT_FIRST.format("ft", "message"))
            if words[:1] == ["chat"]:
                self._talk(words[1:], cell)
            elif wants_help(words[:1]):
                _verbs.run(self._shell, words[:1])
            elif cell is not None:
                raise UsageError("only chat takes a text below it (%%ft chat ADDRESS); write %ft on a line of its own")
            else:
                _verbs.run(self._shell, words)

    @no_var_expand  # type: ignore[untyped-decorator]
    def chat(self, line: str, cell: str | None = None) -> None:
        """%%chat ADDRESS [--at base,live]: say the body to a run, also while it trains. -h for more."""
        with one_red_line():
            if cell is None:
                _only_help(line, _chat.GRAMMAR.help(), "chat", "message")
            else:
                self._talk(split(line), cell)

    def _talk(self, words: list[str], cell: str | None) -> None:
        if wants_help(words):
            say(_chat.GRAMMAR.help())
            return
        line = parse(words, _chat.GRAMMAR)
        prompt = cell
        if prompt is None:  # %ft chat [ADDRESS] "the message"
            if len(line.words) == 1 and line.words[0].partition("@")[0] in sessions:
                raise UsageError(f'there is nothing to say: %ft chat {line.words[0]} "the message"')
            first = 1 if len(line.words) > 1 else 0
            line.words, said = line.words[:first], line.words[first:]
            prompt = " ".join(said)
        refuse_token_in(prompt)
        _chat.run(self._shell, line, prompt, self._conversations)


def _only_help(line: str, text: str, name: str, body: str) -> None:
    if wants_help(line.split()):
        say(text)
        return
    raise UsageError(_finetune.NOT_FIRST.format(name, body))


def _cells_for(magics: Magics) -> Callable[[list[str]], list[str]]:
    """An input transformation that sees to it that a cell of ours reaches us.

    Under a comment `%%finetune` is no cell magic: its line form says what to do. With nothing below it IPython would
    refuse it (`%%finetune -h`, or a recipe of defaults): it gets an empty line.
    """

    def transform(lines: list[str]) -> list[str]:
        for number, line in enumerate(lines):
            name = line[2:].split()[0] if line.startswith("%%") and line[2:].strip() else ""
            if name in ("finetune", "chat", "ft") and magics.owns(name):
                return [f"%{name} {_MISPLACED}\n"] if number else [*lines, *(["\n"] if len(lines) == 1 else [])]
            if line.strip() and not line.startswith("#"):
                break
        return lines

    transform.has_side_effects = True  # type: ignore[attr-defined]  # not while a terminal asks if a cell is whole
    return transform


_LOADED: dict[Any, Magics] = {}


def load(shell: Any) -> None:
    """Register the magics; once is enough. A `%%chat` of something else is left alone."""
    if shell in _LOADED:
        return
    magics = _LOADED[shell] = Magics(shell)
    manager = shell.magics_manager
    wanted = [(kind, name) for name in ("finetune", "ft") for kind in ("line", "cell")]
    if "chat" in manager.magics["cell"]:
        say("another extension has %%chat, which is left alone; write %%ft chat instead")
    else:
        wanted += [("cell", "chat")] + [("line", "chat")] * ("chat" not in manager.magics["line"])
    for kind, name in wanted:
        function = getattr(magics, name)
        magics.registered[kind, name] = manager.magics[kind][name] = function
        for prefix in ("%", "%%"):
            if kind == "line":
                shell.set_hook("complete_command", magics.hook, str_key=f"{prefix}{name}")
    shell.input_transformers_cleanup.append(magics.transform)


def unload(shell: Any) -> None:
    """Take away exactly what `load` registered; runs go on."""
    magics = _LOADED.pop(shell, None)
    if magics is None:
        return
    for (kind, name), function in magics.registered.items():
        if shell.magics_manager.magics[kind].get(name) is function:
            del shell.magics_manager.magics[kind][name]
        for prefix in ("%", "%%"):
            hooks = shell.strdispatchers["complete_command"].strs.get(f"{prefix}{name}")
            if hooks is not None:
                hooks.chain[:] = [entry for entry in hooks.chain if entry[1] is not magics.hook]
    if magics.transform in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(magics.transform)
