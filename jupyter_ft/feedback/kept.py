"""`Feedback`, the judgements of one run: what people and code hold of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..runs import RunFolder
from . import lessons
from .agreement import Agreement, agreement
from .files import judgement_of, read_lines, write_lines
from .judgement import Judgement
from .store import Store
from .wins import Wins, wins

if TYPE_CHECKING:
    import pandas as pd

FILE = "feedback.sqlite"


class Feedback:
    """The judgements of a run, oldest first. What is undone is kept on disk and counts nowhere.

    Everything that reads or writes raises `RunFolderError` where `feedback.sqlite` is damaged or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._store = Store(folder / FILE)

    @property
    def path(self) -> Path:
        """The file, which the first judgement makes."""
        return self._store.path

    def add(self, judgement: Judgement) -> Judgement:
        """Keep a judgement: when this returns, it survives `kill -9` and a power cut."""
        self._store.add([judgement])
        return judgement

    def undo(self, judgement: str | Judgement) -> bool:
        """Take a judgement back, by itself or its `id`; False where it is not in force."""
        return self._store.undo(judgement if isinstance(judgement, str) else judgement.id)

    @property
    def judgements(self) -> list[Judgement]:
        """Those in force."""
        return self._store.read()

    @property
    def undone(self) -> list[Judgement]:
        """Those that were taken back."""
        return self._store.read(undone=True)

    def __iter__(self) -> Iterator[Judgement]:
        return iter(self.judgements)

    def __len__(self) -> int:
        return len(self.judgements)

    # --- to train on ---

    def pairs(self, held_out: bool | None = None) -> list[lessons.Row]:
        """`prompt`, `chosen`, `rejected` of choices and edits; of the held-out fifth or of the rest, or (None) all."""
        return lessons.pairs(self._side(held_out))

    def rated(self, held_out: bool | None = None) -> list[lessons.Row]:
        """`prompt`, `completion`, `label` of thumbs."""
        return lessons.rated(self._side(held_out))

    def _side(self, held_out: bool | None) -> list[Judgement]:
        return [one for one in self.judgements if held_out in (None, one.held_out)]

    # --- to look at ---

    def wins(self, first: str = "live", second: str = "base", held_out: bool | None = None) -> Wins:
        """How often the weights `first` were preferred to `second`; with `held_out`, on prompts never trained on."""
        return wins(self._side(held_out), first, second)

    def agreement(self) -> Agreement:
        """How far reviewers agree who judged the same two answers."""
        return agreement(self.judgements)

    @property
    def table(self) -> pd.DataFrame:
        """One row a judgement, indexed by `id`."""
        import pandas as pd

        rows = [_flat(one) for one in self.judgements]
        return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["id"]).set_index("id")

    def __repr__(self) -> str:
        found = self.judgements
        kinds = Counter(one.kind for one in found)
        words = [f"{count} {kind}{'s' * (count != 1)}" for kind, count in kinds.items()]
        people = sorted({one.reviewer for one in found if one.reviewer})
        held = sum(one.held_out for one in found)
        said = [", ".join(words) or "nothing judged yet", f"{held} held out" if held else "", ", ".join(people)]
        return f"<Feedback {self.name}: {'; '.join(word for word in said if word)}>"

    # --- to take along ---

    def to_jsonl(self, path: str | Path) -> Path:
        """Write the judgements in force, one a line; gives the path. `DataError` where it cannot be written."""
        target = Path(path).expanduser()
        write_lines(self.judgements, target)
        return target

    def from_jsonl(self, path: str | Path) -> int:
        """Add those of a file that are not here yet, all or (`DataError`, with the line) none; gives how many."""
        return self._store.add(read_lines(Path(path).expanduser()))

    def to_dataset(self) -> Any:
        """The judgements in force as a `datasets.Dataset`. `DataError` where there are none."""
        from datasets import Dataset

        rows = [one.model_dump(mode="json") for one in self.judgements]
        if not rows:
            raise DataError(f"{self.name} has no judgement yet; %ft review {self.name} makes some")
        return Dataset.from_list(rows)

    def from_dataset(self, rows: Iterable[Any]) -> int:
        """Add the rows of a `datasets.Dataset` (or dicts) that are not here yet, all or none; gives how many."""
        return self._store.add([judgement_of(row, f"row {number}") for number, row in enumerate(rows, 1)])


def _flat(one: Judgement) -> dict[str, Any]:
    import pandas as pd

    left, right = one.answers[0], one.answers[1] if len(one.answers) > 1 else None
    return {
        "id": one.id,
        "time": pd.Timestamp(one.time, unit="s", tz="UTC"),
        "kind": one.kind,
        "prompt": one.prompt[-1]["content"],
        "left": left.text,
        "right": right.text if right else None,
        "choice": one.choice if one.good is None else "good" if one.good else "bad",
        "edited": one.edited,
        "tags": ", ".join(one.tags),
        "comment": one.comment,
        "reviewer": one.reviewer,
        "left_at": left.at,
        "left_step": left.step,
        "right_at": right.at if right else None,
        "right_step": right.step if right else None,
        "blind": one.blind,
        "held_out": one.held_out,
    }


def feedback(name_or_dir: str | Path) -> Feedback:
    """The judgements of the run of that name, or in that folder. `RunFolderError` where there is no such run."""
    given = Path(name_or_dir).expanduser()
    if (given / FILE).is_file() and (given.is_absolute() or len(given.parts) > 1):
        return Feedback(given.resolve())
    return Feedback(RunFolder.find(name_or_dir).path)
