"""What of the machine decides the last bits of a loss, noted when a run begins."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ..runs import RunFolder

FILE = "machine.json"


def note_machine(folder: RunFolder) -> None:
    """Keep on how many threads and on what the first steps of a run are computed."""
    import torch  # the reader below goes without

    file = folder.path / FILE
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    if not file.exists():
        with suppress(OSError):  # the run goes on without
            file.write_text(json.dumps({"threads": torch.get_num_threads(), "device": device}), encoding="utf-8")


def noted_machine(folder: RunFolder) -> dict[str, Any]:
    """`threads` and `device` of the first steps of a run; empty where they were not noted."""
    try:
        found = json.loads((folder.path / FILE).read_text(encoding="utf-8"))
        return {"threads": int(found["threads"]), "device": str(found["device"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
