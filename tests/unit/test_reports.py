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
def reports(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """As the runner has it: beside copies of what knows a secret."""
    for folder in (ROOM, ROOM / "disks"):
        monkeypatch.syspath_prepend(str(folder))
    return runpy.run_path(str(ROOM / "ansible/supervised/reports.py"))


@pytest.fixture
def diff_of(reports: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
    found: Callable[[dict[str, Any]], str] = reports["diff_of"]
    return found


def test_a_result_tells_the_module_that_it_is_of(reports: dict[str, Any]) -> None:
    data = {"host": "web-01", "task": "Install nginx", "task_action": "ansible.builtin.apt", "res": {}}
    event = reports["Reports"]([], bool, preview=True).take(
        {"event": "runner_on_ok", "event_data": data, "created": "2026-01-01T00:00:00"}
    )
    assert (event["module"], event["status"]) == ("ansible.builtin.apt", "ok")


def test_more_than_can_be_searched_is_cut_and_ends_no_run(diff_of: Callable[[dict[str, Any]], str]) -> None:
    told = diff_of({"diff": [{"prepared": "password = Hx7pq9Zt4\n" * 100_000}]})
    assert told.endswith("… cut") and "Hx7pq9" not in told


def test_a_secret_in_a_long_line_is_taken_out(diff_of: Callable[[dict[str, Any]], str]) -> None:
    line = "x " * 3_000 + 'password="Hx7pq9Zt4"\n'
    told = diff_of({"diff": [{"before": "", "after": line, "before_header": "/etc/x.ini"}]})
    assert "‹secret›" in told and "Hx7pq9" not in told
