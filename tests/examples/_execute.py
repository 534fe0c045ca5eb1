"""What executes a notebook, for annotations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Execute = Callable[[str, str], Any]
"""`execute(notebook, expression)`: what the expression is at its end, as JSON has it."""
