"""What a rehearsal did not try, told from its run; and what an apply may touch, told from both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from backend.changes.noise import SERVICE_STATE
from backend.changes.running import compare
from backend.models import (
    Changes,
    ChangeVerb,
    Evidence,
    FileKind,
    PackageChange,
    Playbook,
    Run,
    RunEvent,
    RunKind,
    RunningState,
    RunState,
    Sandbox,
    now,
)
from backend.playbooks import Rehearser, added_folders, check, overwritten, touched
from backend.playbooks.builders import DATA, not_redone
from backend.playbooks.rehearse import opaque_commands, unrehearsed
from backend.playbooks.touched import written
from tests.unit.playbooks_sample import Sample

YAML = """---
- name: Test
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Folder
      ansible.builtin.file: {path: /srv/a, state: directory, mode: "0755"}
      notify: Handler
    - name: Command
      ansible.builtin.command: {argv: [touch, /srv/b], creates: /srv/b}
    - name: Loop
      ansible.builtin.command: {argv: [touch, "{{ item }}"], creates: "{{ item }}"}
      loop: [/srv/c, /srv/d]
    - name: Gone
      ansible.builtin.file: {path: /srv/old, state: absent}
    - name: Users
      ansible.builtin.user: {name: "{{ item }}"}
      loop: [anna, bert]
  handlers:
    - name: Handler
      ansible.builtin.systemd_service: {name: x.service, state: restarted}
"""
FINE = ["changed", "changed", "changed", "ok", "ok", "changed"]


def run(statuses: list[str], state: RunState = RunState.SUCCESSFUL) -> Run:
    events = [
        RunEvent(at=now(), task=f"task {index}", task_index=index, status=status)
        for index, status in enumerate(statuses)
        if status
    ]
    return Run(id="RUN-1", kind=RunKind.REHEARSAL, state=state, events=events, started_at=now())


@pytest.mark.parametrize(
    ("index", "status", "told"),
    [
        (0, "skipped", ["Folder"]),
        (0, "ok", []),
        (1, "ok", ["Command"]),
        (1, "skipped", ["Command"]),
        (5, "", ["Handler"]),
        (5, "ok", []),
    ],
)
def test_what_was_skipped_not_notified_or_kept_from_running_by_its_guard_was_not_tried(
    index: int, status: str, told: list[str]
) -> None:
    statuses = [*FINE]
    statuses[index] = status
    found = unrehearsed(check(YAML.encode(), []), run(statuses))
    assert sorted(found) == sorted([*told, "Loop"]), "of a loop nobody sees for which items a command ran"


def test_what_comes_after_a_failure_is_not_told_one_by_one() -> None:
    failed = run(["changed", "failed"], RunState.FAILED)
    assert unrehearsed(check(YAML.encode(), []), failed) == []


def test_an_apply_may_touch_what_the_rehearsal_changed_and_what_the_tasks_name() -> None:
    sample = Sample()
    sample.add("/srv/a", kind=FileKind.DIRECTORY, mode=0o755)
    sample.add("/srv/a/inner", kind=FileKind.DIRECTORY, mode=0o755)
    sample.add("/usr/sbin/nginx", b"ELF", package="nginx")
    sample.add("/etc/nginx/nginx.conf", b"x", package="nginx")
    sample.add("/var/lib/dpkg/info/nginx.list", b"x", hidden="package database")
    sample.add("/var/log/nginx/access.log", b"x", hidden="logs")
    sample.parts["packages"] = [PackageChange(name="nginx", verb=ChangeVerb.ADDED)]
    found = touched(sample.changes(), check(YAML.encode(), []))
    wanted = found.wanted
    for path in (b"/srv/a", b"/srv/b", b"/usr/sbin/nginx", b"/var/lib/dpkg/info/nginx.list", b"/etc/shadow"):
        assert path in wanted.names, path
    assert b"/var/log/nginx/access.log" not in wanted.names
    assert (
        wanted.trees == {b"/srv/old"}
        and wanted.covers(b"/srv/old/deep/x")
        and not wanted.covers(b"/srv/older")
    )
    assert wanted.sums == {b"/usr/sbin/nginx"}, "a package brings it again; settings are kept as they are"
    assert found.named["user"] == {"anna", "bert"} and found.named["unit"] == {"x.service"}
    assert found.named["package"] == {"nginx"}
    assert added_folders(sample.changes()) == {b"/srv/a"}


WRITES = """---
- name: Test
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Content
      ansible.builtin.copy: {content: "{{ word }}", dest: /srv/word, mode: "0600"}
      no_log: true
    - name: Line
      ansible.builtin.lineinfile: {path: "{{ item }}", line: x}
      loop: [/srv/a.conf, /srv/b.conf]
    - name: Mode
      ansible.builtin.file: {path: /srv/log, state: file, mode: "0640"}
    - name: Password
      ansible.builtin.user: {name: anna, password: "{{ hash }}"}
      no_log: true
    - name: User
      ansible.builtin.user: {name: bert}
