"""How many answers are made at once: what goes together, and what is said where it does not."""

from __future__ import annotations

import pytest

from jupyter_ft.geometry import Geometry


@pytest.mark.parametrize(
    ("numbers", "prompts", "updates", "left"),
    [
        ((8, 2, 2, 8, 1), 2, 7, ""),
        ((4, 1, 4, 2, 2), 8, 8, "6 prompts are left over in each epoch, others each time (8 are answered at once)"),
        ((4, 4, 2, 2, 1), 4, 2, "2 prompts are left over in each epoch, others each time (4 are answered at once)"),
        ((13, 1, 1, 1, 1), 13, 1, "1 prompt is left over in each epoch, others each time (13 are answered at once)"),
    ],
)
def test_prompts_and_steps_of_fourteen_rows(numbers: tuple[int, ...], prompts: int, updates: int, left: str) -> None:
    geometry = Geometry(*numbers)
    assert geometry.wrong() == ""
    assert (geometry.prompts, geometry.updates(14), geometry.left_over(14)) == (prompts, updates, left)


@pytest.mark.parametrize(
    ("numbers", "nearest"),
    [((6, 1, 1, 8, 1), 8), ((13, 1, 1, 8, 1), 16), ((1, 1, 1, 8, 1), 8), ((3, 2, 2, 8, 1), 4), ((9, 4, 4, 8, 1), 8)],
)
def test_the_nearest_batch_size_works(numbers: tuple[int, ...], nearest: int) -> None:
    assert f"the nearest batch_size is {nearest}" in Geometry(*numbers).wrong()
    assert Geometry(nearest, *numbers[1:]).wrong() == ""


def test_a_step_does_not_end_in_the_middle_of_a_generation() -> None:
    assert "leave steps_per_generation out, or give a multiple of 2" in Geometry(8, 2, 3, 8, 1).wrong()
    assert Geometry(8, 2, 1, 8, 1).wrong() == Geometry(8, 2, 4, 8, 1).wrong() == ""
    assert Geometry(8, 2, 1, 8, 3).wrong() != ""


def test_too_few_prompts() -> None:
    assert "4 prompts are answered at once" in Geometry(8, 4, 4, 8, 1).too_few(3)
    assert Geometry(8, 4, 4, 8, 1).too_few(4) == ""
