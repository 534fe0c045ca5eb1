"""`jupyter_ft.preview`: rows as the model will see them, as an output of a cell."""

from __future__ import annotations

from typing import Any

from jupyter_ft.data import Report
from jupyter_ft.data.look import Look
from jupyter_ft.errors import DataError
from jupyter_ft.session import Session
from jupyter_ft.session.preview import look_at, look_at_run, tokenizer_of
from jupyter_ft.ui.rows import PAGE, look_html, look_text


class Preview:
    """A look at rows that shows itself: HTML in a notebook, plain text elsewhere. `look` is what it shows."""

    def __init__(self, look: Look, first: int = 0, count: int = PAGE) -> None:
        self.look, self._page = look, (first, count)

    def __repr__(self) -> str:
        return look_text(self.look, *self._page)

    def _repr_html_(self) -> str:
        return look_html(self.look, *self._page)


def preview(
    data: object,
    model: str | None = None,
    *,
    rows: int = PAGE,
    row: int | None = None,
    every: bool = False,
    progress: Report | None = None,
    **recipe: Any,
) -> Preview:
    """Rows exactly as the model will see them, before anything is trained; only its tokenizer is loaded.

    `data` and `recipe` are as for `finetune`, or `data` is a `Session`: then the rows are those that its trainer has.
    Shows the first `rows` of them, or `row` (from 1) alone. The figures are of the first 10,000 rows, or of `every`
    one; `progress` is told how far the reading is. Raises `RecipeError`, `DataError` or `ModelError`.
    """
    if rows < 1 or (row is not None and row < 1):
        raise DataError("rows and row count from 1")
    if isinstance(data, Session):
        look = look_at_run(data.name, data.folder, data.recipe, tokenizer_of(data.recipe))
    else:
        look = look_at(data, model, recipe, every=every, progress=progress)
    if row is None:
        return Preview(look, 0, rows)
    first = look.rows.index_of(row)
    if first >= len(look.rows):
        raise DataError(f"there is no row {row:,}; there are {len(look.rows):,}")
    return Preview(look, first, 1)
