"""Weights taken home: `export` and `push_to_hub`; `Session` adds what it is and how it is steered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..export.origin import Report
    from ..export.write import Exported


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody how far it is."""


class Taking:
    """The verbs that keep: `Session`'s."""

    if TYPE_CHECKING:  # Session's

        @property
        def name(self) -> str: ...  # noqa: D102

    def export(
        self,
        to: str | Path | None = None,
        at: str | int = "live",
        format: str | None = None,  # noqa: A002 - the word of the field
        *,
        force: bool = False,
        quantize: str | None = None,
        with_samples: bool = False,
        report: Report = quiet,
    ) -> Exported:
        """Write the weights at `at` (`live`, `best`, a step) into the folder `to`, load them again, and compare.

        `format`: `adapter` (PEFT), `merged` (transformers), `gguf` or `ollama`; by default the adapter, or the model
        where every weight was trained. `to`: `exports/` in the run folder by default. `quantize`: a type of GGUF's.
        `force` replaces an older export, `with_samples` puts rows into its card. `report(what, done, total)` is told
        how far it is. Raises `ExportError`, `AddressError`, `CheckpointError` or `ModelError`; nothing is left then.
        """
        from .export import export

        return export(
            f"{self.name}@{at}",
            to,
            format,
            force=force,
            quantize=quantize,
            with_samples=with_samples,
            report=report,
        )

    def push_to_hub(
        self,
        repo: str,
        at: str | int = "live",
        format: str | None = None,  # noqa: A002
        *,
        private: bool = True,
        force: bool = False,
        with_samples: bool = False,
        quantize: str | None = None,
        report: Report = quiet,
    ) -> Exported:
        """As `export`, into the run folder, and then up to `repo` (`USER/NAME`) on the hub, with a model card.

        Private unless `private=False`. What answers otherwise than the run is not pushed, but with `force`.
        """
        from .export import push

        return push(
            f"{self.name}@{at}",
            repo,
            format,
            public=not private,
            force=force,
            with_samples=with_samples,
            quantize=quantize,
            report=report,
        )
