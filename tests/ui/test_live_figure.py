from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import comm
import pytest
from comm.base_comm import BaseComm
from small_run import SmallRun

from jupyter_ft.errors import FineTuneError
from jupyter_ft.messages import EvalDone, Resumed, StepRefused
from jupyter_ft.ui import live_figure
from jupyter_ft.ui.live_figure import LiveFigure
from jupyter_ft.ui.pump import PUMP, WAKES_PER_SECOND


class Wire(BaseComm):
    """A comm that keeps what the widget writes to the browser: the names and values of its traits, and the buffers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[tuple[dict[str, Any], int]] = []
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        if data and data.get("method") == "update":
            weight = len(json.dumps(data["state"])) + sum(len(bytes(buffer)) for buffer in buffers or [])
            self.sent.append((data["state"], weight))

    @property
    def updates(self) -> list[int]:
        """The weight in bytes of each message that tells plotly to draw something."""
        sent, self.sent = self.sent, []
        return [weight for state, weight in sent if any(k.startswith("_py2js") and v for k, v in state.items())]


@pytest.fixture
def drawn(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveFigure]:
    """A live figure whose comm is a `Wire`; the pump's thread is left out, tests turn it by hand."""
    monkeypatch.setattr(comm, "create_comm", Wire)
    monkeypatch.setattr(PUMP, "watch", lambda told: None)
    figure = LiveFigure(run)  # type: ignore[arg-type]
    yield figure
    figure.widget.close()


def test_two_updates_a_second_and_none_after_the_end(run: SmallRun, drawn: LiveFigure) -> None:
    seconds = 20
    each_second = [0] * seconds
    for turn in range(seconds * WAKES_PER_SECOND):
        run.take(3)
        drawn.tell(turn / WAKES_PER_SECOND)
        each_second[turn // WAKES_PER_SECOND] += len(drawn.widget.comm.updates)
    assert each_second == [2] * seconds
    run.become("finished")
    assert drawn.watched  # the last steps are still to be drawn
    assert drawn.tell(seconds + 1.0) == 1
    assert len(drawn.widget.comm.updates) == 1
    assert drawn.widget.data[0].x[-1] == run.step
    assert not drawn.watched
    assert [drawn.tell(seconds + n) for n in range(2, 40)] == [0] * 38
    assert drawn.widget.comm.updates == []


def test_nothing_is_sent_while_nothing_happens_or_nobody_is_there(run: SmallRun, drawn: LiveFigure) -> None:
    run.take(5)
    drawn.tell(1.0)
    assert len(drawn.widget.comm.updates) == 1
    assert [drawn.tell(float(n)) for n in range(2, 10)] == [0] * 8
    assert drawn.watched
    wire = drawn.widget.comm
    drawn.widget.close()
    run.take(5)
    assert not drawn.watched
    assert drawn.tell(20.0) == 0
    assert wire.updates == []


@pytest.mark.slow
def test_what_is_sent_stays_small(run: SmallRun, drawn: LiveFigure) -> None:
    run.take(30_000)
    drawn.tell(1.0)
    [weight] = drawn.widget.comm.updates
    assert weight < 40_000
    assert all(len(trace.x) <= live_figure.POINTS for trace in drawn.widget.data)


def test_it_shows_what_happened(run: SmallRun, drawn: LiveFigure) -> None:
    assert [trace.name for trace in drawn.widget.data] == [
        *("loss", "eval loss", "learning rate", "not finite", "change", "taken back"),
    ]
    run.take(10, bad=(7,))
    run.log.append(StepRefused(step=9, loss=float("nan"), grad_norm=float("inf"), rows=[3, 4]))
    run.log.append(EvalDone(step=10, metrics={"eval_loss": 1.5}, best_step=10, rows=5, seconds=0.1))
    run.apply("c", learning_rate=5e-5)
    drawn.tell(1.0)
    loss, held_out, _, bad, change, _ = drawn.widget.data
    assert len(loss.x) == 10
    assert 0.0 not in [float(value) for value in loss.y]
    assert (held_out.x.tolist(), held_out.y.tolist()) == ([10], [1.5])
    assert bad.x.tolist() == [7, 9]
    assert list(bad.text) == ["", " (rows 3, 4)"]
    assert change.x.tolist() == [11]
    assert drawn.widget.layout.shapes[0].x0 == 11


def test_a_cell_in_the_way_stops_it_no_longer_than_that(
    run: SmallRun, drawn: LiveFigure, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.take(5)
    with monkeypatch.context() as patched:
        patched.setattr(drawn.widget, "batch_update", None)
        assert [drawn.tell(float(n)) for n in range(4)] == [0] * 4
        with pytest.raises(TypeError):
            drawn.tell(4.0)
    assert drawn.tell(5.0) == 1


def test_without_anywidget_it_is_one_line(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.graph_objects as go
    from plotly.missing_anywidget import FigureWidget

    monkeypatch.setattr(go, "FigureWidget", FigureWidget, raising=False)
    with pytest.raises(FineTuneError, match="pip install anywidget") as caught:
        LiveFigure(run)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_is_taken_back_while_it_is_shown_stays_dimmed(run: SmallRun, drawn: LiveFigure) -> None:
    run.take(6)
    drawn.tell(1.0)
    run.log.append(Resumed(step=4, rewound=True))
    drawn.tell(2.0)
    left = next(trace for trace in drawn.widget.data if trace.name == "taken back")
    assert [*left.x[:3]] == [4, 5, 6]
    assert left.opacity < 0.5
    assert [*drawn.widget.data[0].x] == [1, 2, 3, 4]
