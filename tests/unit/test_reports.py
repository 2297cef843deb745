"""What is kept of a target's own words: searched for secrets, whatever there is of them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import backend
from backend.playbooks import check

ROOM = Path(backend.__file__).parent


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """As the runner has it: beside copies of what knows a secret."""
    for folder in (ROOM, ROOM / "disks"):
        monkeypatch.syspath_prepend(str(folder))
    return lambda name: runpy.run_path(str(ROOM / "ansible/supervised" / name))


@pytest.fixture
def reports(script: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return script("reports.py")


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


SIMULATED = """Reading state information...
The following packages will be REMOVED:
  apache2*
0 upgraded, 2 newly installed, 2 to remove and 0 not upgraded.
Purg apache2 [2.4.62-1~deb12u2]
Remv apache2-utils [2.4.62-1~deb12u2] [nginx:amd64 ]
Inst nginx-common (1.22.1-9+deb12u1 Debian:12.8/stable [all])
Inst libc6 [2.36-9] (2.36-9+deb12u9 Debian:12.8/stable [amd64]) []
Inst libgcc-s1:i386 (12.2.0-14 Debian:12.8/stable [i386])
Conf nginx-common (1.22.1-9+deb12u1 Debian:12.8/stable [all])
Inst $(id) (1 x)
"""
PLANNED = {
    "apache2": "",
    "apache2-utils": "",
    "nginx-common": "1.22.1-9+deb12u1",
    "libc6": "2.36-9+deb12u9",
    "libgcc-s1": "12.2.0-14",
}


@pytest.mark.parametrize("preview", [True, False])
@pytest.mark.parametrize("looped", [True, False])
def test_a_dry_run_tells_what_apt_would_bring_and_take_away(
    reports: dict[str, Any], preview: bool, looped: bool
) -> None:
    result = {"changed": True, "stdout": SIMULATED}
    data = {"host": "web-01", "task": "x", "res": {"results": [result]} if looped else result}
    event = reports["Reports"]([], bool, preview=preview).take(
        {"event": "runner_on_ok", "event_data": data, "created": "2026-01-01T00:00:00"}
    )
    assert event["packages"] == (PLANNED if preview else {})


def test_more_than_can_be_searched_is_cut_and_ends_no_run(diff_of: Callable[[dict[str, Any]], str]) -> None:
    told = diff_of({"diff": [{"prepared": "password = Hx7pq9Zt4\n" * 100_000}]})
    assert told.endswith("… cut") and "Hx7pq9" not in told


def test_a_secret_in_a_long_line_is_taken_out(diff_of: Callable[[dict[str, Any]], str]) -> None:
    line = "x " * 3_000 + 'password="Hx7pq9Zt4"\n'
    told = diff_of({"diff": [{"before": "", "after": line, "before_header": "/etc/x.ini"}]})
    assert "‹secret›" in told and "Hx7pq9" not in told


def _json_playbook(tasks: int) -> str:
    """A play as JSON, a task a line, as the grammar takes it."""
    made = [
        json.dumps(
            {"name": f"Task {at}", "ansible.builtin.file": {"path": f"/srv/{at}", "state": "directory"}}
        )
        for at in range(tasks)
    ]
    text = '[{"name": "Test", "hosts": "all", "tasks": [\n' + ",\n".join(made) + "\n]}]\n"
    assert len(check(text.encode(), ()).tasks) == tasks
    return text


@pytest.mark.parametrize("changed", ["_going_on", "_first_alone"])
def test_every_task_of_a_playbook_in_flow_style_has_a_line_of_its_own(
    script: Callable[[str], dict[str, Any]], changed: str
) -> None:
    supervisor = script("supervisor.py")
    text = supervisor[changed](_json_playbook(3))
    (play,) = yaml.safe_load(text)
    assert [task["name"] for task in play["tasks"]] == ["Task 0", "Task 1", "Task 2"]
    rows = text.splitlines()
    assert [rows[line - 1].partition("name")[2] for line in supervisor["_task_lines"](text)] == [
        '": "Task 0"', '": "Task 1"', '": "Task 2"',
    ]  # fmt: skip


def test_two_tasks_of_one_line_are_not_told_as_one(script: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="one line"):
        script("reports.py")["Reports"]([4, 9, 9], lambda _: True, preview=False)
