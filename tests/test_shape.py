"""Small rooms: no file over 400 lines, no function over 60."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "jupyter_ft"


def test_files_and_functions_stay_small() -> None:
    too_long = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > 400:
            too_long.append(f"{path}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                too_long.append(f"{path}:{node.lineno} {node.name}")
    assert too_long == []


def test_no_registry_host_is_named() -> None:
    root = PACKAGE.parent
    for path in (root / "labextension" / "package-lock.json", root / "pyproject.toml", root / "Makefile"):
        text = path.read_text()
        assert "registry." not in text, path
        assert "resolved" not in text, path
