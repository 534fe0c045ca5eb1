"""The body: YAML 1.2 scalars, and what is refused."""

from __future__ import annotations

import math

import pytest

from jupyter_ft.errors import RecipeError
from jupyter_ft.magics.body import read_body, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("0755", 755),
        ("0o17", 15),
        ("0x1F", 31),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-11-23", "2026-11-23"),
        ("10%", "10%"),
        ("-.inf", -math.inf),
        ("'0755'", "0755"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read_body(f"key: {text}").values["key"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(read_body("key: .nan").values["key"])  # type: ignore[arg-type]


def test_a_recipe() -> None:
    body = read_body("# mine\nadapter.r: 8\ncolumns: {prompt: Customer message}\nsystem: |\n  Two\n  lines\n")
    assert body.values == {"adapter.r": 8, "columns": {"prompt": "Customer message"}, "system": "Two\nlines\n"}
    assert body.lines == {"adapter.r": 2, "columns": 3, "system": 4}
    assert read_body("").values == read_body("# nothing\n").values == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate=2e-4", "body line 1: write: learning_rate: 2e-4"),
        ("method: sft\nlearning_rate = 2e-4\n", "body line 2: write: learning_rate: 2e-4"),
        ("method: sft\nlearning_rate=2e-4\nseed: 1", "body line 2: write: learning_rate: 2e-4"),
        ("system=a: b", 'body line 1: write: system: "a: b"'),
        ("method: sft\nsystem: a: b", 'body line 2: write: system: "a: b"'),
        ('system: say "hi": now', 'body line 1: write: system: "say \\"hi\\": now"'),
        ("system: @home", 'body line 1: write: system: "@home"'),
        ("a: !!python/object/apply:os.system ['true']", "the tag '!!python/object/apply:os.system' is not read"),
        ("seed: 1\na: !mine 1", "body line 2: the tag '!mine' is not read"),
        ("a: &x [1]\nb: [*x, *x]", "body line 1: anchors (&) and aliases (*) are not read"),
        ("a: 1\nb: 2\na: 3", "body line 3: 'a' is given twice"),
        ("a: {b: 1, b: 2}", "body line 1: 'b' is given twice"),
        ("- 1\n- 2", "the body is no mapping"),
        ("just text", "the body is no mapping"),
        ("1: a", "body line 1: a key must be a word"),
        ("[a, b]: c", "body line 1: a key must be a word"),
        ('seed: 1\nsystem: "open', "body line 2: a quote or bracket is not closed"),
        ("columns: {prompt: a", "body line 1: a quote or bracket is not closed"),
        ("a:\n\tb: 1", "body line 2: a tab cannot indent"),
        ("a: 1\n---\nb: 2", "body line 2: a second '---' document"),
        ("a: b\n c: d", "body line 2: a key further in"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "body line 1: a number of 5000 digits"),
        ("a: \x07", "body line 1: "),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_body(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("merge", ["", "<<: "])
def test_an_alias_bomb_is_refused_before_anything_is_built(merge: str) -> None:
    lines = ["a0: &a0 {x: lol}" if merge else "a0: &a0 [lol, lol]"]
    for level in range(1, 60):
        inner = f"*a{level - 1}"
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{inner}, {inner}]}}" if merge else f"[{inner}, {inner}]"))
    with pytest.raises(RecipeError, match="body line 1: anchors"):
        read_body("\n".join(lines))
    with pytest.raises(RecipeError, match="anchors"):
        read_value("[&a [x, x], *a, *a]")


def test_the_line_of_a_key_is_named() -> None:
    body = read_body("method: sft\nlr: 1\nlearning_rate: -1\nadapter.x: 1")
    assert body.place("learning_rate = -1: should be greater than 0").startswith("body line 3: ")
    assert body.place("unknown key 'adapter.x'").startswith("body line 4: ")
    assert body.place("unknown key 'lrr'") == "unknown key 'lrr'"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("{kind: lora, r: 8}", {"kind": "lora", "r": 8}),
        ("[1, 2]", [1, 2]),
        ("You are: x # y", "You are: x # y"),
        ("&a", "&a"),
        ("!x", "!x"),
        ('"half', '"half'),
        ("", None),
    ],
)
def test_values_on_the_line(text: str, value: object) -> None:
    assert read_value(text) == value
