"""Thumbs under replies: kept through `session.rate`, and known again by a view that opens later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jupyter_ft.errors import FineTuneError
from jupyter_ft.launch.thread import aside
from jupyter_ft.messages import ReplyDone
from jupyter_ft.ui.watched import Watched

WORDS = {"good": True, "bad": False, "": None}


class Thumbs:
    """Answers with `rated` messages: what became of the thumb for each reply, by the command that asked."""

    def __init__(self, session: Watched) -> None:
        self._session = session

    def rate(self, said: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
        """Keep the thumb; `answer` is called when it is on the disk, or refused."""
        command, thumb = str(said.get("command", ""))[:64], said.get("thumb")

        def work() -> None:
            try:
                if thumb not in WORDS:
                    raise FineTuneError("a thumb is good, bad or taken back")
                self._session.rate(command, WORDS[thumb])
            except Exception as error:  # noqa: BLE001 - it must not be shown as saved
                reason = str(error) if isinstance(error, FineTuneError) else f"{type(error).__name__}: {error}"
                return answer({"t": "rated", "thumbs": {command: ""}, "error": reason[:300]})
            answer({"t": "rated", "thumbs": {command: thumb}})

        aside(work, f"thumb of {self._session.name}")

    def known(self, answer: Callable[[dict[str, Any]], None]) -> None:
        """Tell of the thumbs that are kept, where there are any."""

        def work() -> None:
            kept = {
                (one.prompt[-1]["content"], one.answers[0].text, one.answers[0].step): "good" if one.good else "bad"
                for one in self._session.feedback
                if one.kind == "rating"
            }
            if not kept:
                return
            replies = [event for event in self._session.log.history() if isinstance(event, ReplyDone)]
            found = {one.command: kept.get((one.prompt, one.text, one.step)) for one in replies}
            answer({"t": "rated", "thumbs": {command: thumb for command, thumb in found.items() if thumb}})

        aside(work, f"thumbs of {self._session.name}")
