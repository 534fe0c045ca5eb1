"""A real kernel over jupyter_client, and what it said while a cell ran."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from .sets import NEWEST, OLDER, write_spec


@dataclass
class Said:
    """What came back from one cell: its reply, its iopub messages, and when the reply came."""

    id: str
    reply: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    replied: float = 0.0  # seconds since the epoch

    @property
    def ok(self) -> bool:
        return bool(self.reply["status"] == "ok")

    @property
    def stdout(self) -> str:
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        return self._stream("stderr")

    def _stream(self, name: str) -> str:
        parts = [m["content"] for m in self.messages if m["msg_type"] == "stream"]
        return "".join(part["text"] for part in parts if part["name"] == name)

    def displays(self) -> list[dict[str, Any]]:
        kinds = ("display_data", "update_display_data", "execute_result")
        return [m["content"]["data"] for m in self.messages if m["msg_type"] in kinds]


class Kernel:
    """Runs cells and keeps every iopub message, by the cell that it belongs to."""

    def __init__(self, client: BlockingKernelClient, manager: Any) -> None:
        self.client, self.manager = client, manager
        self.heard: list[dict[str, Any]] = []

    def send(self, code: str, cell: str | None = None, allow_stdin: bool = True) -> str:
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": allow_stdin,
            "stop_on_error": False,
        }
        message = self.client.session.msg("execute_request", content, metadata={"cellId": cell} if cell else {})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def result(self, sent: str, timeout: float = 120) -> Said:
        while True:
            reply = self.client.get_shell_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == sent:
                break
        while not any(self._idle(message, sent) for message in self.heard):
            self.heard.append(self.client.get_iopub_msg(timeout=timeout))
        return Said(sent, reply["content"], self.of(sent), reply["header"]["date"].timestamp())

    @staticmethod
    def _idle(message: dict[str, Any], sent: str) -> bool:
        mine = message["parent_header"].get("msg_id") == sent
        return mine and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"

    def of(self, sent: str) -> list[dict[str, Any]]:
        return [message for message in self.heard if message["parent_header"].get("msg_id") == sent]

    def drain(self, seconds: float = 0.5) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                self.heard.append(self.client.get_iopub_msg(timeout=0.1))
            except Exception:
                continue

    def run(self, code: str, cell: str | None = None, timeout: float = 120, **more: Any) -> Said:
        return self.result(self.send(code, cell, **more), timeout)

    def until(self, wanted: Callable[[dict[str, Any]], bool], after: int | None = None) -> dict[str, Any]:
        """The first message from now on, or after the first `after` that were heard, that is `wanted`."""
        at = len(self.heard) if after is None else after
        while True:
            if at == len(self.heard):
                self.heard.append(self.client.get_iopub_msg(timeout=60))
            if wanted(self.heard[at]):
                return self.heard[at]
            at += 1

    def tell(self, comm: str, content: dict[str, Any]) -> list[dict[str, Any]]:
        """Say something to a widget as its view would; the messages of the widget that came in answer."""
        data = {"method": "custom", "content": content}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)
        sent = str(message["header"]["msg_id"])
        self.until(lambda heard: self._idle(heard, sent))
        return [heard for heard in self.of(sent) if heard["msg_type"] == "comm_msg"]

    def value(self, expression: str) -> str:
        said = self.run(f"print({expression})")
        assert said.ok, said.reply
        return said.stdout.strip()


def write_tickets(path: Path, rows: int = 40) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Customer message", "Agent reply"])
        for number in range(rows):
            writer.writerow(
                [f"Where is order {number}?", "It is on its way." if number % 3 else f"Sent, see {number}."]
            )
    return path


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    write_tickets(folder / "tickets.csv")
    return folder


@pytest.fixture(scope="module", params=[NEWEST, *OLDER])
def kernel_set(request: pytest.FixtureRequest) -> str:
    """Each set of kernel packages in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def kernel(kernel_set: str, here: Path, tiny_model: Path) -> Iterator[Kernel]:
    """One kernel a module and set, in a folder with tickets.csv and with the tiny model bound to `tiny`."""
    env = os.environ | {"JUPYTER_FT_RUNS": str(here / f"runs-{kernel_set}"), "OMP_NUM_THREADS": "1"}
    env.pop("JUPYTER_FT_FRONTEND", None)
    specs = KernelSpecManager(kernel_dirs=[str(here / "kernels")])
    manager = KernelManager(kernel_name=write_spec(kernel_set, here), kernel_spec_manager=specs)
    manager.start_kernel(cwd=str(here), env=env)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    kernel = Kernel(client, manager)
    assert kernel.run(f"%load_ext jupyter_ft\ntiny = {str(tiny_model)!r}").ok
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)
