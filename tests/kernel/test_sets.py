"""Installing this package must not replace the packages of a hosted kernel: there that can end the session."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement

from .sets import OLDER, ROOT, pinned


@pytest.mark.parametrize("kernel_set", OLDER)
def test_the_requirements_are_met_by_the_packages_of_the_set(kernel_set: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    held = pinned(kernel_set)
    assert held["ipykernel"]
    assert "ipykernel" not in asked
    assert {name: version for name, version in held.items() if name in asked and version not in asked[name]} == {}
