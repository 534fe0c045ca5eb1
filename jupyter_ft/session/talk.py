"""The half of a `Session` that talks: questions to its weights, their replies, and where the voices come from."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from ..completions import FILE, read_some
from ..errors import AddressError, RecipeError
from ..event_log import that_count
from ..feedback import Feedback, Judgement
from ..launch.thread import start
from ..messages import OVER, REVIEW, Ask, Command, EvalDone, ForChat, Message, Probed, ReplyDone
from ..recipe import first_complaint
from ..runs import listed
from .address import parse_address
from .answers import Receipt, Reply
from .compare import Comparison, as_prompts
from .together import Asked, check_columns

if TYPE_CHECKING:
    import pandas as pd

    from ..event_log import EventLog
    from ..messages import RunState
    from ..recipe import Recipe
    from ..runs import RunFolder
    from ..sampling.chat import Chat
    from .handle import Session
    from .review.desk import Desk
    from .review.opened import Prompts

REMEMBERED = 1000  # questions whose conversation is at hand, to be rated


class Talking:
    """Asking the weights of a run; `Session` adds what it is and how it is steered."""

    recipe: Recipe
    log: EventLog
    run_folder: RunFolder
    _chat: Chat
    _desks: dict[str, Desk]  # by reviewer
    _asked: dict[str, Ask]
    _finding_voices = False

    if TYPE_CHECKING:  # Session's

        @property
        def name(self) -> str: ...  # noqa: D102
        @property
        def state(self) -> RunState: ...  # noqa: D102
        @property
        def visitable(self) -> list[int]: ...  # noqa: D102
        def keeps(self, step: int) -> bool: ...  # noqa: D102
        def submit(self, command: Command) -> Receipt: ...  # noqa: D102

    @property
    def completions(self) -> pd.DataFrame:
        """Some of what the policy of a grpo or rloo run has answered: the best and the worst answer to some prompts.

        Columns: `step prompt completion rewards/NAME … advantage`. They are in `completions.jsonl` of the run folder.
        """
        import pandas as pd

        kept = read_some(self.run_folder.path / FILE)
        rows = [one | {f"rewards/{name}": reward for name, reward in one.pop("rewards").items()} for one in kept]
        return pd.DataFrame(rows, columns=None if rows else ["step", "prompt", "completion", "advantage"])

    def ask(self, messages: Sequence[Message], at: str | int = "live", **more: Any) -> Receipt:
        """Queue a question to `live`, `base`, `best` or a step and return at once; settings: `messages.Ask`."""
        return self.submit(self._question(messages=[dict(m) for m in messages], at=self.chat_address(at), **more))

    def at_once(self) -> AbstractContextManager[Any]:
        """Inside, questions to this run are only queued; those of one turn are answered together afterwards."""
        return self._chat.at_once()

    def chat(
        self, prompt: str | Sequence[Message], at: str | int = "live", n: int = 1, **sampling: Any
    ) -> Reply | list[Reply]:
        """Ask the weights of this moment (`live`), the `base`, `best` or a step; waits for the reply. `n` > 1: a list.

        Settings: `max_new_tokens` (256), `temperature` (0: greedy), `top_p`, `top_k`, `seed`. Raises `Refused`.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        receipts = [self.ask(messages, at, thread="python", **sampling) for _ in range(n)]
        replies = []
        for receipt in receipts:
            receipt.wait()
            answer = receipt.answer
            if isinstance(answer, ReplyDone):
                replies.append(Reply.of(answer))
        return replies[0] if n == 1 else replies

    def compare(
        self, prompts: str | Sequence[str], at: Sequence[str | int] = ("base", "live"), **sampling: Any
    ) -> Comparison:
        """What the weights at each address say to each prompt, side by side; waits for the replies.

        Settings as for `chat`. Raises `AddressError` before anything is asked, `Refused` where one cannot be answered.
        """
        asked = as_prompts(prompts)
        columns = {str(address): self.chat_address(address) for address in at}
        check_columns(len(columns))
        put = {}
        for prompt in asked:
            more = {"messages": [{"role": "user", "content": prompt}], "turn": uuid.uuid4().hex[:12]}
            put[prompt] = Asked(
                [
                    (self._session(), self._question(at=at, thread="python", **more, **sampling))
                    for at in columns.values()
                ]
            )
        replies: dict[str, dict[str, Reply]] = {prompt: {} for prompt in asked}
        for prompt, those in put.items():
            for address, receipt in zip(columns, those.receipts, strict=True):
                receipt.wait()
                if isinstance(receipt.answer, ReplyDone):
                    replies[prompt][address] = Reply.of(receipt.answer)
        return Comparison(replies)

    @staticmethod
    def _question(**more: Any) -> Ask:
        try:
            return Ask(**more)
        except ValidationError as error:
            raise RecipeError(first_complaint(error)) from None

    def chat_address(self, text: str | int) -> str:
        """`live`, `base` or the number of a step, for an address of this session.

        `best` is `live` where nothing is held out. Raises `AddressError` for weights that there are not, and says which
        there are.
        """
        address = parse_address(str(text))
        if address.session not in (None, self.name):
            raise AddressError(f"'{text}' is of another session than '{self.name}'")
        if address.at in ("live", "last", "base"):
            return "base" if address.at == "base" else "live"
        step = self.best_step if address.at == "best" else int(address.at)
        if step is None and self.recipe.held_out is None:
            return "live"  # one column without a best step spoils no other; `address.called` says so
        if step is None:
            raise AddressError(f"'{self.name}' has no best step: it has not been evaluated yet; ask live, or a step")
        if not self.keeps(step):
            kept = self.visitable
            there = f"live, base, {listed(kept, step)}" if kept else "live, base"
            raise AddressError(f"'{text}' cannot be talked to: step {step} is not kept; here are: {there}")
        return str(step)

    # --- what people think of it ---

    @property
    def feedback(self) -> Feedback:
        """What was judged of this run: choices, edits, thumbs; `feedback:NAME` as data."""
        return Feedback(self.run_folder.path)

    def review_desk(
        self,
        prompts: Prompts = None,
        at: str | Sequence[str | int] = ("live", "live"),
        reviewer: str | None = None,
        blind: bool = True,
        *,
        again: bool = False,
        **sampling: Any,
    ) -> Desk:
        """Two answers a prompt, from the weights `at`, to choose between; they are prepared ahead, behind the chat.

        `prompts`: a list, a file with a column of them, `feedback:RUN` (its held-out ones) or None: those of the run,
        held-out ones first. `at`: `live`, `base`, `best`, a step, or a session's address. Prompts that `reviewer` has
        judged at these weights do not come again unless `again`. Settings: `max_new_tokens temperature top_p top_k`.
        Raises `RecipeError`, `AddressError` or `DataError`.
        """
        from .review import open_desk

        desk = open_desk(self._session(), prompts, at, reviewer=reviewer, blind=blind, again=again, sampling=sampling)
        before = self._desks.pop(desk.reviewer, None)
        if before is not None:
            before.close()
        self._desks[desk.reviewer] = desk
        return desk

    def review(self, prompts: Prompts = None, at: str | Sequence[str | int] = ("live", "live"), **more: Any) -> Desk:
        """`review_desk`, which shows itself where it is the last line of a cell."""
        return self.review_desk(prompts, at, **more)

    @property
    def desk(self) -> Desk | None:
        """The review that was opened last, None where none is."""
        return next((desk for desk in reversed(list(self._desks.values())) if not desk.closed), None)

    def rate(self, reply: Reply | str, good: bool | None = True, **more: Any) -> Judgement | None:
        """Keep a thumb for a reply that was given (or the id of its question): good, bad, or None to take it back.

        `edited` is how it should have been; also `tags`, `comment`, `reviewer`, and `messages`, the conversation where
        another kernel asked. Raises `Refused` where there is no such reply.
        """
        from .review import rate

        return rate(self._session(), reply, good, **more)

    def asked(self, command: str) -> Ask | None:
        """The question with that id, of the last thousand of this kernel."""
        return self._asked.get(command)

    def _remember(self, command: ForChat) -> None:
        if isinstance(command, Ask) and command.thread != REVIEW:
            self._asked[command.id] = command
            while len(self._asked) > REMEMBERED:
                del self._asked[next(iter(self._asked))]

    def _close_desks(self) -> None:
        while self._desks:
            self._desks.popitem()[1].close()

    def _session(self) -> Session:
        return cast("Session", self)

    @property
    def best_step(self) -> int | None:
        """The step with the lowest `eval_loss` (or highest `eval_reward`) so far, None where nothing was evaluated."""
        counted = that_count(self.log.read(steps="none")[0].events, EvalDone)
        return counted[-1].best_step if counted else None

    @property
    def probes(self) -> pd.DataFrame:
        """The answers to the probes: a row a prompt, a column a step, `base` first."""
        import pandas as pd

        answers: dict[str | int, dict[int, str]] = {}
        prompts: dict[int, str] = {}
        for event in that_count(self.log.history(), Probed):
            prompts[event.number] = event.prompt
            answers.setdefault("base" if event.at == "base" else event.step, {})[event.number] = event.text
        columns = sorted(answers, key=lambda at: -1 if at == "base" else int(at))
        table = pd.DataFrame({at: pd.Series(answers[at], dtype=object) for at in columns}, index=sorted(prompts))
        table.index = pd.Index([prompts[number] for number in table.index], name="prompt")
        return table

    def _ensure_voices(self) -> None:
        if self._chat.ready or self._finding_voices or self.state not in OVER:
            return
        if self.recipe.method == "attached":
            self._chat.fail("its model was the notebook's own; attach a trainer to talk to it")
            return
        self._finding_voices = True

        def load() -> None:
            from ..launch.voices import voices_of

            try:
                step, _, _ = self.run_folder.newest_good()
                trained_on = self.run_folder.read_recipe()[1]["data"]["format"]
                self._chat.begin(voices_of(self.run_folder, step, self.recipe, trained_on, self.log), self.name)
            except Exception as error:  # noqa: BLE001 - every question must get its answer
                self._finding_voices = False  # first: whoever asks from now on searches again
                self._chat.fail(str(error))
            self._finding_voices = False

        start(load, f"{self.name} voices", self.log)
