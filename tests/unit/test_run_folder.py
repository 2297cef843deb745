"""P7, before a run starts: its folder, its settings and its environment are ours, and hold nothing else. What
the run's own user writes there later is read with care."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.ansible import Runner, RunSpec, TargetHost
from backend.ansible._folder import environment, prepare, remove
from backend.ansible.runner import BLOCK_BYTES, _read
from backend.errors import FluidError
from backend.models import RunEvent, RunKind, RunState, now

SHA = "a" * 64
HOST = {"name": "web-01", "address": "192.0.2.7", "host_key": "ssh-ed25519 AAAA"}


BECOMING = """---
- name: Test
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Look
      become: true
      become_user: nobody
      ansible.builtin.raw: id -u
"""


def spec(**more: Any) -> RunSpec:
    given = {"id": "RUN-1", "hosts": [TargetHost(**HOST)], "files": {SHA: b"x"}, **more}
    return RunSpec(
        kind=RunKind.APPLY, playbook="---\n", check=False, strategy="linear", timeout_s=60, **given
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "RUN-1"
    prepare(made, spec(), python=sys.executable, owner=None)
    yield made
    remove(made)


def test_beside_the_playbook_there_are_its_files_and_nobody_writes_them(folder: Path) -> None:
    found = {path.relative_to(folder): path for path in (folder / "playbook").rglob("*") if path.is_file()}
    assert {str(name) for name in found} == {"playbook/playbook.yml", f"playbook/files/{SHA}"}
    written = [*found.values(), *(path for path in (folder / "etc").rglob("*") if path.is_file())]
    assert [path for path in written if path.stat().st_mode & 0o222] == []


def test_the_folder_is_closed_to_all_but_us_and_the_runners_group(folder: Path, tmp_path: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "RUN-2"
    prepare(shared, spec(id="RUN-2"), python=sys.executable, owner=(os.geteuid(), os.getegid()))
    assert shared.stat().st_mode & 0o777 == 0o710
    remove(shared)


def test_no_folder_is_used_twice(folder: Path) -> None:
    with pytest.raises(FileExistsError):
        prepare(folder, spec(), python=sys.executable, owner=None)


def test_ansible_looks_for_plugins_in_an_empty_folder_of_ours_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_LIBRARY", "/srv/theirs")
    given = environment(folder, sys.executable) | {"ANSIBLE_CONFIG": str(folder / "etc" / "ansible.cfg")}
    program = [sys.executable, "-I", "-m", "ansible.cli.config", "dump", "--format", "json"]
    done = subprocess.run(program, env=given, capture_output=True, text=True, timeout=60, check=True)
    told = {row["name"]: row["value"] for row in json.loads(done.stdout) if "name" in row}
    places = {name for name in told if name.endswith(("_PLUGIN_PATH", "_MODULE_PATH", "_MODULE_UTILS_PATH"))}
    assert len(places) > 15
    empty = folder / "etc" / "empty"
    for name in (*places, "DEFAULT_ROLES_PATH", "COLLECTIONS_PATHS"):
        assert told[name] == [str(empty)], name
    assert list(empty.iterdir()) == []
    assert not told["COLLECTIONS_SCAN_SYS_PATH"] and not told["INJECT_FACTS_AS_VARS"]
    assert told["HOST_KEY_CHECKING"] and told["INVENTORY_ENABLED"] == ["script", "yaml"]


def test_the_inventory_names_the_hosts_and_our_values_of_them(folder: Path) -> None:
    hosts = json.loads((folder / "etc" / "hosts.json").read_text())["all"]["hosts"]
    assert hosts == {
        "web-01": {
            "ansible_host": "192.0.2.7",
            "ansible_port": 22,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become_method": "su",
        }
    }


@pytest.mark.parametrize(
    ("host", "become"),
    [
        ({"user": "deploy"}, False),
        ({"user": "deploy", "become": True}, True),
        ({"user": "root"}, None),
        ({"user": "root", "become": True}, True),
    ],
)
def test_who_is_not_root_there_becomes_root_where_the_group_says_so_whatever_the_playbook_says(
    tmp_path: Path, host: dict[str, Any], become: bool | None
) -> None:
    """Ansible takes the inventory's ``ansible_become`` before the keyword of a play or a task."""
    made = tmp_path / "RUN-1"
    prepare(made, spec(hosts=[TargetHost(**HOST, **host)]), python=sys.executable, owner=None)
    told = json.loads((made / "etc" / "hosts.json").read_text())["all"]["hosts"]["web-01"]
    assert told.get("ansible_become") is become
    remove(made)