"""


def test_an_apply_writes_over_what_its_tasks_write_and_settings_that_the_rehearsal_changed() -> None:
    sample = Sample()
    for path in ("/etc/apt/sources.list.d/own.list", "/etc/shadow", "/etc/passwd-", "/var/lib/app/data"):
        sample.add(path, b"x")
    sample.add("/etc/adjtime", b"x", hidden="the machine's own")
    sample.add("/etc/nginx/nginx.conf", b"x", package="nginx")
    found = overwritten(sample.changes(), check(WRITES.encode(), [], secrets=["word", "hash"]))
    assert found.paths == {b"/srv/word", b"/srv/a.conf", b"/srv/b.conf", b"/etc/apt/sources.list.d/own.list"}
    assert found.accounts == {"anna"}


HIDES = """---
- name: Test
  hosts: all
  become: true
  gather_facts: false
  vars: {place: /var/lib/dpkg/info/x.prerm}
  tasks:
    - name: Variable
      ansible.builtin.copy: {src: files/FILE, dest: "{{ place }}", mode: "0755"}
    - name: Folder
      ansible.builtin.copy: {src: "{{ item.src }}", dest: "{{ item.dest }}"}
      loop:
        - {src: files/FILE, dest: /var/cache}
    - name: Line
      ansible.builtin.lineinfile: {path: "{{ item }}", line: x}
      loop: [/etc/subuid, /root/.ansible/x]
    - name: Gone
      ansible.builtin.file: {path: /var/log/audit, state: absent}
    - name: Mode
      ansible.builtin.file: {path: /var/log/app, state: directory, mode: "0755"}
    - name: Owner
      ansible.builtin.file: {path: /var/lib/dpkg/info, state: directory, recurse: true, owner: www-data}
    - name: Programs
      ansible.builtin.pip: {name: x, virtualenv: /root/venv}
    - name: Host
      ansible.builtin.known_hosts: {name: x, path: /root/known}
    - name: Command
      ansible.builtin.command: {argv: [touch, /srv/b], creates: /srv/b}
""".replace("FILE", "a" * 64)


def test_what_the_tasks_write_is_found_wherever_it_lies() -> None:
    found = written(check(HIDES.encode(), ["a" * 64]))
    assert found == {
        b"/var/lib/dpkg/info/x.prerm/", b"/var/cache/", b"/etc/subuid/", b"/root/.ansible/x/",
        b"/var/log/audit", b"/var/log/app/", b"/var/lib/dpkg/info/", b"/var/lib/dpkg/info/**",
        b"/root/venv/", b"/root/known/",
        b"/var/lib/dpkg/info/x.prerm/" + b"a" * 64, b"/var/cache/" + b"a" * 64,
    }  # fmt: skip


LINKS = """---
- name: Test
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Links
      ansible.builtin.file: {path: "{{ item.dest }}", src: "{{ item.src }}", state: link}
      loop:
        - {src: ../var/lib/dpkg, dest: /srv/here}
        - {src: /srv/here/info/x.postrm, dest: /srv/heres}
    - name: Behind a folder
      ansible.builtin.copy: {src: files/FILE, dest: /srv/here/info/y.postrm}
    - name: Behind a file
      ansible.builtin.lineinfile: {path: /srv/heres, line: x}
    - name: Gone
      ansible.builtin.file: {path: "{{ item }}", state: absent}
      loop: [/srv/here, /srv/heres]
