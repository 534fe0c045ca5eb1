"""A thumb for a reply that was given in a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import Refused
from ...feedback import Answer, Judgement
from ...messages import Message, ReplyDone
from ..answers import Reply

if TYPE_CHECKING:
    from ..handle import Session


def rate(
    session: Session,
    reply: Reply | str,
    good: bool | None,
    *,
    tags: Sequence[str] = (),
    comment: str = "",
    edited: str = "",
    reviewer: str | None = None,
    messages: Sequence[Message] | None = None,
) -> Judgement | None:
    """Keep a rating; see `Session.rate`."""
    command = reply.command if isinstance(reply, Reply) else reply
    given = session.log.answer(command)
    if not isinstance(given, ReplyDone):
        raise Refused(f"no reply was given to '{command[:40]}' in {session.name}; rate a reply of session.chat")
    name = (reviewer or "").strip()
    known = session.asked(command)
    prompt = [dict(m) for m in messages] if messages is not None else known.messages if known else _last_turn(given)
    answer = Answer(
        text=given.text,
        run=session.name,
        at=given.at,
        step=given.step,
        tokens=given.tokens,
        sampling=known.model_dump(include={"max_new_tokens", "temperature", "top_p", "top_k", "seed"}) if known else {},
    )
    for before in session.feedback:  # one thumb a reply: the new one is in the place of the old one
        same = before.kind == "rating" and before.prompt == prompt and before.answers[0].text == answer.text
        if same and before.reviewer == name and before.answers[0].step == answer.step:
            session.feedback.undo(before)
    if good is None:
        return None
    return session.feedback.add(
        Judgement(
            kind="rating",
            prompt=prompt,
            answers=[answer],
            good=good,
            edited=edited.strip() and edited,
            tags=list(tags),
            comment=comment,
            reviewer=name,
            blind=False,
        )
    )


def _last_turn(given: ReplyDone) -> list[Message]:
    return [{"role": "user", "content": given.prompt}]