@pytest.mark.parametrize(("word", "becomes"), [({}, True), ({"ansible_become": False}, False)])
def test_ansible_becomes_nobody_where_the_inventory_says_no(
    tmp_path: Path, word: dict[str, bool], becomes: bool
) -> None:
    """The installed one, with a playbook whose play and task say ``become: true``."""
    inventory, book = tmp_path / "hosts.json", tmp_path / "playbook.yml"
    values = {"ansible_connection": "local", "ansible_become_method": "su", **word}
    inventory.write_text(json.dumps({"all": {"hosts": {"web-01": values}}}))
    book.write_text(BECOMING)
    given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")}
    program = [sys.executable, "-I", "-m", "ansible.cli.playbook", "-vvv", "-i", str(inventory), str(book)]
    done = subprocess.run(program, env=given, capture_output=True, text=True, timeout=120, check=False)
    assert "TASK [Look]" in done.stdout and (" nobody -c " in done.stdout) is becomes, done.stdout


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "../RUN-1"},
        {"hosts": []},
        {"files": {"../x": b""}},
        {"files": {f"{SHA}/../x": b""}},
        {"files": {"library": b""}},
        {"secrets": {"ansible-x": "y"}},
        {"secrets": {"Word": "y"}},
    ],
)
def test_what_would_be_another_name_in_the_folder_or_the_inventory_is_no_run(bad: dict[str, Any]) -> None:
    with pytest.raises(FluidError):
        spec(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a b"},
        {"address": "{{ x }}"},
        {"address": "-oProxyCommand=x"},
        {"address": "web-01 x"},
        {"user": "a;b"},
        {"host_key": "ssh-ed25519 A\nB"},
        {"port": 0},
        {"port": 65536},
    ],
)
def test_no_target_has_a_value_that_ansible_or_ssh_would_interpret(bad: dict[str, Any]) -> None:
    with pytest.raises(FluidError):
        TargetHost(**{**HOST, **bad})


@pytest.mark.parametrize(
    "end",
    [
        '{"state": "running", "results": {}, "reason": ""}',
        '{"state": "done", "results": {}, "reason": ""}',
        '{"state": ["failed"], "results": {}, "reason": ""}',
        '{"state": "successful", "results": {"web-01": {"ok": "all"}}, "reason": ""}',
        '{"state": "successful", "results": {"web-01": 7}, "reason": ""}',
        '{"state": "successful", "results": [], "reason": ""}',
        '["successful"]',
        "[" * 100_000,
        '{"state": "successful"',
    ],
)
async def test_an_end_that_makes_no_sense_is_none_and_the_run_is_lost(folder: Path, end: str) -> None:
    """Or the run would be neither over nor to be ended, and hold its targets for ever."""
    (folder / "lock").touch()
    (folder / "out" / "end.json").write_text(end)
    runner = Runner(folder.parent)
    assert (await runner.status("RUN-1")).state is RunState.LOST
    assert (await runner.wait("RUN-1")).state is RunState.LOST


async def test_of_an_endless_line_little_is_in_memory_at_once_and_what_follows_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def watched(path: Path, offset: int = 0, *, limit: int) -> bytes:
        content = _read(path, offset, limit=limit)
        read.append(len(content))
        return content

    (folder / "lock").touch()
    events = [RunEvent(at=now(), host="web-01", task=str(number)).model_dump_json() for number in range(3)]
    text = "\n".join([events[0], "", "x" * 9_000_000, *events[1:], '{"half'])
    (folder / "out" / "events.jsonl").write_text("\n" + text)
    monkeypatch.setattr("backend.ansible.runner._read", watched)
    assert [event.task async for event in Runner(folder.parent).follow("RUN-1")] == ["0", "1", "2"]
    assert max(read) == BLOCK_BYTES < 9_000_000