""".replace("FILE", "a" * 64)


def test_what_is_written_through_a_playbook_s_own_links_is_found_though_it_removes_them() -> None:
    info = b"/var/lib/dpkg/info/"
    assert {info + b"x.postrm", info + b"y.postrm"} <= written(check(LINKS.encode(), ["a" * 64]))


async def test_both_runs_of_a_rehearsal_show_what_the_playbook_writes() -> None:
    twin = TwoRuns([ports()] * 3)
    await twin.rehearse(Sample().changes())
    assert [call.kwargs["named"] for call in twin.differ.diff.await_args_list] == [
        {b"/srv/old", b"/srv/a/"}
    ] * 2


async def test_the_evidence_has_what_both_diffs_say_of_themselves() -> None:
    wanted = Sample().changes()
    wanted.quiesced, wanted.notes = False, ["not quiesced", "other partitions are not looked into"]
    twin = TwoRuns([ports()] * 3)
    twin.says_of_itself("other partitions are not looked into", "/etc/x: is a link")
    evidence = await twin.rehearse(wanted)
    assert evidence.quiesced is False and evidence.unwritten
    assert evidence.notes == [*wanted.notes, "in the rehearsal: /etc/x: is a link"]
    frozen = await TwoRuns([ports()] * 3).rehearse(Sample().changes())
    assert (frozen.quiesced, frozen.notes, frozen.unwritten) == (True, [], False)
    back = Sample().changes().model_copy(update={"sandbox_id": "", "quiesced": False})
    assert (await TwoRuns([ports()] * 3).rehearse(back)).quiesced is None, "no disk of a sandbox was read"


async def test_the_evidence_has_the_hashes_of_both_changes() -> None:
    wanted, twin = Sample().changes(), TwoRuns([ports()] * 3)
    evidence = await twin.rehearse(wanted)
    (kept,) = twin.kept.await_args.args
    assert (evidence.changes_id, evidence.changes_sha256) == (kept.id, kept.sha256())
    assert (evidence.sandbox_changes_id, evidence.sandbox_changes_sha256) == (wanted.id, wanted.sha256())


class TwoRuns:
    """A twin that is forked, asked, run at and thrown away; and what it says of itself each time."""

    def __init__(self, says: list[RunningState], again: Sample | None = None) -> None:
        self.says, self.asked, self.kept = says, 0, AsyncMock()
        changes = Changes(
            id="CHG-2", sandbox_id="T", from_snapshot="before", to_snapshot="first run", created_at=now()
        )
        runs = (changes, again.changes() if again else changes)
        self.differ = SimpleNamespace(diff=AsyncMock(side_effect=[one.model_copy() for one in runs]))
        self.says_of_itself = lambda *notes: changes.notes.extend(notes)
        self.fork_twin = AsyncMock(
            return_value=Sandbox(id="T", sandbox_name="t", base_image="i", created_at=now(), updated_at=now())
        )
        self.discard = self.freeze = AsyncMock()

    def strategy(self) -> str:
        return "linear"

    async def what_runs(self, twin: Sandbox) -> RunningState:
        self.asked += 1
        return self.says[self.asked - 1]

    @asynccontextmanager
    async def ansible_access(self, twin: Sandbox) -> AsyncIterator[tuple[None, None]]:
        yield None, None

    async def rehearse(self, wanted: Changes) -> Evidence:
        store = SimpleNamespace(changes=SimpleNamespace(insert=self.kept))
        runs = SimpleNamespace(execute=AsyncMock(side_effect=lambda *_, **__: run(FINE)))
        rehearser = Rehearser(cast("Any", store), cast("Any", self), cast("Any", runs))
        playbook = Playbook(id="PBK-1", name="p", sandbox_id="S", yaml=YAML, digest="d", created_at=now())
        sandbox = await self.fork_twin()
        done = await rehearser.rehearse(
            playbook, {}, sandbox, wanted, approval_id="APR-1", progress=AsyncMock()
        )
        return done.evidence


def ports(*names: str) -> RunningState:
    return RunningState(ports=dict.fromkeys(names, "x"), units={})


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (ports("tcp *:22"), [("missing", "tcp *:8000")]),
        (ports("tcp *:22", "tcp *:8000"), []),
        (RunningState(notes=["it took too long"]), None),
    ],
)
async def test_the_twin_is_asked_at_its_end_what_listens_as_in_the_sandbox(
    last: RunningState, found: list[tuple[str, str]] | None
) -> None:
    wanted = Sample().changes()
    wanted.running = compare(ports("tcp *:22"), ports("tcp *:22", "tcp *:8000"), "a", "b")
    twin = TwoRuns([ports("tcp *:22"), ports("tcp *:22"), last])
    evidence = await twin.rehearse(wanted)
    assert not evidence.failure and not evidence.residual
    rows = evidence.running
    assert (None if rows is None else [(row.kind, row.name) for row in rows]) == found
    (kept,) = twin.kept.await_args.args
    assert kept.running.before == ports("tcp *:22") and kept.running.changes == []
    assert twin.asked == 3


async def test_a_roll_back_has_no_sandbox_to_compare_what_listens_with() -> None:
    twin = TwoRuns([ports("tcp *:22")] * 3)
    assert (await twin.rehearse(Sample().changes())).running is None


async def test_what_a_service_keeps_for_itself_is_no_second_change_and_all_else_is() -> None:
    wanted, again = Sample(), Sample()
    wanted.add("/var/lib/fail2ban/fail2ban.sqlite3", b"x", hidden=SERVICE_STATE)
    wanted.add("/var/log/x", b"x", hidden="logs")
    for path in ("/var/lib/fail2ban/fail2ban.sqlite3", "/var/lib/fail2ban/other", "/var/log/x"):
        again.add(path, b"y")
    evidence = await TwoRuns([ports()] * 3, again).rehearse(wanted.changes())
    assert evidence.again_paths == ["/var/lib/fail2ban/other", "/var/log/x"] and evidence.again_changed == 2


OPAQUE = """---
- name: Test
  hosts: all
  become: true
  gather_facts: false
  tasks:
    - name: Role
      ansible.builtin.command:
        argv: [runuser, -u, postgres, --, psql, -f, /srv/role.sql, -o, /srv/role.done]
        creates: /srv/role.done
