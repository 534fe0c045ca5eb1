"""The device that a run would use and what is free on it, asked without torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

from jupyter_ft.recipe import Recipe

from .asked import Machine

_CGROUP = Path("/sys/fs/cgroup")


def free_in_ram() -> int:
    """Bytes of the machine's memory that can still be taken; where a container has a limit, what is left of that."""
    return min(int(psutil.virtual_memory().available), _left_in_container())


def machine_by_driver(recipe: Recipe) -> Machine:
    """The device for a run of `recipe`, as the driver of the first card tells, else the CPU."""
    plain = {"float32": 4, "bfloat16": 2, "float16": 2}.get(recipe.dtype)
    with suppress(Exception):  # no driver, no card, or one that does not say
        import pynvml

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        free, name = pynvml.nvmlDeviceGetMemoryInfo(card).free, pynvml.nvmlDeviceGetName(card)
        return Machine("cuda", name, int(free), triton=True, plain=plain or 2)
    return Machine("cpu", "cpu", free_in_ram(), triton=False, plain=plain or (2 if _has_bfloat16() else 4))


def _has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 in hardware, as `models.pick_dtype` asks torch."""
    with suppress(OSError):
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return False


def _left_in_container() -> int:
    with suppress(OSError, ValueError, StopIteration):  # no limit reads "max"
        limit = int((_CGROUP / "memory.max").read_text())
        stat = (_CGROUP / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
        return limit - int((_CGROUP / "memory.current").read_text()) + cached
    return 2**63
