from __future__ import annotations

import re
import threading
import time
from importlib.resources import files

import comm
import pytest
from small_run import SmallRun, Wire, say, until

from jupyter_ft.errors import FineTuneError
from jupyter_ft.magics import chat_view
from jupyter_ft.messages import Applied, Refused, ReplyPart, Set
from jupyter_ft.ui import below as below_module
from jupyter_ft.ui import panel as panel_module
from jupyter_ft.ui import record as record_module
from jupyter_ft.ui.below import _ONE_OF_TWO, LATER
from jupyter_ft.ui.panel import VIEWS_KEPT, Panel
from jupyter_ft.ui.pump import WAKES_PER_SECOND, Pump, free_replies

VIEW = "application/vnd.jupyter.widget-view+json"


def test_hello_twice_tells_the_whole_story_twice(run: SmallRun, panel: Panel) -> None:
    run.take(50)
    stories = []
    for now in (1.0, 2.0):
        say(panel, t="hello", view="v")
        assert panel.tell(now) == 1
        [(content, buffers)] = panel.comm.taken()
        stories.append((content["t"], content["rows"], len(buffers[0]), content["controls"][0]["name"]))
    assert stories[0] == stories[1]
    assert stories[0][:2] == ("story", 50)


def test_two_views_each_keep_their_own_place(run: SmallRun, panel: Panel) -> None:
    run.take(5)
    say(panel, t="hello", view="a")
    panel.tell(1.0)
    run.take(5)
    say(panel, t="hello", view="b")
    panel.tell(2.0)
    told = {(content["to"], content["t"], content["rows"]) for content, _ in panel.comm.taken()}
    assert told == {("a", "story", 5), ("a", "news", 5), ("b", "story", 10)}


def test_a_command_reaches_the_session_and_its_answer_the_view(run: SmallRun, panel: Panel) -> None:
    say(panel, t="hello", view="v")
    panel.tell(1.0)
    panel.comm.taken()
    say(panel, t="command", view="v", command={"kind": "set", "id": "c1", "changes": {"learning_rate": 5e-5}})
    assert run.said == [Set(id="c1", changes={"learning_rate": 5e-5})]
    run.apply("c1", learning_rate=5e-5)
    panel.tell(2.0)
    [(content, _)] = panel.comm.taken()
    assert content["events"][0]["kind"] == "applied"
    assert content["values"]["learning_rate"] == 5e-5


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"t": "hello"},
        {"t": "hello", "view": 7},
        {"t": "command", "view": "v"},
        {"t": "command", "view": "v", "command": "stop"},
        {"t": "command", "view": "v", "command": {"kind": "explode", "id": "c"}},
        {"t": "command", "view": "v", "command": {"kind": "set", "id": ["x"], "changes": 3}},
        {"t": "command", "view": "v", "command": {"kind": "ask", "messages": [{"role": 1}]}},
        {"t": "poll", "view": "v", "seq": {"a": 1}},
        {"t": ["x"], "view": "v"},
    ],
)
def test_what_is_malformed_does_no_harm(run: SmallRun, panel: Panel, said: dict[str, object]) -> None:
    say(panel, **said)
    say(panel, t="hello", view="v")
    panel.tell(1.0)
    assert run.said == []
    content, _ = panel.comm.taken()[-1]
    notes = [event for event in content.get("events", []) if event["kind"] == "refused"]
    assert len(notes) == ("command" in said.values())
    assert run.log.read()[0].events == []  # the log is the run's; a view's noise is not in it


