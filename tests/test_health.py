"""The watch: silent over healthy runs, and each fault named within the steps that are promised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jupyter_ft.event_log import EventLog
from jupyter_ft.health import Watch
from jupyter_ft.messages import EvalDone, Health, Resumed, SaveFailed, StepDone, StepRefused, command_from
from jupyter_ft.session.address import parse_address


class Run:
    """A log that steps are written to, and the watch that reads it after each."""

    def __init__(self) -> None:
        self.log, self.watch = EventLog(), Watch("support")
        self.said: list[Health] = []
        self.best = (math.inf, 0)
        self.done = 0

    def _look(self, rows: list[int]) -> None:
        health = self.watch.look(self.log, rows)
        if health is not None:
            self.log.append(health)
            self.said.append(health)

    def step(self, loss: float, norm: float = 1.0, *, refuse: bool = False) -> None:
        self.done += 1
        rows = [2 * self.done - 1, 2 * self.done]
        if refuse:
            self.log.append(StepRefused(step=self.done, loss=loss, grad_norm=norm, rows=rows))
        self.log.append(
            StepDone(step=self.done, loss=loss, learning_rate=2e-4, grad_norm=norm, tokens=9, seconds=1, epoch=0.1)
        )
        self._look(rows)

    def evaluate(self, loss: float) -> None:
        self.best = min(self.best, (loss, self.done))
        self.log.append(
            EvalDone(step=self.done, metrics={"eval_loss": loss}, best_step=self.best[1], rows=9, seconds=1)
        )
        self._look([])

    @property
    def levels(self) -> list[tuple[int, str]]:
        return [(health.step, health.level) for health in self.said]


def healthy(seed: int, steps: int) -> tuple[list[float], list[float], list[float]]:
    """Losses, gradient norms and held-out losses as small batches give them: a fall, and noise of up to two."""
    draw = np.random.default_rng(seed)
    noise, top, low = draw.uniform(0.05, 0.35), draw.uniform(2, 6), draw.uniform(0.05, 1.5)
    time, warmup = np.arange(steps), draw.integers(1, 20)
    level = low + (top - low) * np.exp(-np.maximum(time - warmup, 0) / draw.uniform(10, steps / 2))
    losses = level * np.exp(noise * draw.standard_normal(steps))
    norms = np.minimum(1, (time + 1) / warmup) * (1 + level) * np.exp(0.4 * draw.standard_normal(steps))
    held_out = level * 1.1 + 0.02 * draw.standard_normal(steps) * level.min()
    return losses.tolist(), norms.tolist(), held_out.tolist()


def train(run: Run, losses: list[float], norms: list[float], held_out: list[float] | None = None) -> None:
    for index, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
        run.step(loss, norm)
        if held_out is not None and index % max(1, len(losses) // 10) == 0:
            run.evaluate(held_out[index - 1])


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_is_never_alarmed(seed: int) -> None:
    run = Run()
    train(run, *healthy(seed, steps=[30, 60, 120, 240][seed % 4]))
    assert run.said == []


def test_a_step_that_is_not_finite_is_amber_with_its_rows_and_passes() -> None:
    run = Run()
    train(run, [2.0] * 5, [1.0] * 5)
    run.step(math.nan, math.nan, refuse=True)
    train(run, [2.0] * 25, [1.0] * 25)
    assert run.levels == [(6, "amber"), (27, "green")]
    assert "step 6 was not finite (loss nan)" in run.said[0].said
    assert run.said[0].rows == [11, 12]


def test_three_of_twenty_that_are_not_finite_are_red() -> None:
    run = Run()
    for number in range(1, 31):
        bad = number in (3, 15, 27, 29, 30)  # 3 to 27 are further apart than twenty steps
        run.step(math.inf if bad else 2.0, refuse=bad)
    assert [level for _, level in run.levels] == ["amber", "amber", "amber", "red", "red"]
    assert run.said[3].step == 29
    assert run.watch.suspicious


@pytest.mark.parametrize("seed", range(5))
def test_a_divergence_is_red_after_three_steps_and_never_before(seed: int) -> None:
    losses, norms, _ = healthy(seed, 60)
    run = Run()
    train(run, losses, norms)
    for factor in (4, 6, 8):  # of what is usual at that time
        assert "red" not in {level for _, level in run.levels}
        run.step(factor * max(losses[-20:]), 20 * max(norms))
        assert run.watch.suspicious  # no checkpoint of these weights pushes a good one out
    assert run.said[-1].level == "red"
    assert "diverges since step 61" in run.said[-1].said
    assert run.said[-1].rows == [125, 126]


def test_a_loss_that_stays_high_is_red_whatever_its_gradient_is() -> None:
    run = Run()
    train(run, [2.0, 2.1, 1.9] * 5, [1.0] * 15)
    train(run, [11.0] * 5, [1.0] * 5)
    assert run.levels[-1] == (20, "red")


def test_a_single_spike_is_named_and_passes_without_moving_what_is_usual() -> None:
    run = Run()
    train(run, [2.0, 2.1, 1.9] * 6, [1.0] * 18)
    run.step(14.0, 3.0)
    train(run, [2.0, 2.1] * 8, [1.0] * 16)
    run.step(13.0, 3.0)
    assert run.levels == [(19, "amber"), (30, "green"), (36, "amber")]
    assert "jumped to 14 at step 19, 6.7 times" in run.said[0].said
    assert run.said[0].rows == [37, 38]


def test_a_loss_that_rises_and_stays_is_amber_until_it_is_back() -> None:
    run = Run()
    train(run, [2.0, 2.1, 1.9] * 6 + [2.6] * 12 + [2.0] * 8, [1.0] * 38)
    assert run.levels == [(26, "amber"), (33, "green")]
    assert run.said[0].said == "the loss has risen since step 19: 2.6, it was 2 before"


def test_a_held_out_loss_that_rises_three_times_is_amber_until_it_falls() -> None:
    run = Run()
    for held_out in (3.0, 2.0, 2.1, 2.2, 2.3, 1.9):
        train(run, [1.5] * 10, [1.0] * 10)
        run.evaluate(held_out)
    assert run.levels == [(50, "amber"), (60, "green")]
    assert run.said[0].said == "held-out loss has risen three times since step 20; best is step 20"
    assert (run.said[0].advice[0].label, run.said[0].advice[0].chat) == ("chat with step 20", 20)


def test_further_rises_are_counted_from_where_they_began() -> None:
    run = Run()
    for held_out in (3.0, 2.0, 2.2, 2.1, 2.2, 2.3, 2.4, 2.5, 2.0, 2.1):
        train(run, [1.5] * 10, [1.0] * 10)
        run.evaluate(held_out)
    assert [health.said for health in run.said if health.level == "amber"] == [
        "held-out loss has risen three times since step 40; best is step 20",
        "held-out loss has risen four times since step 40; best is step 20",
    ]
    assert run.levels[-1] == (90, "green")


def test_a_train_loss_that_runs_away_from_the_held_out_loss_is_amber() -> None:
    run = Run()
    for train_loss, held_out in ((2.0, 2.2), (1.2, 1.9), (0.3, 2.0)):
        train(run, [train_loss] * 40, [1.0] * 40)
        run.evaluate(held_out)
    assert run.levels == [(120, "amber")]
    assert "held-out loss is 2 at step 120, train loss 0.3; best is step 80" in run.said[0].said


def test_steps_that_an_fp16_scaler_skips_alarm_beyond_a_twentieth() -> None:
    run = Run()
    for number in range(1, 101):
        run.step(2.0, math.inf if number in (1, 2, 3, 90) else 1.0)
    assert run.said == []
    for number in range(100):
        run.step(2.0, math.inf if number % 10 == 0 else 1.0)
    assert [health.level for health in run.said] == ["amber"]
    assert "scaler" in run.said[0].said


def test_a_checkpoint_that_cannot_be_written_names_the_last_good_one() -> None:
    run = Run()
    train(run, [2.0] * 3, [1.0] * 3)
    run.log.append(SaveFailed(step=3, reason="OSError: [Errno 28] No space left on device"))
    run.step(2.0)
    assert run.said[0].level == "amber"
    assert "No space left on device); there is none yet" in run.said[0].said


FAULTS: list[Callable[[Run], None]] = [
    lambda run: run.step(math.nan, refuse=True),
    lambda run: train(run, [99.0] * 3, [99.0] * 3),
    lambda run: [run.evaluate(loss) for loss in (1.0, 1.1, 1.2, 1.3)] and None,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_advice_is_a_command_that_exists_and_the_same_for_a_cell(fault: Callable[[Run], None]) -> None:
    from jupyter_ft.magics.line import parse
    from jupyter_ft.magics.verbs import VERBS

    run = Run()
    train(run, [2.0] * 6, [1.0] * 6)
    fault(run)
    advice: list[Any] = run.said[-1].advice
    assert advice
    for one in advice:
        if one.chat is not None:
            assert (one.command, one.cell) == ({}, f"%%chat support --at {one.chat},live")
            continue
        command = command_from(one.command)
        magic, verb, *words = one.cell.split()
        line = parse(words, VERBS[verb].grammar)
        assert (magic, verb) == ("%ft", command.kind)
        assert parse_address(line.words[0]).session == "support"
        assert line.pairs == getattr(command, "changes", {})
    assert {"learning_rate": 1e-4} in [one.command.get("changes") for one in advice]


def test_it_is_rebuilt_from_the_log_when_steps_are_taken_back() -> None:
    run = Run()
    train(run, [2.0, 2.1] * 10, [1.0] * 20)
    run.step(math.nan, refuse=True)
    run.step(math.nan, refuse=True)
    run.log.append(Resumed(step=20))
    again = Watch("support")
    now = again.look(run.log)
    assert now is not None
    assert now.level == "green"  # what is amber in the log has not happened
    run.watch, run.done, run.said = again, 20, []
    for _ in range(2):
        run.step(math.nan, refuse=True)
    assert [health.level for health in run.said] == ["amber", "amber"]  # a third of the time before does not count
    run.step(14.0, 3.0)
    run.step(math.nan, refuse=True)
    assert run.said[-1].level == "red"


def test_going_on_after_red_learns_anew() -> None:
    run = Run()
    train(run, [2.0] * 6 + [50.0] * 3, [1.0] * 6 + [50.0] * 3)
    assert run.levels[-1][1] == "red"
    health = run.watch.go_on()
    assert health is not None
    assert (health.level, run.watch.suspicious) == ("green", False)
    run.said.clear()
    train(run, [50.0] * 10, [50.0] * 10)
    assert run.said == []
    assert run.watch.go_on() is None
