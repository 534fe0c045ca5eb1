"""Token rows that an earlier run has made are used again, and only where every ingredient is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jupyter_ft.data import load
from jupyter_ft.data.again import key_of, made_before
from jupyter_ft.messages import Progress

ROWS = [{"prompt": f"Where is order {n}?", "completion": f"See {n}."} for n in range(60)]


def _ready(session: Any) -> Any:
    return next(event for event in session.events if event.kind == "data")


def _tokenised(session: Any) -> bool:
    return any(isinstance(e, Progress) and e.what.startswith("tokenising") for e in session.events)


@pytest.fixture
def made(tune: Any) -> Any:
    """Start a run of one step to its end."""

    def start(name: str, **more: Any) -> Any:
        settings = {"data": ROWS * 5, "max_steps": 1, "system": "Be short.", "held_out": 10}
        return tune(name, **(settings | more)).wait(timeout=60)

    return start


@pytest.mark.slow
def test_the_same_rows_are_tokenised_once(made: Any) -> None:
    first, second = made("first"), made("second")
    assert _tokenised(first)
    assert "made before" not in _ready(first).said
    assert not _tokenised(second)
    assert _ready(second).said == f"{_ready(first).said}; tokens of first, made before"
    assert (
        _ready(second).model_dump(exclude={"said"}, exclude_defaults=True).keys()
        == _ready(first).model_dump(exclude={"said"}, exclude_defaults=True).keys()
    )
    assert (_ready(second).rows, _ready(second).tokens) == (_ready(first).rows, _ready(first).tokens)
    for name in ("tokens.arrow", "held_out.arrow", "tokens.npy"):
        mine, theirs = ((s.folder / "data" / name).read_bytes() for s in (first, second))
        assert mine == theirs
    assert list(first.metrics["loss"]) == list(second.metrics["loss"])
    abouts = [json.loads((s.folder / "data" / "tokens.json").read_text()) for s in (first, second)]
    assert abouts[0] == abouts[1]


@pytest.mark.slow
def test_the_earlier_run_may_go(made: Any) -> None:
    import shutil

    import jupyter_ft

    first, second = made("first"), made("second")
    first.close()
    shutil.rmtree(first.folder)
    assert "tokens of second" in _ready(made("third")).said
    assert len(jupyter_ft.preview(second).look.rows) == _ready(second).rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"data": [*ROWS[:-1], ROWS[-1] | {"completion": "See 60."}] * 5},
        {"data": list(reversed(ROWS)) * 5},
        {"system": "Be kind."},
        {"system": None},
        {"max_length": 70},
        {"method": "cpt", "data": [{"text": row["prompt"]} for row in ROWS]},
        {"seed": 7},  # other rows are held out
    ],
)
def test_with_another_ingredient_they_are_made_anew(made: Any, other: dict[str, Any]) -> None:
    made("first")
    second = made("second", **other)
    assert _tokenised(second)
    assert "made before" not in _ready(second).said


def test_the_key_holds_all_that_tokens_come_from(chatml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import copy

    from jupyter_ft.data import again

    asked: dict[str, Any] = {"system": None, "max_length": 64, "method": "sft"}
    examples = load(ROWS, {})
    key = key_of(examples, chatml, **asked)
    assert key
    assert key == key_of(load(ROWS, {}), copy.deepcopy(chatml), **asked)
    chatml(["Where is it?"], truncation=True, max_length=3)  # leaves a setting in it
    assert key == key_of(examples, chatml, **asked)
    others = [key_of(load(ROWS[:-1], {}), chatml, **asked), key_of(examples, chatml, **asked | {"max_length": 65})]
    for change in (
        lambda t: setattr(t, "chat_template", t.chat_template + " "),
        lambda t: t.add_tokens(["zebra"]),
        lambda t: t.add_special_tokens({"eos_token": "<|im_start|>"}),
        lambda t: setattr(t, "truncation_side", "left"),
        lambda t: setattr(t.backend_tokenizer, "pre_tokenizer", _split_digits()),
    ):
        tokenizer = copy.deepcopy(chatml)
        change(tokenizer)
        others.append(key_of(examples, tokenizer, **asked))
    monkeypatch.setattr(again, "_code", lambda: "another version")
    others.append(key_of(examples, chatml, **asked))
    assert len({key, *others}) == 1 + len(others)


def _split_digits() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Digits(individual_digits=True)


def test_a_template_that_writes_the_day_counts_for_a_day(chatml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import copy

    from jupyter_ft.data import again

    tokenizer = copy.deepcopy(chatml)
    tokenizer.chat_template = "{{ strftime_now('%d %b') }}" + chatml.chat_template
    examples, keys = load(ROWS, {}), set()
    for day in ("2026-01-01", "2026-01-02"):
        monkeypatch.setattr(again, "strftime", lambda _, day=day: day)
        keys.add(key_of(examples, tokenizer, max_length=64))
    assert len(keys) == 2


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["tokens", "numbers", "record", "half"])
def test_what_is_damaged_is_passed_over(made: Any, harm: str) -> None:
    first = made("first", held_out=None)
    file = first.folder / "data" / "tokens.arrow"
    if harm == "tokens":
        held = bytearray(file.read_bytes())
        held[len(held) // 2] ^= 1
        file.write_bytes(held)
    elif harm == "numbers":
        file.with_suffix(".npy").write_bytes(b"x")
    elif harm == "record":
        about = json.loads(file.with_suffix(".json").read_text())
        del about["tokens"]
        file.with_suffix(".json").write_text(json.dumps(about))
    else:
        file.with_suffix(".json").write_text('{"key": "')
    second = made("second", held_out=None)
    assert "made before" not in _ready(second).said
    assert _tokenised(second)
    assert _ready(second).tokens == _ready(first).tokens


@pytest.mark.slow
def test_a_run_that_goes_on_uses_its_own(tune: Any) -> None:
    session = tune("own", data=ROWS * 5, epochs=4)
    session.wait(step=2, timeout=60)
    session.stop().wait(60)
    session.wait_until_over(60)
    session.close()
    import jupyter_ft

    again = jupyter_ft.open("own")
    again.resume().wait(60)
    again.stop().wait(60)
    again.wait_until_over(60)
    told = [event for event in again.events if event.kind == "data"]
    assert "tokens of own, made before" in told[-1].said


def test_nothing_is_found_without_a_key(tmp_path: Path) -> None:
    data = tmp_path / "run" / "data"
    data.mkdir(parents=True)
    (data / "tokens.arrow").write_bytes(b"")
    (data / "tokens.json").write_text('{"key": ""}')
    assert made_before("", data / "tokens.arrow", tmp_path) is None
