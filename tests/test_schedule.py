"""The learning rate after an edit."""

from __future__ import annotations

import pytest

from jupyter_ft.control.schedule import Anchor, decay_progress
from jupyter_ft.hyperparameters import Schedule


def test_it_starts_at_the_rate_that_was_set_and_ends_at_zero() -> None:
    anchor = Anchor("linear", start=10, total=20, progress=0.5, rate=3e-4)
    assert anchor.at(10) == 3e-4
    assert anchor.at(15) == pytest.approx(1.5e-4)
    assert anchor.at(20) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
def test_it_never_rises(shape: Schedule) -> None:
    anchor = Anchor(shape, start=3, total=30, progress=0.2, rate=1e-3)
    rates = [anchor.at(step) for step in range(3, 31)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == (1e-3 if shape == "constant" else pytest.approx(0, abs=1e-9))


def test_a_finished_schedule_goes_on_constant() -> None:
    anchor = Anchor("cosine", start=20, total=20, progress=1.0, rate=5e-5)
    assert {anchor.at(step) for step in range(20, 40)} == {5e-5}


def test_a_stretched_run_stretches_the_rest_of_the_decay() -> None:
    before = Anchor("linear", start=0, total=10, progress=0.0, rate=1.0)
    after = Anchor("linear", start=5, total=25, progress=before.progress_at(5), rate=before.at(5))
    assert after.at(5) == before.at(5)
    assert after.at(15) == pytest.approx(0.25)


def test_progress_counts_from_the_end_of_the_warm_up() -> None:
    assert [decay_progress(step, 10, 30) for step in (0, 10, 20, 30, 40)] == [0, 0, 0.5, 1, 1]
