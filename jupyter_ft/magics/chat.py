"""`%%chat`: a cell talks to the weights of this moment, and to others beside them."""

from __future__ import annotations

import time
import uuid
from typing import Any

from IPython.display import display

from jupyter_ft.errors import AddressError, RecipeError
from jupyter_ft.errors import Refused as RefusedError
from jupyter_ft.event_log import Cursor
from jupyter_ft.messages import Ask, Hush
from jupyter_ft.session import Reply, Session
from jupyter_ft.session.address import called, parse_address
from jupyter_ft.session.together import Asked, check_columns

from .chat_view import Column, html_of, text_of
from .conversation import Conversation
from .line import Grammar, Line, Option
from .notebook import Place, bind, cell_id, check_free, say, session_of

SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "seed")
GRAMMAR = Grammar(
    usage="%%chat ADDRESS[,ADDRESS…] [--at …] [--system S] [--new] [--out VAR] [key=value …]",
    about="Say the text of the cell to a run and go on with the conversation. ADDRESS: NAME, NAME@STEP, base, live.\n"
    "A cell run again replaces its turn. Keys: max_new_tokens, temperature, top_p, top_k, seed.",
    options=(
        Option("--at", "which weights of the run reply, side by side: 40,80,best,base,live", "AT[,AT…]"),
        Option("--system", "in place of the recipe's system line, from here on", "S"),
        Option("--new", "begin a new conversation"),
        Option("--out", "bind the reply (of several: a dict) to this variable", "VAR"),
    ),
    words=(0, 10_000),
    pairs=True,
    keys=SAMPLING,
    example="%%chat support --at base,live\nI haven't received my order yet.",
)
UPDATES_PER_SECOND = 8
HUSH_SECONDS = 10.0  # a reply stops within a token; where even that takes longer the cell is given back


class Talk:
    """The questions of one cell, and the columns in which they are answered."""

    def __init__(self) -> None:
        self.columns: list[Column] = []
        self._asked: list[tuple[Session, Ask]] = []
        self._put: Asked | None = None
        self._cursors: dict[str, Cursor] = {}

    def add(self, session: Session, ask: Ask, label: str) -> None:
        """One more column; nothing is asked yet."""
        waiting = "waiting" if session.state in ("running", "paused") else f"waiting, the run is {session.state}"
        self.columns.append(Column(label, ask.at, ask.id, waiting))
        self._asked.append((session, ask))
        self._cursors.setdefault(session.name, session.log.end)

    def ask(self) -> None:
        """Put the questions; those that can are answered in one batch."""
        self._put = Asked(self._asked)

    def hear(self) -> bool:
        """Take in what is new; whether anything is."""
        new = False
        for session in {s.name: s for s, _ in self._asked}.values():
            news, self._cursors[session.name] = session.log.read(self._cursors[session.name], steps="none")
            for event in news.events:
                new |= sum(column.hear(event) for column in self.columns) > 0
        return new

    def follow(self, show: Any, deadline: float | None = None) -> None:
        """Call `show` whenever there is more to see, until every question is answered."""
        while True:
            if self.hear():
                show()
            open_ones = [s for (s, _), column in zip(self._asked, self.columns, strict=True) if not column.answered]
            if not open_ones or (deadline is not None and time.monotonic() > deadline):
                return
            asked = [ask.id for session, ask in self._asked if session is open_ones[0]]
            _until_answered(open_ones[0], asked)

    def hush(self) -> None:
        """Stop what is being said and take back what waits, the last first so that nothing begins meanwhile."""
        for (session, ask), column in reversed(list(zip(self._asked, self.columns, strict=True))):
            if not column.answered:
                session.submit(Hush(target=ask.id))


def _until_answered(session: Session, asked: list[str]) -> None:
    session.log.wait_for(lambda: all(map(session.log.answer, asked)), 1 / UPDATES_PER_SECOND)


