"""The conversations that cells have with a run: whose turn stands where, and what each column has heard."""

from __future__ import annotations

from dataclasses import dataclass, field

from jupyter_ft.messages import Message


@dataclass
class Turn:
    """One question, the cell that asked it (None where cells are not known), and what each column replied."""

    cell: str | None
    prompt: str
    replies: dict[str, str] = field(default_factory=dict)


@dataclass
class Conversation:
    """The turns with one run, oldest first. `system` replaces the recipe's where it was given."""

    turns: list[Turn] = field(default_factory=list)
    system: str | None = None

    def clear(self) -> None:
        """Forget everything."""
        self.turns.clear()
        self.system = None

    def begin(self, cell: str | None, prompt: str) -> Turn:
        """Start a turn. A cell run again replaces its turn, and what was said after it is forgotten."""
        again = self._turn_of(cell, prompt)
        if again is not None:
            del self.turns[again:]
        self.turns.append(Turn(cell, prompt))
        return self.turns[-1]

    def _turn_of(self, cell: str | None, prompt: str) -> int | None:
        if cell is not None:
            return next((index for index, turn in enumerate(self.turns) if turn.cell == cell), None)
        last = len(self.turns) - 1
        return last if last >= 0 and self.turns[last].prompt == prompt else None

    def messages(self, column: str) -> list[Message]:
        """What `column` is asked now: its own replies so far, each after its question, and the last question.

        A turn in which this column did not speak is left out, so that roles alternate as chat templates demand.
        """
        heard: list[Message] = [{"role": "system", "content": self.system}] if self.system is not None else []
        for turn in self.turns[:-1]:
            if column in turn.replies:
                heard.append({"role": "user", "content": turn.prompt})
                heard.append({"role": "assistant", "content": turn.replies[column]})
        if self.turns:
            heard.append({"role": "user", "content": self.turns[-1].prompt})
        return heard