def test_a_session_that_refuses_is_a_note(run: SmallRun, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(command: object) -> None:
        raise FineTuneError("the session is closed")

    monkeypatch.setattr(run, "submit", closed)
    say(panel, t="command", view="v", command={"kind": "pause", "id": "c"})
    panel.tell(1.0)
    [(content, _)] = panel.comm.taken()
    assert content["events"][0]["reason"] == "the session is closed"


def test_polling_is_answered_at_once_and_a_lost_message_by_the_story(run: SmallRun, panel: Panel) -> None:
    run.take(4)
    say(panel, t="hello", view="v")
    panel.tell(1.0)
    panel.comm.taken()  # lost on the way, as on Colab
    say(panel, t="poll", view="v", seq=-1)
    [(story, _)] = panel.comm.taken()
    assert (story["t"], story["rows"]) == ("story", 4)
    assert panel.tell(50.0) == 0  # it asks for itself
    run.take(2)
    say(panel, t="poll", view="v", seq=story["seq"])
    [(news, _)] = panel.comm.taken()
    assert (news["t"], news["rows"]) == ("news", 2)
    say(panel, t="poll", view="v", seq=news["seq"])
    assert panel.comm.taken()[0][0]["t"] == "beat"
    say(panel, t="poll", view="v", seq=story["seq"])
    assert panel.comm.taken()[0][0]["t"] == "story"


def test_views_that_never_say_goodbye_do_not_pile_up(run: SmallRun, panel: Panel) -> None:
    for number in range(VIEWS_KEPT + 9):
        say(panel, t="hello", view=f"v{number}")
    assert panel.tell(1.0) == VIEWS_KEPT
    say(panel, t="bye", view=f"v{VIEWS_KEPT + 8}")
    run.take(1)
    assert panel.tell(2.0) == VIEWS_KEPT - 1


def test_no_metric_is_in_the_synced_state(run: SmallRun, panel: Panel) -> None:
    run.take(1000)
    state = {name: value for name, value in panel.get_state().items() if name not in ("_esm", "_css", "layout")}
    assert len(str(state)) < 600
    assert state["name"] == "support"


def test_what_ipykernel_notes_is_taken_back_after_each_message(run: SmallRun, panel: Panel) -> None:
    say(panel, t="hello", view="v")
    panel.tell(1.0)
    assert panel.comm.sent
    assert "_reply_subshell_id" not in vars(panel.comm)
    free_replies(None)
    free_replies(object())


def test_what_is_shown_outside_the_panel_shares_no_class_with_it() -> None:
    """A stylesheet counts for the whole page: the panel's would lay out the replies of a cell, and theirs the panel."""
    panel = (files("jupyter_ft.ui") / "static" / "panel.css").read_text()
    others = record_module.STYLE + chat_view.STYLE + _ONE_OF_TWO
    inside, outside = (set(re.findall(r"\.(jft-[a-z-]+)", style)) for style in (panel, others))
    assert len(inside) > 50
    assert len(outside) == 3
    assert not inside & outside


def test_the_bundle_is_small_and_its_absence_is_one_line(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    built = [files("jupyter_ft.ui") / "static" / name for name in ("panel.js", "panel.css")]
    assert sum(len(file.read_bytes()) for file in built) < 200_000
    assert "http://" not in built[1].read_text()
    monkeypatch.setattr(panel_module, "files", lambda package: tmp_path)
    with pytest.raises(FineTuneError, match="npm run build") as caught:
        Panel(run)
    assert "\n" not in str(caught.value)


def test_the_mimebundle_has_a_record_beside_the_view(run: SmallRun, panel: Panel) -> None:
    run.take(20)
    run.reply("c", "Hello?", "We are **here**.")
    data, _ = panel._repr_mimebundle_()
    assert data[VIEW]["model_id"] == panel.model_id
    assert "<img class='curve'" in data["text/html"]
    assert "<strong>here</strong>" in data["text/html"]
    assert "step 20 of 400" in data["text/plain"]


class Output:
    """One output of a cell, as the notebook's file would hold it."""

    def __init__(self, data: dict[str, str]) -> None:
        self.data, self.updates = data, 0

    def update(self, data: dict[str, str], **_: object) -> None:
        self.data, self.updates = data, self.updates + 1


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    """The outputs of the cell in which a panel is shown."""
    outputs: list[Output] = []

    def display(data: dict[str, str], **_: object) -> Output:
        outputs.append(Output(data))
        return outputs[-1]

    monkeypatch.setattr(panel_module, "display", display)
    monkeypatch.setattr(below_module, "display", display)
    return outputs


def test_the_record_is_an_output_of_its_own(run: SmallRun, panel: Panel, cell: list[Output]) -> None:
    run.take(9)
    panel.show()
    view, record = cell
    assert VIEW in view.data
    assert "jft-record" not in view.data["text/html"]  # nbconvert would show it twice
    assert VIEW not in record.data
    assert "step 9 of 400" in record.data["text/plain"]
    assert "jft-below" in record.data["text/html"]
    panel.close()
    assert VIEW not in view.data  # a closed widget would leave a blank cell
    assert "step 9 of 400" in record.data["text/plain"]


def test_the_record_is_kept_now_and_then_and_at_the_end(run: SmallRun, panel: Panel, cell: list[Output]) -> None:
    panel.show()
    record = cell[1]
    for second in range(1, 101):
        run.take(1)
        panel.tell(float(second))
    assert 3 <= record.updates <= 100 / LATER + 1
    assert "step 100 " not in record.data["text/plain"]
    run.become("finished")
    panel.tell(200.0)
    assert "finished · step 100 of 400" in record.data["text/plain"]
    before = record.updates
    for second in range(201, 301):
        panel.tell(float(second))
    assert record.updates == before
    assert not panel.watched
    run.reply("c", "And now?", "Done.")
    panel.tell(301.0)
    assert "And now?" in record.data["text/plain"]


def test_a_page_that_was_loaded_anew_is_told_of_the_record_and_may_have_it(
    run: SmallRun, panel: Panel, cell: list[Output]
) -> None:
    panel.show()
    run.take(9)
    say(panel, t="hello", view="v", keeps=True)
    say(panel, t="hello", view="w")
    now = time.monotonic()
    for turn in range(8):
        run.take(1)
        panel.tell(now + turn)
    sent = panel.comm.taken()
    [told] = [content for content, _ in sent if content["t"] == "record"]
    assert told["to"] == "v"
    assert f"data-record='{told['key']} {told['version']}'" in cell[1].data["text/html"]
    assert [content["t"] for content, _ in sent if content["to"] == "v"].count("news") == 6
    run.become("finished")
    panel.tell(now + 100)
    panel.tell(now + 101)
    assert [content["version"] for content, _ in panel.comm.taken() if content["t"] == "record"] == [
        told["version"] + 1
    ]
    say(panel, t="record", view="v")
    [(given, _)] = panel.comm.taken()
    assert given["data"] == cell[1].data


def test_a_view_that_polls_gets_the_record_with_its_news(run: SmallRun, panel: Panel, cell: list[Output]) -> None:
    panel.show()
    say(panel, t="hello", view="v")
    run.take(7)
    run.become("paused")
    assert "step 7 " not in cell[1].data["text/plain"]
    say(panel, t="poll", view="v", seq=-1)
    assert "paused · step 7 of 400" in cell[1].data["text/plain"]


def test_the_pump_is_one_thread(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", Wire)
    pump = Pump()
    monkeypatch.setattr(panel_module, "PUMP", pump)
    run.take(100)
    panels = [Panel(run) for _ in range(3)]
    for panel in panels:
        say(panel, t="hello", view="v")
    assert until(lambda: all(panel.comm.sent for panel in panels))
    assert sum(thread is pump._thread for thread in threading.enumerate()) == 1
    for panel in panels:
        panel.close()
    assert until(lambda: not pump._panels)


def test_a_turn_of_the_pump_is_at_most_one_message_a_view(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", Wire)
    pump = Pump()
    monkeypatch.setattr(panel_module, "PUMP", pump)
    monkeypatch.setattr(pump, "_run", lambda: None)  # the turns are this test's
    panels = [Panel(run) for _ in range(3)]
    for panel in panels:
        say(panel, t="hello", view="v")
    for turn in range(1, 6):
        for _ in range(50):
            run.log.append(Applied(command="x", verb="save", step=1))
        assert pump.turn(float(turn)) == 3
    assert pump.turn(6.0) == 0


def test_all_turns_of_the_pump_are_four_messages_a_second_for_a_view(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "create_comm", Wire)
    pump = Pump()
    monkeypatch.setattr(panel_module, "PUMP", pump)
    monkeypatch.setattr(pump, "_run", lambda: None)
    panels = [Panel(run), Panel(run)]
    for panel in panels:
        say(panel, t="hello", view="v")
        say(panel, t="hello", view="w")
    now = time.monotonic()
    sent = []
    for wake in range(10 * WAKES_PER_SECOND):
        run.take(1)
        run.log.append(ReplyPart(command="c", text="word "))
        sent.append(pump.turn(now + wake / WAKES_PER_SECOND * 1.0001))
    seconds = [sum(sent[at : at + WAKES_PER_SECOND]) for at in range(len(sent) - WAKES_PER_SECOND)]
    assert max(seconds) <= 4 * 4
    assert min(seconds) >= 3 * 4


def test_a_panel_that_cannot_be_told_silences_no_other(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", Wire)
    pump = Pump()
    monkeypatch.setattr(panel_module, "PUMP", pump)
    broken, whole = Panel(run), Panel(run)
    monkeypatch.setattr(pump, "_run", lambda: None)
    for panel in (broken, whole):
        say(panel, t="hello", view="v")
    monkeypatch.setattr(broken.comm, "publish_msg", None)
    assert pump.turn(1.0) == 1
    assert pump._panels == [whole]
    whole.close()


def test_a_refusal_is_an_event_like_any_other(run: SmallRun, panel: Panel) -> None:
    say(panel, t="hello", view="v")
    panel.tell(1.0)
    panel.comm.taken()
    run.log.append(Refused(command="c", verb="set", step=3, reason="learning_rate = 7.0: should be less than 1"))
    panel.tell(2.0)
    assert panel.comm.taken()[0][0]["events"][0]["reason"].startswith("learning_rate")
