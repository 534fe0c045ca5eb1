"""Triage: recall a class, calibration, and what an error costs."""

from __future__ import annotations

import pytest

from ._execute import Execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_triage_tells_recall_calibration_and_costs(execute: Execute) -> None:
    found = execute(
        "medical_triage.ipynb",
        "[float((said == true).mean()), float((true == 'routine').mean()), counts.to_numpy().sum().item(), len(test),"
        " float(chosen), [float(surprise(t, half[True])) for t in (1.0, temperature)],"
        " [float(outcome(t, half[True])['cost']) for t in (0.5, chosen)]]",
    )
    accuracy, majority, counted, messages, chosen, (loss, scaled), (even, cheapest) = found
    assert counted == messages > 200
    assert accuracy > majority + 0.15
    assert scaled <= loss
    assert 0 < chosen < 0.9
    assert cheapest <= even
