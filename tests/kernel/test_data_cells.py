"""`%ft data` in a real kernel: rows before a run, and of one."""

from __future__ import annotations

import pytest

from .conftest import Kernel

pytestmark = pytest.mark.slow


def test_rows_are_looked_at_before_and_during_a_run(kernel: Kernel) -> None:
    said = kernel.run("%ft data tickets.csv model=tiny system='Be brief.' held_out=10% --rows 3")
    assert said.ok, said.reply
    assert said.stdout == ""
    [shown] = said.displays()
    assert "40 prompt–completion rows from tickets.csv" in shown["text/plain"]
    assert "«Sent, see 0.<|im_end|>" in shown["text/plain"]
    assert shown["text/html"].count("class='head'") == 3
    assert "<script" not in shown["text/html"]
    said = kernel.run(
        "rows = [{'question': 'q?', 'context': 'c', 'answers': {'text': ['a', 'b']}}]\n%ft data rows model=tiny"
    )
    assert "user\n    c\n\n    q?<|im_end|>" in said.displays()[0]["text/plain"].replace("    \n", "\n")
    assert (
        kernel.run("import jupyter_ft\njupyter_ft.preview('tickets.csv', tiny, row=2)")
        .displays()[0]["text/plain"]
        .count("\nrow ")
        == 1
    )
    start = "%%finetune looked --model tiny --data tickets.csv --no-wait\nmax_steps: 100000\ndtype: float32"
    assert kernel.run(start).ok
    assert kernel.run("%ft wait looked --step 1").ok
    _a_page_while_it_trains(kernel)
    said = kernel.run("%ft data looked")
    assert said.ok, said.reply
    assert "row 1 · " in said.displays()[0]["text/plain"]
    refused = kernel.run("%ft data looked max_length=12")
    assert not refused.ok
    assert "as its recipe says" in refused.reply["evalue"]
    assert kernel.run("%ft close looked").ok


def _a_page_while_it_trains(kernel: Kernel) -> None:
    opened = [m["content"] for m in kernel.heard if m["msg_type"] == "comm_open"]
    panel = next(one["comm_id"] for one in opened if "_esm" in one["data"]["state"])
    kernel.tell(panel, {"t": "hello", "view": "v"})
    kernel.tell(panel, {"t": "page", "view": "v", "tab": "data", "asked": "a", "say": "side=train&number=7"})
    found = [m["content"]["data"].get("content", {}) for m in kernel.heard if m["msg_type"] == "comm_msg"]
    page = next((one for one in found if one.get("t") == "page"), None)
    if page is None:
        page = kernel.until(lambda m: m["content"].get("data", {}).get("content", {}).get("t") == "page")["content"][
            "data"
        ]["content"]
    assert (page["asked"], page["to"], page["again"]) == ("a", "v", "side=train&first=6")
    assert "7–11 of 40" in page["html"]
    assert "<strong>Row 7</strong>" in page["html"]
    assert kernel.value("looked.state") == "running"
