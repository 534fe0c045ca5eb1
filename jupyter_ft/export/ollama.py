"""An Ollama Modelfile: the weights beside it, the chat template in Ollama's language, the system line, where to stop.

The template is not translated but found out: conversations of marked turns are written by the tokenizer's own template
and cut at the marks. What was found is tried against the tokenizer on other conversations, and left out where it
differs, for Ollama then to find one by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.layout import first_ids
from ..errors import ExportError

ARCHITECTURES = "Llama", "Mistral", "Gemma", "Phi3", "Qwen2", "Qwen3"
"""Whose safetensors `ollama create` reads itself (docs.ollama.com/import); others need GGUF."""
_MARKS = {"system": "\u27e6system\u27e7", "user": "\u27e6user\u27e7", "assistant": "\u27e6assistant\u27e7"}
_TRIED: Sequence[Sequence[tuple[str, str]]] = (
    (("user", "Where is it?"),),
    (("system", "Be brief."), ("user", "Where is it?")),
    (("user", "One"), ("assistant", "Two"), ("user", "Three")),
    (("system", "S"), ("user", "One"), ("assistant", "Two"), ("user", "Three"), ("assistant", "4"), ("user", "5")),
)
Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Template:
    """A chat template as what stands around the turns. `default` opens a conversation without a system turn."""

    system: tuple[str, str]
    default: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str

    def write(self, turns: Turns) -> str:
        """A conversation, up to where the answer begins."""
        head = [f"{self.system[0]}{said}{self.system[1]}" for role, said in turns if role == "system"] or [self.default]
        around = {"user": self.user, "assistant": self.assistant}
        rest = [f"{around[role][0]}{said}{around[role][1]}" for role, said in turns if role != "system"]
        return "".join([*head, *rest, self.answer])

    def as_go(self) -> str:
        """As Ollama's TEMPLATE, a template of Go's."""
        before, after = map(_in_go, self.system)
        user, assistant = tuple(map(_in_go, self.user)), tuple(map(_in_go, self.assistant))
        return (
            f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{{{{ else }}}}{_in_go(self.default)}{{{{ end }}}}"
            '{{ range .Messages }}{{ if eq .Role "user" }}'
            f'{user[0]}{{{{ .Content }}}}{user[1]}{{{{ else if eq .Role "assistant" }}}}'
            f"{assistant[0]}{{{{ .Content }}}}{assistant[1]}{{{{ end }}}}{{{{ end }}}}{_in_go(self.answer)}"
        )


def _in_go(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def template_of(tokenizer: Any) -> Template | None:
    """The chat template of a tokenizer, or None where it is none that stands around turns."""
    if not tokenizer.chat_template:
        return None
    try:
        found = _cut(tokenizer)
        same = all(found.write(turns) == _written(tokenizer, turns) for turns in _TRIED)
    except Exception:  # noqa: BLE001 - a template is a stranger's program: whatever it does, it cannot be carried over
        return None
    return found if same else None


def _written(tokenizer: Any, turns: Turns, *, answer: bool = True) -> str:
    messages = [{"role": role, "content": said} for role, said in turns]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))
    first = tokenizer.bos_token if first_ids(tokenizer) else None  # Ollama puts it there itself
    return text.removeprefix(first) if first else text


def _cut(tokenizer: Any) -> Template:
    """Each part as what one more turn adds."""

    def text(*roles: str, answer: bool = False) -> str:
        return _written(tokenizer, [(role, _MARKS[role]) for role in roles], answer=answer)

    one, two = text("user"), text("user", "assistant")
    three, with_system = text("user", "assistant", "user"), text("system", "user")
    assistant = two.removeprefix(one).split(_MARKS["assistant"])
    user = three.removeprefix(two).split(_MARKS["user"])
    head, rest = with_system.split(_MARKS["system"])
    default, after = one.split(_MARKS["user"])
    between, _ = rest.split(_MARKS["user"])
    if after != user[1] or not default.endswith(user[0]) or not between.endswith(user[0]):
        raise ValueError("turns are not written alike wherever they stand")
    return Template(
        system=(head, between[: len(between) - len(user[0])]),
        default=default[: len(default) - len(user[0])],
        user=(user[0], user[1]),
        assistant=(assistant[0], assistant[1]),
        answer=text("user", answer=True).removeprefix(one),
    )


def modelfile(weights: str, tokenizer: Any, ends: Sequence[int | None], system: str | None) -> tuple[str, str]:
    """The Modelfile for `weights` (a file or folder beside it), and what is to be said of it.

    `ends` are the tokens that end an answer, `system` the line that precedes every conversation. `ExportError` where
    that cannot be written in one.
    """
    lines, note = [f"FROM {weights}"], ""
    template = template_of(tokenizer)
    written = template.as_go() if template is not None else ""
    if template is not None and '"""' not in written:
        lines.append(f'TEMPLATE """{written}"""')
    else:
        why = "could not be carried over" if tokenizer.chat_template else "is missing"
        note = f"the chat template {why}: Ollama takes one that it knows, so look at what it answers"
    if system:
        if '"""' in system:
            raise ExportError(
                'the system line has """ in it, which a Modelfile cannot hold; change it and export again'
            )
        lines.append(f'SYSTEM """{system}"""')
    stops = dict.fromkeys(tokenizer.convert_ids_to_tokens(end) for end in ends if end is not None)
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if stop and '"' not in stop]
    lines.append("PARAMETER temperature 0")  # as chat answers here where nothing else is asked
    return "\n".join(lines) + "\n", note
