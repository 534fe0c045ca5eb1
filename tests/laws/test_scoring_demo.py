"""A classifier of real sentences learns what it was asked to: better on rows that it has not seen than the majority."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

TICKETS = Path(__file__).parents[2] / "examples" / "tickets.csv"


@pytest.mark.slow
def test_smollm2_tells_customers_from_agents() -> None:
    import jupyter_ft

    with TICKETS.open(newline="") as file:
        pairs = list(csv.DictReader(file))
    rows = [{"text": pair["Agent reply"], "label": "agent"} for pair in pairs]
    rows += [{"text": pair["Customer message"], "label": "customer"} for pair in pairs[::2]]  # uneven on purpose
    session = jupyter_ft.finetune(
        "demo", rows, "who", method="sentiment", held_out=48, epochs=1, max_length=24, learning_rate=1e-3, eval_steps=99
    )
    session.wait(timeout=300)
    event = next(event for event in reversed(session.events) if event.kind == "eval")
    counts = event.confusion.counts
    majority = max(map(sum, counts)) / event.rows
    accuracy = event.metrics["eval_accuracy"]
    assert 0.5 < majority < 0.8
    assert accuracy >= majority + 0.15
    assert min(counts[at][at] / sum(counts[at]) for at in (0, 1)) > 0.5  # neither label is given up
    asked = session.chat("My parcel never came. I want my money back!")
    assert asked.startswith("customer ")
    answered = session.chat("I'm sorry about that. Please send us your order number, and we will look into it.")
    assert answered.startswith("agent ")
    assert asked.scores["customer"] + asked.scores["agent"] == pytest.approx(1, abs=1e-5)
