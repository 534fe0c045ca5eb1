"""The first line of a magic: words, options and `key=value` pairs, in any order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from difflib import get_close_matches

from jupyter_ft.errors import RecipeError, did_you_mean

from .body import read_value

_PAIR = re.compile(r"(?P<key>[A-Za-z_][\w.-]*)=(?P<value>.*)", re.DOTALL)
_OPTION = re.compile(r"(?P<name>--?[A-Za-z][\w-]*)(?:=(?P<value>.*))?", re.DOTALL)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_SECRET = re.compile(
    r"(?:-{1,2}(?:\w+[_-])?(?:token|api[_-]key)|(?:\w+_)?(?:token|api_key)=).*", re.DOTALL | re.IGNORECASE
)
NO_TOKEN = "an access token would stay in the notebook and its history; use huggingface-cli login"


@dataclass(frozen=True)
class Option:
    """`--name VALUE`, or a switch where `value` is empty."""

    name: str
    help: str
    value: str = ""


@dataclass(frozen=True)
class Grammar:
    """What a line may hold.

    `words` is the least and the most number of words, `pairs` whether `key=value` may be, `keys` those that are known,
    `below` how a pair is written in the body, where there it may be.
    """

    usage: str
    about: str
    options: tuple[Option, ...] = ()
    words: tuple[int, int] = (0, 1)
    pairs: bool = False
    keys: tuple[str, ...] = ()
    below: str = ""
    example: str = ""

    def help(self) -> str:
        """What `-h` prints."""
        names = [f"{o.name} {o.value}".strip() for o in self.options] + ["-h, --help"]
        helps = [o.help for o in self.options] + ["this text; nothing is done"]
        width = max(map(len, names))
        listed = [f"  {name:<{width}}  {text}" for name, text in zip(names, helps, strict=True)]
        return "\n".join([self.usage, "", self.about, "", *listed, *(["", self.example] if self.example else [])])


@dataclass
class Line:
    """A parsed line. Options with a value are in `options`, the others in `switches`."""

    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    pairs: dict[str, object] = field(default_factory=dict)

    def whole_number(self, option: str) -> int | None:
        """The value of an option that counts, from 1; None where it was not given."""
        text = self.options.get(option)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < 1:
            raise RecipeError(f"{option} {text[:40]}: should be a whole number from 1")
        return int(text)


def split(line: str) -> list[str]:
    """The words of a line. Quotes keep words together; a backslash is a character like any other (Windows paths).

    Raises `RecipeError` for a quote that is not closed.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError:
        raise RecipeError(
            "a quote is not closed on the first line; put text with an apostrophe in double quotes"
        ) from None


def wants_help(words: list[str]) -> bool:
    """Whether the line asks for help, whatever else it says."""
    return "-h" in words or "--help" in words


def refuse_tokens(words: list[str]) -> None:
    """Refuse access tokens on a line (`RecipeError`, which does not repeat them)."""
    if any(_SECRET.fullmatch(word) or _TOKEN.search(word) for word in words):
        raise RecipeError(NO_TOKEN)


def refuse_token_in(body: str) -> None:
    """Refuse an access token anywhere in a body."""
    if _TOKEN.search(body):
        raise RecipeError(NO_TOKEN)


def parse(words: list[str], grammar: Grammar) -> Line:
    """The words sorted by `grammar`. Raises `RecipeError` for what it does not have, with the nearest name."""
    refuse_tokens(words)
    line = Line()
    rest = iter(words)
    for word in rest:
        option, pair = _OPTION.fullmatch(word), _PAIR.fullmatch(word)
        if option is not None:
            _take_option(option, rest, grammar, line)
        elif pair is not None and grammar.pairs:
            if pair["key"] in line.pairs:
                raise RecipeError(f"{pair['key']}= is given twice on the line; keep one")
            line.pairs[pair["key"]] = read_value(pair["value"])
        elif pair is not None:
            raise RecipeError(f"'{word[:60]}' has no place here; usage: {grammar.usage}")
        else:
            line.words.append(word)
    _check_count(line, grammar)
    return line


def _take_option(match: re.Match[str], rest: object, grammar: Grammar, line: Line) -> None:
    name, value = match["name"], match["value"]
    option = next((o for o in grammar.options if o.name == name), None)
    if option is None:
        if value is None:
            value = next(rest, None)  # type: ignore[call-overload]
        raise RecipeError(f"unknown option '{name[:40]}'{_meant(name.lstrip('-'), value, grammar)}")
    if name in line.options or name in line.switches:
        raise RecipeError(f"{name} is given twice; keep one")
    if not option.value:
        if value is not None:
            raise RecipeError(f"{name} takes no value")
        line.switches.add(name)
        return
    value = next(rest, None) if value is None else value  # type: ignore[call-overload]
    if not value or (value.startswith("--") and _OPTION.fullmatch(value)):
        raise RecipeError(f"{name} needs a value: {name} {option.value}")
    line.options[name] = value


def _meant(name: str, value: str | None, grammar: Grammar) -> str:
    options, word = [o.name for o in grammar.options], name.replace("-", "_")
    if word not in grammar.keys:
        near = get_close_matches(word, grammar.keys, n=1, cutoff=0.8)
        hint = did_you_mean(f"--{name}", options) or f"; there are: {', '.join([*options, '-h'])}"
        if "did you mean" in hint or not near:
            return hint
        word = near[0]
    shown = "…" if value is None or value.startswith("--") else value[:40]
    below = f", or below it {grammar.below.format(key=word, value=shown)}" if grammar.below else ""
    return f"; '{word}' is a key: write {word}={shown} on this line{below}"


def _check_count(line: Line, grammar: Grammar) -> None:
    least, most = grammar.words
    if len(line.words) < least:
        raise RecipeError(f"something is missing; usage: {grammar.usage}")
    if len(line.words) == most + 2 and grammar.pairs:
        key, value = line.words[-2:]
        raise RecipeError(f"'{key[:60]} {value[:60]}': write {key.rstrip(':')[:60]}={value[:60]}")
    if len(line.words) > most:
        raise RecipeError(f"'{line.words[most][:60]}' is one word too many; usage: {grammar.usage}")
