"""What is kept of a target's own words: searched for secrets, whatever there is of them."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backend

ROOM = Path(backend.__file__).parent


@pytest.fixture
def diff_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], str]:
    """As the runner has it: beside copies of what knows a secret."""
    for folder in (ROOM, ROOM / "disks"):
        monkeypatch.syspath_prepend(str(folder))
    found: Callable[[dict[str, Any]], str] = runpy.run_path(str(ROOM / "ansible/supervised/reports.py"))[
        "diff_of"
    ]
    return found


def test_more_than_can_be_searched_is_cut_and_ends_no_run(diff_of: Callable[[dict[str, Any]], str]) -> None:
    told = diff_of({"diff": [{"prepared": "password = Hx7pq9Zt4\n" * 100_000}]})
    assert told.endswith("… cut") and "Hx7pq9" not in told


def test_a_secret_in_a_long_line_is_taken_out(diff_of: Callable[[dict[str, Any]], str]) -> None:
    line = "x " * 3_000 + 'password="Hx7pq9Zt4"\n'
    told = diff_of({"diff": [{"before": "", "after": line, "before_header": "/etc/x.ini"}]})
    assert "‹secret›" in told and "Hx7pq9" not in told