"""


@pytest.mark.parametrize(
    ("yaml", "blocking"), [(YAML, ["mariadb", "postgresql"]), (OPAQUE, ["mariadb"])], ids=["none", "one"]
)
def test_what_an_agent_put_into_a_database_stands_in_the_residual_unless_a_task_works_on_it(
    yaml: str, blocking: list[str]
) -> None:
    notes = [f"{DATA}{keeper}: 2 commands changed it" for keeper in ("mariadb", "postgresql")]
    rows = not_redone([*notes, "/srv/x: too large"], opaque_commands(check(yaml.encode(), [])))
    assert [(row.kind, row.noun, row.name) for row in rows] == [
        ("missing", "database", one) for one in blocking
    ]
    assert all(row.reason == "2 commands changed it; add a guarded command task that does" for row in rows)


TOLD = ("postgresql (roles)", "postgresql (databases)", "sqlite (/srv/a.db)")


@pytest.mark.parametrize(
    ("argv", "left"),
    [
        (["psql", "--version"], {*TOLD}),
        (["psql", "-c", "select 1"], {*TOLD}),
        (["psql", "app"], {*TOLD}),
        (["psql", "-c", "create role app"], {"postgresql (databases)", "sqlite (/srv/a.db)"}),
        (["su", "postgres", "-c", "createdb app"], {"postgresql (roles)", "sqlite (/srv/a.db)"}),
        (["psql", "-f", "/srv/all.sql"], {"sqlite (/srv/a.db)"}),
        (["sqlite3", "/srv/b.db", "create table t (a)"], {*TOLD}),
        (["sqlite3", "/srv/a.db", "create table t (a)"], {"postgresql (roles)", "postgresql (databases)"}),
    ],
)
def test_a_row_goes_only_for_a_task_that_makes_a_change_of_its_kind(argv: list[str], left: set[str]) -> None:
    rows = not_redone([f"{DATA}{name}: 1 command changed it" for name in TOLD], [argv])
    assert {row.name for row in rows} == left
