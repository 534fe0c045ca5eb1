"""GGUF by llama.cpp's own tools, where they are installed: its converter and, for fewer bits, its quantiser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import ExportError
from .origin import Report

CONVERTERS = "convert_hf_to_gguf.py", "convert-hf-to-gguf"
BY_CONVERTER = "auto", "f32", "f16", "bf16", "q8_0"
"""What the converter writes by itself; `auto` is 16 bits of the kind that the model is nearest to."""
_TYPE = re.compile(r"(i?q[1-8]_[a-z0-9_]{1,6}|tq[12]_0)", re.IGNORECASE)
INSTALL = (
    "install llama.cpp so that convert_hf_to_gguf.py is on the PATH, or clone https://github.com/ggml-org/llama.cpp, "
    "pip install gguf, and set LLAMA_CPP to that folder"
)


def converter() -> list[str] | None:
    """The command of llama.cpp's converter: in the folder `$LLAMA_CPP`, or on the PATH; None where there is none."""
    if own := os.environ.get("LLAMA_CPP"):
        script = Path(own).expanduser() / CONVERTERS[0]
        return [sys.executable, str(script)] if script.is_file() else None
    found = next((path for name in CONVERTERS if (path := shutil.which(name))), None)
    if found is None:
        return None
    return [sys.executable, found] if os.name == "nt" and found.endswith(".py") else [found]


def check_tools(quantize: str | None) -> None:
    """`ExportError` where what is asked for needs a tool that is not installed, or is no type of GGUF's."""
    if quantize is not None and quantize.lower() not in BY_CONVERTER and not _TYPE.fullmatch(quantize):
        known = f"{', '.join(BY_CONVERTER)}, or one of llama-quantize's, like Q4_K_M"
        raise ExportError(f"--quantize {quantize[:20]}: no type of GGUF; there are: {known}")
    if converter() is None:
        where = f" (no {CONVERTERS[0]} in LLAMA_CPP={own})" if (own := os.environ.get("LLAMA_CPP")) else ""
        raise ExportError(f"GGUF needs llama.cpp's converter, which is not installed{where}: {INSTALL}")
    if quantize is not None and quantize.lower() not in BY_CONVERTER and _quantizer() is None:
        raise ExportError(
            f"--quantize {quantize} needs llama-quantize, which is not on the PATH; install llama.cpp, "
            "or take q8_0, which the converter writes itself"
        )


def _quantizer() -> str | None:
    places = [os.environ.get("PATH", "")]
    if own := os.environ.get("LLAMA_CPP"):
        places.insert(0, str(Path(own).expanduser() / "build" / "bin"))
    return shutil.which("llama-quantize", path=os.pathsep.join(places))


def convert(model: Path, into: Path, name: str, quantize: str | None, report: Report) -> Path:
    """The model in the folder `model` as `NAME-TYPE.gguf` in the folder `into`. `ExportError` where a tool fails."""
    asked = (quantize or "auto").lower()
    by_converter = asked if asked in BY_CONVERTER else "auto"
    command = converter()
    assert command is not None  # check_tools
    whole = into / f"{name}.gguf"
    report("converting to GGUF", 0, 0)
    _run([*command, str(model), "--outfile", str(whole), "--outtype", by_converter], "the converter")
    if not whole.is_file():
        raise ExportError(f"the converter has written no {whole.name}")
    if asked in BY_CONVERTER:
        return whole
    quantizer, small = _quantizer(), into / f"{name}-{asked.upper()}.gguf"
    assert quantizer is not None
    report(f"quantising to {asked.upper()}", 0, 0)
    _run([quantizer, str(whole), str(small), asked.upper()], "llama-quantize")
    whole.unlink()
    return small


def _run(command: list[str], what: str) -> None:
    """Run a tool to its end; interrupted, it is ended too. It finds no package of this folder before its own."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise ExportError(f"{what} ({command[0]}) cannot be run: {error.strerror or error}") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if "Error" in line or "error" in line), lines[-1] if lines else ""
        )
        raise ExportError(f"{what} failed ({done.returncode}): {said[:300]}")
