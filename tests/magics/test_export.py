"""`%ft export` and `%ft push`: what cannot be is one line, before torch is loaded."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%ft export", "no session is open"),
        ("%ft export desk", "holds no run; the runs here are: none"),
        ("%ft export base", "the base is not the run's to export"),
        ("%ft export desk@soon", "@soon is no step"),
        ("%ft export desk --to", "--to needs a value"),
        ("%ft export desk format=merged", "has no place here; usage: %ft export [RUN[@STEP]]"),
        ("%ft push desk", "'desk' is no place on the hub: write USER/NAME last, as in %ft push"),
        ("%ft push desk ../../etc/passwd", "is no place on the hub"),
        ("%ft push desk ann/desk", "HF_HUB_OFFLINE=1 forbids pushing"),
        ("%ft push desk ann/desk --token hf_abcdefghij", "an access token would stay in the notebook"),
    ],
)
def test_what_cannot_be_is_one_line(refused: Any, cell: str, said: str) -> None:
    assert said in refused(cell)
