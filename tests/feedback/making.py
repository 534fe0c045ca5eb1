"""Judgements for tests."""

from __future__ import annotations

from typing import Any

from jupyter_ft.feedback import Answer, Judgement


def chosen(prompt: str, choice: str = "left", left: str = "Good.", right: str = "Bad.", **more: Any) -> Judgement:
    """A choice between two answers of `live` and `base`."""
    answers = [Answer(text=left, run="r", at="live", step=3), Answer(text=right, run="r", at="base", step=0)]
    return Judgement(
        kind="edit" if more.get("edited") else "choice", prompt=prompt, answers=answers, choice=choice, **more
    )


def thumb(prompt: str, good: bool, text: str = "Fine.", **more: Any) -> Judgement:
    return Judgement(kind="rating", prompt=prompt, answers=[Answer(text=text, at="live", step=3)], good=good, **more)
