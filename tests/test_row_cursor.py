"""Which rows come next, and how many steps that makes."""

from __future__ import annotations

import math

import pytest

from jupyter_ft.control.cursor import RowCursor


class Backwards:
    """A sampler."""

    def __iter__(self):
        return iter(range(9, -1, -1))


def test_rows_come_in_the_samplers_order_and_once() -> None:
    cursor = RowCursor(rows=10, batch_size=3, accumulation=2)
    cursor.begin_epoch(Backwards())
    assert cursor.take() == [[9, 8, 7], [6, 5, 4]]
    cursor.batch_size = 2
    assert cursor.take() == [[3, 2], [1, 0]]
    assert cursor.end_epoch_if_done()
    assert (cursor.epoch, cursor.position, cursor.order) == (1, 0, None)


@pytest.mark.parametrize("epochs", [0.5, 1, 1.5, 3])
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 1), (3, 2), (4, 3), (64, 1)])
def test_steps_left_agrees_with_transformers(epochs: float, batch: int, accumulation: int) -> None:
    rows = 50
    theirs = math.ceil(epochs * math.ceil(math.ceil(rows / batch) / accumulation))
    assert RowCursor(rows, batch, accumulation).steps_left(epochs) == theirs


def test_steps_left_counts_down_to_zero() -> None:
    cursor = RowCursor(rows=10, batch_size=4, accumulation=1)
    left = []
    for _ in range(6):
        left.append(cursor.steps_left(2))
        if cursor.order is None:
            cursor.begin_epoch(Backwards())
        cursor.take()
        cursor.end_epoch_if_done()
    assert left == [6, 5, 4, 3, 2, 1]
    assert cursor.steps_left(2) == 0


def test_its_state_round_trips() -> None:
    cursor = RowCursor(rows=10, batch_size=4, accumulation=2)
    cursor.begin_epoch(Backwards())
    cursor.take()
    assert RowCursor.from_state(cursor.state()) == cursor


def test_micro_batches_are_split_to_what_fits_and_the_step_stays_as_large() -> None:
    cursor = RowCursor(20, 8, 2)
    cursor.begin_epoch(range(20))
    whole = cursor.take()
    assert list(map(len, whole)) == [8, 8]
    cursor.give_back(whole)
    cursor.at_most = 3
    split = cursor.take()
    assert list(map(len, split)) == [3, 3, 2, 3, 3, 2]
    assert [row for batch in split for row in batch] == [row for batch in whole for row in batch]
    assert (cursor.position, cursor.rows_per_step) == (16, 16)
    assert RowCursor.from_state(cursor.state()) == cursor
    old = {name: value for name, value in cursor.state().items() if name != "at_most"}
    assert RowCursor.from_state(old).at_most is None  # a checkpoint of 0.1
