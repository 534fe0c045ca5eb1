"""The body of a cell: YAML with the scalars of YAML 1.2, and nothing in it that could be executed or expanded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import yaml

from jupyter_ft.errors import RecipeError

_KEY = r"[A-Za-z_][\w.-]*"
_ASSIGNED = re.compile(rf"(?P<key>{_KEY})\s*=\s*(?P<value>.*?)\s*")
_MAPPED = re.compile(rf"(?P<indent>\s*)(?P<key>{_KEY})\s*:\s+(?P<value>.*?)\s*")
_PLAIN = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_DIGITS_AT_MOST = 300  # more is no number that anyone means, and Python refuses to read 4300


class _Reader(yaml.SafeLoader):
    """`SafeLoader` less tags, anchors, aliases and repeated keys, and with the core scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse what names, repeats or retypes a node before the node is built."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RecipeError(f"body line {line}: anchors (&) and aliases (*) are not read; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = _short(tag.replace("tag:yaml.org,2002:", "!!"))
            raise RecipeError(f"body line {line}: the tag '{shown}' is not read; write a plain value")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """A mapping whose keys are strings, each there once."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise RecipeError(f"body line {line}: a key must be a word, like learning_rate")
            if key_node.value in seen:
                raise RecipeError(f"body line {line}: '{_short(key_node.value)}' is given twice; keep one")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=True)


def _construct_int(_reader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
    text = node.value
    if len(text) > _DIGITS_AT_MOST:
        raise RecipeError(f"body line {node.start_mark.line + 1}: a number of {len(text)} digits is not read")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def _construct_float(_reader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", node.value.lower()))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", rf"{_PLAIN}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.0123456789")),
):
    _Reader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Reader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Reader.add_constructor("tag:yaml.org,2002:float", _construct_float)


@dataclass(frozen=True)
class Body:
    """The values of a body, and the line (from 1) on which each of its keys stands."""

    values: dict[str, object] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def place(self, message: str) -> str:
        """`message` with its line of the body before it, where it is about a key of the body."""
        for key, line in self.lines.items():
            if re.match(rf"(?:unknown key )?'?{re.escape(key)}(?![\w-])", message):
                return f"body line {line}: {message}"
        return message


def read_body(text: str) -> Body:
    """The mapping in `text`; dotted keys stay as they are.

    Raises `RecipeError`, one line, that names the line of the body and (where it can be told) the line as it should be.
    """
    try:
        found, lines = _read(text)
    except yaml.YAMLError as error:
        raise RecipeError(_explain(text, error)) from None
    except RecursionError:
        raise RecipeError("the body is nested too deeply to be read") from None
    if found is None:
        return Body()
    if not isinstance(found, dict):
        raise RecipeError(
            _corrected_assignment(text) or "the body is no mapping; write lines like: learning_rate: 2e-4"
        )
    for key, line in lines.items():
        if "=" in key:
            raise RecipeError(
                _corrected_assignment(text) or f"body line {line}: '{_short(key)}' is no key; write key: value"
            )
    return Body(found, lines)


def read_value(text: str) -> object:
    """A value as it stands after `key=` on a line: a scalar, or a flow collection in `{}` or `[]`."""
    text = text.strip()
    if not text.startswith(("{", "[", '"', "'")):
        # anything else is one scalar, colons, hashes and all: quotes were taken off when the line was split
        if re.fullmatch(rf"{_PLAIN}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)|0[ox][0-9a-fA-F]+|[A-Za-z]*|~", text):
            return _read(text)[0]
        return text
    try:
        return _read(text)[0]
    except (yaml.YAMLError, RecursionError):
        if text[0] in "\"'":
            return text
        raise RecipeError(f"'{_short(text)}' is not read: write a value, {{key: value}} or [value, value]") from None


def _read(text: str) -> tuple[object, dict[str, int]]:
    reader = _Reader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None, {}
        lines = {}
        if isinstance(node, yaml.MappingNode):
            lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
        return reader.construct_document(node), lines
    finally:
        reader.dispose()


# --- what was meant ---------------------------------------------------------------------------------------------------


def _explain(text: str, error: yaml.YAMLError) -> str:
    corrected = _corrected_assignment(text)
    if corrected:
        return corrected
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", None)
    number = mark.line + 1 if mark is not None else text.count("\n", 0, position or 0) + 1
    lines = text.split("\n")
    for wrong in (number, number - 1):  # the mark is often at the start of the line after
        if 1 <= wrong <= len(lines) and (quoted := _quoted(lines[wrong - 1])):
            return f"body line {wrong}: write: {quoted}"
    start = getattr(error, "context_mark", None) or mark
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "this is no YAML"
    if "\\t" in problem or (number <= len(lines) and lines[number - 1].startswith("\t")):
        problem = "a tab cannot indent; use spaces"
    elif "end of stream" in problem or "stream end" in problem:
        number, problem = (start.line + 1 if start is not None else number), "a quote or bracket is not closed"
    elif "another document" in problem:
        problem = "a second '---' document; keep one"
    elif "mapping values" in problem:
        problem = "a key further in than the value above it; line the keys up, or put the value in quotes"
    return f"body line {min(number, len(lines))}: {problem}"


def _corrected_assignment(text: str) -> str:
    """For the first `key=value` line of a body: the line as it should be."""
    for number, line in enumerate(text.split("\n"), 1):
        match = _ASSIGNED.fullmatch(line)
        if match is not None:
            value = match["value"]
            return f"body line {number}: write: {match['key']}: {value if _reads_as_is(value) else _in_quotes(value)}"
    return ""


def _quoted(line: str) -> str:
    """The line with its value in quotes, where that is what it lacks."""
    match = _MAPPED.fullmatch(line)
    if match is None or match["value"][:1] in ("", '"', "'", "{", "[") or _reads_as_is(match["value"]):
        return ""
    return f"{match['key']}: {_in_quotes(match['value'])}"


def _reads_as_is(value: str) -> bool:
    try:
        _read(f"key: {value}")
    except (yaml.YAMLError, RecipeError, RecursionError):
        return False
    return True


def _in_quotes(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