def run(shell: Any, line: Line, prompt: str, conversations: dict[str, Conversation]) -> None:
    """Ask, show the replies as they come, and keep them in the conversation."""
    if not prompt.strip():
        raise RecipeError("there is nothing to say: write the message below the first line")
    unknown = [key for key in line.pairs if key not in SAMPLING]
    if unknown:
        raise RecipeError(f"unknown key '{unknown[0]}'; chat takes {', '.join(SAMPLING)}")
    out = line.options.get("--out")
    if out is not None:
        check_free(shell, out, for_session=False)
    meant = addresses(shell, line)
    several = len({session.name for session, _, _ in meant}) > 1
    talk, turn_id, cell = Talk(), uuid.uuid4().hex[:12], cell_id(shell)
    own = {s.name: conversations.setdefault(str(s.folder), Conversation()) for s, _, _ in meant}
    asks = [Ask(messages=[], at=at, turn=turn_id, thread="cell", **line.pairs) for _, at, _ in meant]  # checked first
    turns = {}
    for name, conversation in own.items():
        if "--new" in line.switches:
            conversation.clear()
        conversation.system = line.options.get("--system", conversation.system)
        turns[name] = conversation.begin(cell, prompt.strip())
    for (session, at, said), ask in zip(meant, asks, strict=True):
        question = ask.model_copy(update={"messages": own[session.name].messages(at)})
        talk.add(session, question, f"{session.name}@{said}" if several else said)
    _show_replies(talk, Place.of(shell), recorded=all(s.recipe.record_chats for s, _, _ in meant))
    for (session, at, _), column in zip(meant, talk.columns, strict=True):
        if column.text:
            turns[session.name].replies[at] = column.text
    _give_back(shell, talk.columns, out)


def addresses(shell: Any, line: Line) -> list[tuple[Session, str, str]]:
    """The session and weights of each column, and what these are called there (`best` is a step by now).

    `AddressError` for what is not there or cannot speak.
    """
    found: list[tuple[Session, str, str]] = []
    wanted = ",".join(line.words)
    ats = [part.strip() for part in line.options.get("--at", "").split(",") if part.strip()]
    for text in [part.strip() for part in wanted.split(",") if part.strip()] or [""]:
        outer = parse_address(text) if text else None
        beside = found[0][0] if found and outer is not None and outer.session is None else None  # `a@40,b,base`
        session = beside or session_of(shell, outer.session if outer is not None else None)
        stepped = outer is not None and ("@" in text or outer.session is None)
        if stepped and ats:
            raise AddressError(
                f"'{text}' names its weights itself; leave out --at, or write --at {text.partition('@')[2] or text}"
            )
        for at in ats or [str(outer.at) if outer is not None else "live"]:
            inner = parse_address(at)
            one = session if inner.session is None else session_of(shell, inner.session)
            found.append((one, *_weights(one, str(inner.at))))
    columns: dict[tuple[Session, str], tuple[Session, str, str]] = {}
    for column in found:  # each once, as it was called first
        columns.setdefault(column[:2], column)
    check_columns(len(columns))
    return list(columns.values())


def _weights(session: Session, at: str) -> tuple[str, str]:
    """Which weights answer to `at`, and what their column is called."""
    where = session.chat_address(at)
    return where, called(at, where) if at == "best" else where


def _show_replies(talk: Talk, place: Place, *, recorded: bool) -> None:
    handle = display(_bundle(talk), raw=True, display_id=True) if place.rich else None

    def show() -> None:
        if handle is not None:
            handle.update(_bundle(talk), raw=True)

    try:
        talk.ask()
        talk.follow(show)
    except KeyboardInterrupt:
        talk.hush()
        talk.follow(show, time.monotonic() + HUSH_SECONDS)
    if handle is None:
        say(text_of(talk.columns))
    elif not recorded:
        note = "the replies are not recorded here (record_chats: false); they are in the panel"
        handle.update({"text/plain": note}, raw=True)


def _bundle(talk: Talk) -> dict[str, str]:
    return {"text/html": html_of(talk.columns), "text/plain": text_of(talk.columns)}


def _give_back(shell: Any, columns: list[Column], out: str | None) -> None:
    refused = [column.refused for column in columns if column.refused and column.refused != "taken back"]
    if refused and len(refused) == len(columns):
        raise RefusedError(f"chat: {refused[0]}")
    replies = {column.label: Reply.of(column.done) for column in columns if column.done is not None}
    if out is not None and replies:
        bind(shell, out, next(iter(replies.values())) if len(columns) == 1 else replies)
