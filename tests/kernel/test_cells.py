"""The cells of a notebook in a real kernel, with a tiny model."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Kernel
from .sets import pinned

pytestmark = pytest.mark.slow

CELL = """%%finetune {name} --model tiny --data tickets.csv
method: supervised
adapter: lora
columns: {{prompt: Customer message, completion: Agent reply}}
learning_rate: 2e-4
dtype: float32
batch_size: 2
max_steps: {steps}
"""
EVENTS = "[e.kind + ':' + getattr(e, 'state', '') for e in {name}.events]"
INTERRUPT_WHEN_WAITING = """import os, signal, threading
def watch():
    while not support.log.lock._waiters:
        os.sched_yield()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=watch, daemon=True).start()
"""
LOUD = """import logging, sys, warnings, transformers.trainer
class Loud(transformers.trainer.TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        print("noise out")
        sys.stderr.write("noise err\\n")
        logging.getLogger("loud").warning("noise log")
        warnings.warn("noise warning")
transformers.trainer.DEFAULT_CALLBACKS.append(Loud)
"""
VIEW = "application/vnd.jupyter.widget-view+json"


def wait_for_step(kernel: Kernel, name: str, step: int) -> None:
    said = kernel.run(f"%ft wait {name} --step {step}")
    assert said.ok, said.stderr


def test_the_kernel_has_the_packages_of_its_set(kernel: Kernel, kernel_set: str) -> None:
    wanted = pinned(kernel_set)
    found = f"{{name: __import__('importlib.metadata').metadata.version(name) for name in {list(wanted)}}}"
    assert kernel.value(found) == str(wanted)
    for module in ("ipykernel", "IPython", "ipywidgets", "traitlets", "tornado", "anywidget"):
        laid_over = kernel.value(f"'.kernels' in __import__('{module}').__file__") == "True"
        assert laid_over == (module.lower() in wanted), module


def test_a_wrong_key_comes_before_loading_and_before_torch(kernel: Kernel) -> None:
    said = kernel.run("%%finetune support --model tiny --data tickets.csv\nlerning_rate: 2e-4")
    assert said.reply["ename"] == "UsageError"
    assert said.stderr.strip().count("\n") == 0
    assert "did you mean 'learning_rate'?" in said.stderr
    assert kernel.value("'torch' in __import__('sys').modules") == "False"
    assert kernel.value("len(__import__('jupyter_ft').sessions)") == "0"


def test_the_cell_returns_with_the_panel_before_anything_loads(kernel: Kernel) -> None:
    said = kernel.run(CELL.format(name="support", steps=100_000), cell="c1")
    assert said.ok, said.stderr
    assert any(VIEW in data and "text/html" in data for data in said.displays())
    wait_for_step(kernel, "support", 1)
    times = kernel.value("[e.time for e in support.events if getattr(e, 'state', '') == 'loading'][0]")
    assert float(times) > said.replied, "loading began before the reply"
    order = kernel.value(EVENTS.format(name="support"))
    assert order.index("state:queued") < order.index("state:loading") < order.index("state:running")


def test_other_cells_run_meanwhile_and_get_nothing_of_the_run(kernel: Kernel) -> None:
    before = int(kernel.value("support.step"))
    cell = "for i in range(5):\n    print('mine', i)\n    support.wait(step=support.step + 1)"
    said = kernel.run(cell)
    assert said.ok
    assert said.stdout == "".join(f"mine {i}\n" for i in range(5))
    assert said.stderr == ""
    assert int(kernel.value("support.step")) > before
    kernel.drain()
    streams = [m["content"]["text"] for m in kernel.heard if m["msg_type"] == "stream"]
    assert not [text for text in streams if "'loss'" in text or "it/s]" in text or "Warning" in text]


def _tells_the_story(message: dict[str, Any]) -> bool:
    """A beat of the run's heart may come before it."""
    data = message["content"].get("data", {}) if message["msg_type"] == "comm_msg" else {}
    return bool(data.get("content", {}).get("t") == "story")


def test_the_panel_is_told_and_answered_over_its_comm(kernel: Kernel) -> None:
    opened = [m["content"] for m in kernel.heard if m["msg_type"] == "comm_open"]
    panel = next(one["comm_id"] for one in opened if "_esm" in one["data"]["state"])
    heard = len(kernel.heard)  # the story may be told before the kernel says that it has done what it was told
    kernel.tell(panel, {"t": "hello", "view": "v"})
    story = kernel.until(_tells_the_story, after=heard)["content"]["data"]["content"]
    assert (story["to"], story["name"]) == ("v", "support")
    # where a front end drops what is sent in the background, the answer must come under the message that asks
    (answer,) = filter(_tells_the_story, kernel.tell(panel, {"t": "poll", "view": "v", "seq": 0}))
    told = answer["content"]["data"]["content"]
    assert (told["t"], told["to"], len(answer["buffers"])) == ("story", "v", 1), "a lost message was not made good"
    kernel.tell(panel, {"t": "command", "view": "v", "command": {"kind": "save", "id": "from-the-panel"}})
    assert kernel.run("support.log.wait_for(lambda: support.log.answer('from-the-panel'), 60)").ok
    assert kernel.value("support.log.answer('from-the-panel').kind") == "applied"


def test_interrupt_does_not_stop_the_run(kernel: Kernel) -> None:
    before = int(kernel.value("support.step"))
    kernel.manager.interrupt_kernel()
    assert kernel.run(INTERRUPT_WHEN_WAITING).ok
    said = kernel.run("%ft wait support")
    assert said.ok, said.reply
    assert "no longer waiting: support is running" in said.stdout
    wait_for_step(kernel, "support", before + 5)
    assert kernel.value("support.state") == "running"


def test_set_says_the_step_and_a_later_step_is_requested(kernel: Kernel) -> None:
    said = kernel.run("%ft set support learning_rate=5e-5")
    assert said.ok, said.stderr
    assert "→ 5e-5 at step " in said.stdout
    said = kernel.run("%ft set support lr=1e-4 --step 90000")
    assert said.stdout.startswith("requested: lr = 1e-4 at step 90000 (now at step ")
    said = kernel.run("%ft set support lr=1e-4 --step 1")
    assert said.reply["ename"] == "UsageError"
    assert "has passed" in said.stderr
    said = kernel.run("%ft set support seed=1")
    assert "fixed once a run has started" in said.stderr


def test_a_chat_is_answered_while_steps_go_on(kernel: Kernel) -> None:
    before = int(kernel.value("support.step"))
    said = kernel.run("%%chat support --at base,live max_new_tokens=24 --out replies\nWhere is my order?", cell="c2")
    assert said.ok, said.stderr
    last = said.displays()[-1]
    assert last["text/plain"].startswith("[base · ")
    assert "live · step" in last["text/plain"]
    assert "jft-told" in last["text/html"]
    assert kernel.value("sorted(replies)") == "['base', 'live']"
    assert int(kernel.value("replies['live'].step")) >= before
    assert int(kernel.value("support.step")) > before


def test_a_cell_run_again_replaces_its_turn(kernel: Kernel) -> None:
    turns = "[e for e in support.events if e.kind == 'reply']"
    assert kernel.run("%%chat support max_new_tokens=4\nAnd now?", cell="c3").ok
    assert kernel.run("from jupyter_ft.magics import _LOADED as loaded").ok
    asked = "[len(talk.turns) for talk in loaded[get_ipython()]._conversations.values()]"
    assert kernel.value(asked) == "[2]"
    assert kernel.run("%%chat support max_new_tokens=4\nAnd now, please?", cell="c3").ok
    assert kernel.value(asked) == "[2]"
    assert kernel.run("%%chat support max_new_tokens=4\nFrom the start", cell="c2").ok
    assert kernel.value(asked) == "[1]"
    assert int(kernel.value(f"len({turns})")) >= 4


def test_interrupt_stops_a_reply_and_keeps_what_was_said(kernel: Kernel) -> None:
    sent = kernel.send("%%chat support --at base max_new_tokens=4000\nTell me a very long story")  # it never ends
    while not any(m["msg_type"] == "update_display_data" for m in kernel.of(sent)):
        kernel.drain(0.1)
    kernel.manager.interrupt_kernel()
    said = kernel.result(sent)
    assert said.ok, said.reply
    stamp, _, text = said.displays()[-1]["text/plain"].partition("\n")
    assert stamp.endswith("tok/s · stopped]")
    assert text.strip()
    assert kernel.value("support.state") == "running"


def test_pause_chat_resume_stop(kernel: Kernel) -> None:
    assert "support is paused at step" in kernel.run("%ft pause support").stdout
    assert kernel.run("%ft chat support max_new_tokens=4 'hello there'").ok
    assert "goes on from step" in kernel.run("%ft resume support").stdout
    assert "keeps a checkpoint of step" in kernel.run("%ft save support").stdout
    again = kernel.run(CELL.format(name="support", steps=10))
    assert "--replace" in again.stderr
    assert "support stops at step" in kernel.run("%ft stop support").stdout
    assert kernel.run("%ft wait support").ok
    table = kernel.run("%ft").displays()[-1]
    assert "stopped" in table["text/plain"]
    assert "<td" in table["text/html"]


def test_over_the_cell_starts_the_next_and_the_variable_follows(kernel: Kernel) -> None:
    assert kernel.run(CELL.format(name="support", steps=3)).ok
    assert kernel.value("support.name") == "support-2"
    assert "support-2 is finished at step 3 of 3" in kernel.run("%ft wait support").stdout
    assert kernel.run("other = 1\n%ft close support-2").ok
    said = kernel.run("%%finetune other --model tiny --data tickets.csv\nmax_steps: 2")
    assert "--out VAR" in said.stderr


def test_resume_goes_on_and_replace_starts_anew(kernel: Kernel) -> None:
    cell = CELL.format(name="again", steps=100_000)
    assert kernel.run(cell).ok
    wait_for_step(kernel, "again", 2)
    assert kernel.run("%ft stop again\n%ft wait again").ok
    stopped = int(kernel.value("again.step"))
    changed = kernel.run(cell.replace("tickets.csv", "tickets.csv --resume seed=1"))
    assert "started with another seed" in changed.stderr
    assert kernel.run(cell.replace("tickets.csv", "tickets.csv --resume")).ok
    wait_for_step(kernel, "again", stopped + 2)
    assert kernel.value("again.name") == "again"
    assert kernel.run("%ft stop again\n%ft wait again\n%ft close again\ndel again").ok
    assert kernel.run("%%finetune again --resume --out same\n").ok  # its folder knows the rest
    wait_for_step(kernel, "again", stopped + 4)
    assert kernel.value("again is same") == "True"
    assert kernel.run(cell.replace("tickets.csv", "tickets.csv --replace --out latest").replace("100000", "2")).ok
    assert kernel.value("again is latest, again.name") == "True again-2"
    assert kernel.run("%ft wait again").ok


def test_a_waited_run_that_fails_is_one_red_line(kernel: Kernel, here: object) -> None:
    broken = "import shutil, pathlib\nshutil.copytree(tiny, 'broken', dirs_exist_ok=True)\n"
    broken += "pathlib.Path('broken/model.safetensors').write_bytes(b'no')"
    assert kernel.run(broken).ok
    said = kernel.run("%%finetune bad --model ./broken --data tickets.csv --wait\nmax_steps: 2")
    assert said.reply["ename"] == "UsageError"
    assert said.stderr.strip().count("\n") == 0
    assert "bad failed at step 0" in said.stderr


def test_chats_that_are_not_recorded_leave_a_line(kernel: Kernel) -> None:
    assert kernel.run(CELL.format(name="quiet", steps=2) + "record_chats: false\n").ok
    assert kernel.run("%ft wait quiet").ok
    said = kernel.run("%%chat quiet max_new_tokens=4\nA secret")
    assert said.ok, said.stderr
    assert said.displays()[-1] == {
        "text/plain": "the replies are not recorded here (record_chats: false); they are in the panel"
    }


def test_what_the_training_thread_prints_is_in_its_log_and_in_no_cell(kernel: Kernel) -> None:
    assert kernel.run(LOUD).ok
    assert kernel.run(CELL.format(name="loud", steps=100_000)).ok
    wait_for_step(kernel, "loud", 1)
    said = kernel.run("for i in range(5):\n    print('mine', i)\n    loud.wait(step=loud.step + 1)")
    assert said.stdout == "".join(f"mine {i}\n" for i in range(5))
    cell = "print('caught')\nloud.wait(step=loud.step + 2)"
    assert kernel.run(f"%%capture caught\n{cell}").ok
    assert kernel.value("repr(caught.stdout + caught.stderr)") == repr("caught\n")
    assert kernel.run("%%capture caught\n%ft stop loud\n%ft wait loud").ok
    assert kernel.value("__import__('sys').stdout.__class__.__module__") == "ipykernel.iostream"
    assert kernel.run(f"%%capture caught\n{CELL.format(name='whole', steps=5)}").ok
    assert kernel.run("whole.wait()").stdout == ""
    assert "noise" not in kernel.value("repr(caught.stdout + caught.stderr)")
    assert kernel.value("__import__('sys').stdout.__class__.__module__") == "ipykernel.iostream"
    kernel.drain()
    assert not [m for m in kernel.heard if m["msg_type"] == "stream" and "noise" in m["content"]["text"]]
    logged = kernel.value("{e.text for e in loud.events if e.kind == 'log' and 'noise' in e.text}")
    for noise in ("'noise out'", "'noise err'", "'noise log'", "noise warning"):
        assert noise in logged


def test_unloading_takes_the_magics_away_and_leaves_the_runs(kernel: Kernel) -> None:
    assert kernel.run(CELL.format(name="left", steps=100_000)).ok
    assert kernel.run("%unload_ext jupyter_ft").ok
    for cell in ("%ft status left", "%%chat left\nhello"):
        assert "not found" in kernel.run(cell).stderr
    assert kernel.run("left.wait(step=1)").ok
    assert kernel.value("left.state") == "running"
    said = kernel.run("%load_ext jupyter_ft\n%ft stop left")
    assert "left stops at step" in said.stdout
