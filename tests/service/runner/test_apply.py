"""From a request to production and back, for real but for the virtual machines: sandbox, twins and production
are machines in namespaces with a sshd each, and what Fluid does to them it does by Ansible and SSH.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg import sql

from backend.ansible import Runner
from backend.background import Background
from backend.changes import LIMITS, Told
from backend.changes.told import compare
from backend.config import Config
from backend.errors import EvidenceIncomplete, FluidError, WrongState
from backend.models import (
    Approval,
    ApprovalRequest,
    ApprovalState,
    Changes,
    Identity,
    Playbook,
    RunState,
    new_id,
    now,
)
from backend.playbooks import kept_values, touched, way_back
from backend.playbooks.rollback import roll_back
from backend.store import Database, EventBus, Store
from backend.targets import Targets, keeping
from tests.fix_namespaces import Machine, machine, targets_of
from tests.processes import naming
from tests.service.runner.stage import AGENT, ANNA, BERT, Stage

TEST_S = 2400  # all of it on a machine that is busy with guests
# What useradd and its like leave behind; they keep one older version.
BACKUPS = {f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")} | {
    "/etc/.pwd.lock"
}


class World(Stage):
    """A stage with its production and an agent's sandbox."""

    production: Machine
    sandbox: Machine


@pytest.fixture
async def world(tmp_path: Path, store: Store, bus: EventBus, runner: Runner) -> AsyncIterator[World]:
    (tmp_path / "machines").mkdir()
    async with AsyncExitStack() as stack:

        def make(name: str) -> Machine:
            return stack.enter_context(machine(tmp_path / "machines", name))

        background = await stack.enter_async_context(Background())
        production, sandbox = make("web-01"), make("sandbox")
        world = World(tmp_path, store, bus, runner, background, targets_of(production), make)
        world.production, world.sandbox = production, sandbox
        yield world


def differing(before: Told, after: Told) -> set[str]:
    """The paths that differ by more than times."""
    found, _ = compare(before, after, LIMITS)
    return {pair.path.decode() for pair in found.pairs} - BACKUPS


OWN = r"""
mkdir -p /srv/site/uploads && echo mine > /srv/site/index.html && chmod 0600 /srv/site/index.html
echo precious > /srv/site/uploads/a.txt
printf 'host=db\npassword = hunter2secret\n' > /etc/app.conf && chmod 0640 /etc/app.conf
printf '10.0.0.5 olddb\n10.0.0.6 other\n' >> /etc/hosts
echo welcome > /etc/issue
useradd -u 4321 -s /bin/sh deploy && usermod -aG games deploy
echo 'deploy:$6$abcdefgh$oldoldoldold' | chpasswd -e
ln -sfn /usr/share/zoneinfo/Asia/Tokyo /etc/localtime
echo production-01 > /etc/hostname
"""
WORK = (
    "mkdir -p /srv/site /srv/fresh/deep && echo page > /srv/site/index.html && echo x > /srv/fresh/deep/x",
    "printf 'host=new\n' > /etc/app.conf",
    "echo '10.0.0.5 db' >> /etc/hosts",
    "rm -f /etc/issue",
    "useradd -u 4321 -s /bin/bash deploy",
    "echo 'deploy:$6$abcdefgh$newnewnewnew' | chpasswd -e",
    "ln -sfn /usr/share/zoneinfo/Europe/Berlin /etc/localtime",
    "echo 'options edns0' >> /etc/resolv.conf",
    "printf 'LANG=de_DE.UTF-8\n' > /etc/default/locale",
    "mkdir -p /etc/apt/sources.list.d && echo 'deb https://deb.example.com/debian stable main' >"
    " /etc/apt/sources.list.d/own.list",
    "ln -sfn /bin/true /etc/alternatives/fluid-t",
    "hostname web && echo web > /etc/hostname",
)
NEW_HASH = "$6$abcdefgh$newnewnewnewnewnewnew"


async def there_and_back(world: World, playbook: Playbook, secrets: dict[str, str]) -> tuple[Told, str]:
    """Apply on production, then take it back by what was kept before: production between, and the text of the
    playbook that took it back."""
    done, there = await world.playbooks.changes_of(playbook), world.playbooks.check(playbook)
    reach = touched(done, there)
    kept = await world.keeper.keep("RUN-0", "web-01", reach.wanted)
    await world.run(playbook, secrets)
    after = await world.fleet.look(world.production)
    now_ = await world.keeper.look("web-01", reach.wanted)
    way = await way_back(world.fleet.differ, world.fleet.asker, "web-01", "RUN-0", done, reach, kept, now_)
    draft = roll_back(way.changes, world.fleet.blobs, name="back")
    for content in draft.files.values():
        world.fleet.blobs.put(content)
    back = await world.kept(way.changes, draft.yaml, list(draft.files), draft.secrets)
    values = kept_values(world.playbooks.check(back), await world.keeper.kept("RUN-0", "web-01"))
    await world.run(back, values)
    return after, draft.yaml


@pytest.mark.full
async def test_the_playbook_of_a_way_back_leads_to_what_a_target_had_of_its_own(world: World) -> None:
    world.production.run("hostname production-01;" + OWN)
    before = await world.fleet.look(world.production)
    playbook = await world.work(world.sandbox, WORK)
    assert playbook.secrets == ["password_hash_of_deploy"]
    after, text = await there_and_back(world, playbook, {"password_hash_of_deploy": NEW_HASH})
    assert differing(before, after) >= {
        "/srv/site/index.html",
        "/etc/app.conf",
        "/etc/hosts",
        "/etc/shadow",
        "/etc/localtime",
        "/etc/issue",
    }
    assert differing(before, await world.fleet.look(world.production)) == set(), text
    assert "oldoldoldold" in world.production.run("cat /etc/shadow")
    assert world.production.run("hostname") == "production-01\n"


# A source of packages that needs no network, and one package with settings and a service.
SOURCE = r"""
set -e
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d
made=/opt/made repo=/opt/repo
mkdir -p $made/DEBIAN $made/usr/sbin $made/etc/shop $made/lib/systemd/system $repo
printf '#!/bin/sh\necho open\n' > $made/usr/sbin/shopd && chmod 0755 $made/usr/sbin/shopd
echo 'port = 80' > $made/etc/shop/shop.conf
echo /etc/shop/shop.conf > $made/DEBIAN/conffiles
printf '[Service]\nExecStart=/usr/sbin/shopd\n[Install]\nWantedBy=multi-user.target\n' \
    > $made/lib/systemd/system/shopd.service
printf 'Package: shopd\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.com>\n' \
    > $made/DEBIAN/control
echo 'Description: a shop' >> $made/DEBIAN/control
printf '#!/bin/sh\ndeb-systemd-helper enable shopd.service\n' > $made/DEBIAN/postinst
printf '#!/bin/sh\n[ "$1" != purge ] || deb-systemd-helper purge shopd.service\n' > $made/DEBIAN/postrm
chmod 0755 $made/DEBIAN/post*
dpkg-deb --root-owner-group -b $made $repo/shopd.deb
{ cat $made/DEBIAN/control; echo Filename: ./shopd.deb; echo Size: $(stat -c %s $repo/shopd.deb)
  echo SHA256: $(sha256sum < $repo/shopd.deb | cut -d' ' -f1); } > $repo/Packages
echo "deb [trusted=yes] file:$repo ./" > /etc/apt/sources.list
apt-get -q update
systemctl=/usr/local/bin/systemctl
printf '#!/bin/bash\nSYSTEMD_OFFLINE=1 exec /usr/bin/systemctl "${@/#--now/--quiet}"\n' > $systemctl
chmod 0755 $systemctl
"""
SHOP = (
    "DEBIAN_FRONTEND=noninteractive apt-get -y install shopd",
    "printf 'port = 8080\n' > /etc/shop/shop.conf",
    "printf '[Service]\nType=oneshot\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n'"
    " > /etc/systemd/system/report.service",
    "systemctl enable report.service",
)
NO_SYSTEMD = "/etc/systemd/system/multi-user.target.wants"


@pytest.mark.full
async def test_packages_and_units_are_taken_back_by_the_targets_own_programs(world: World) -> None:
    """Real apt and dpkg. No systemd runs there: units are switched, and neither started nor stopped."""
    for one in (world.production, world.sandbox):
        one.run(SOURCE)
    world.production.run("printf '[Service]\nExecStart=/bin/true\n' > /etc/systemd/system/own.service")
    before = await world.fleet.look(world.production)
    playbook = await world.work(world.sandbox, SHOP)
    after, text = await there_and_back(world, playbook, {})
    links = {f"{NO_SYSTEMD}/{name}.service" for name in ("shopd", "report")}
    made = {"/etc/shop/shop.conf", "/etc/systemd/system/report.service", "/var/lib/dpkg/status"}
    assert differing(before, after) >= links | made
    restored = await world.fleet.look(world.production)
    assert differing(before, restored) == set(), text
    assert "shopd" not in world.production.run("cat /var/lib/dpkg/status")
    assert world.production.run("ls /etc/systemd/system/own.service; ls -d /usr/sbin/shopd || true").endswith(
        "own.service\n"
    )


@pytest.mark.full
async def test_a_roll_back_is_asked_for_rehearsed_approved_and_leads_back(
    world: World, database: Database, runs: Path
) -> None:
    world.production.run("hostname production-01;" + OWN)
    before = await world.fleet.look(world.production)
    playbook = await world.work(world.sandbox, WORK)
    assert playbook.secrets == ["password_hash_of_deploy"]
    approval = await world.applied(await world.asked(playbook), {"password_hash_of_deploy": NEW_HASH})
    assert approval.state is ApprovalState.APPLIED, approval.outcome
    after = await world.fleet.look(world.production)
    assert {
        "/srv/site/index.html",
        "/etc/app.conf",
        "/etc/hosts",
        "/etc/shadow",
        "/etc/localtime",
    } <= differing(before, after)
    world.production.run("echo new > /srv/fresh/of-somebody")  # since then

    back = await world.taken_back(approval)
    assert back.state is ApprovalState.APPLIED, back.outcome
    assert back.verified_changed == 0
    assert any("/srv/fresh/of-somebody" in words for words in back.evidence.risk), back.evidence.risk
    restored = await world.fleet.look(world.production)
    assert differing(before, restored) == {"/srv/fresh", "/srv/fresh/of-somebody"}
    assert "oldoldoldold" in world.production.run("cat /etc/shadow")

    secrets = (b"hunter2secret", b"oldoldoldold", b"newnewnewnew")
    async with database.transaction() as connection:
        for table in ("runs", "changes", "playbooks", "approvals", "events", "audit"):
            query = sql.SQL("SELECT * FROM {}").format(sql.Identifier("fluid", table))
            rows = await (await connection.execute(query)).fetchall()
            text = repr(rows).encode()
            assert not [word for word in secrets if word in text], table
    for folder in (runs, world.folder / "kept", world.folder / "blobs"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files and not [path for path in files if any(word in path.read_bytes() for word in secrets)]
    kept = [path.stat().st_mode & 0o777 for path in (world.folder / "kept").iterdir()]
    assert kept == [0o600]


# --- the rehearsal -----------------------------------------------------------------------------------------


def play(*tasks: str, handlers: str = "", facts: bool = False) -> str:
    lines = "".join(f"    - name: Task {n}\n      {task}\n" for n, task in enumerate(tasks))
    head = f"---\n- name: Test\n  hosts: all\n  become: true\n  gather_facts: {str(facts).lower()}\n"
    return f"{head}  tasks:\n{lines}" + (f"  handlers:\n{handlers}" if handlers else "")


def nothing() -> Changes:
    return Changes(id=new_id("CHG"), sandbox_id="SBX-1", from_snapshot="a", to_snapshot="b", created_at=now())


COMMAND = "ansible.builtin.command: {argv: [%s], %s}"
FOLDER = "ansible.builtin.file: {path: %s, state: directory, mode: '0755'}"
APPEND = COMMAND % ("sh, -c, 'echo once >> /srv/log'", "creates: /nonexistent")


@pytest.mark.full
async def test_the_second_run_is_judged_by_the_disk_and_not_by_ansibles_word(world: World) -> None:
    """The first command says that it changed something each time and does not; the second one really does."""
    same = COMMAND % ("cp, -p, /etc/issue, /srv/issue", "creates: /nonexistent")
    asked = await world.asked(await world.kept(nothing(), play(same)))
    assert asked.evidence.again and asked.evidence.again.changed == 1
    assert asked.evidence.again_changed == 0, asked.evidence.again_paths
    asked = await world.asked(await world.kept(nothing(), play(APPEND)))
    assert asked.evidence.again_paths == ["/srv/log"]
    assert any("not idempotent" in words for words in world.pipeline.blockers(asked))


UNTRIED = {
    "a condition that holds on production alone": [
        FOLDER % "/srv/a" + "\n      when: ansible_facts['os_family'] == 'RedHat'"
    ],
    "a command that waits for what production alone has": [
        COMMAND % ("rm, /srv/x", "removes: /srv/only-there")
    ],
    "a command that the twin need not do": [COMMAND % ("rm, /srv/x", "creates: /etc/issue")],
    "a command in a loop, of which one item runs": [
        COMMAND % ("touch, '{{ item }}'", "creates: '{{ item }}'") + "\n      loop: [/etc/issue, /srv/new]"
    ],
    "a handler that the twin notifies not": [FOLDER % "/srv/a", FOLDER % "/etc" + "\n      notify: Handler"],
}
HANDLER = f"    - name: Handler\n      {COMMAND % ('touch, /srv/handled', 'creates: /nonexistent')}\n"


@pytest.mark.full
@pytest.mark.parametrize("trick", UNTRIED)
async def test_what_the_rehearsal_did_not_try_is_told_and_blocks(world: World, trick: str) -> None:
    tasks = UNTRIED[trick]
    handlers = HANDLER if "handler" in trick else ""
    text = play(FOLDER % "/srv/first", *tasks, handlers=handlers, facts=True)
    asked = await world.asked(await world.kept(nothing(), text))
    assert asked.state is ApprovalState.PENDING, asked.outcome
    assert asked.evidence.unrehearsed == ["Handler" if handlers else f"Task {len(tasks)}"]
    assert any("skipped in the rehearsal" in words for words in world.pipeline.blockers(asked))


@pytest.mark.full
async def test_a_handler_that_ran_and_a_guarded_command_that_ran_are_rehearsed(world: World) -> None:
    make = COMMAND % ("touch, /srv/made", "creates: /srv/made") + "\n      notify: Handler"
    asked = await world.asked(await world.kept(nothing(), play(make, handlers=HANDLER)))
    assert asked.state is ApprovalState.PENDING and asked.evidence.unrehearsed == []


@pytest.mark.full
async def test_each_task_left_out_and_each_thing_added_is_in_the_residual(world: World) -> None:
    playbook = await world.work(
        world.sandbox,
        ["mkdir /srv/site && echo a > /srv/site/a", "echo b > /etc/b", "useradd -u 4321 deploy"],
    )
    changes = await world.playbooks.changes_of(playbook)
    head, _, body = playbook.yaml.partition("  tasks:\n")
    tasks = [f"    - name:{part}" for part in body.split("    - name:")[1:]]
    assert len(tasks) >= 4
    whole = await world.asked(playbook)
    assert not whole.evidence.rows("missing") and not whole.evidence.rows("extra"), whole.evidence.residual
    cron = (  # without the cron module, which needs a crontab(1) on the machine
        "    - name: Nobody asked for it\n      ansible.builtin.lineinfile: {path: /etc/cron.d/surprise,"
        " line: '5 * * * * root /bin/true', create: true, mode: '0644'}\n"
    )
    for left_out in tasks:
        kept = "".join(task for task in tasks if task is not left_out)
        asked = await world.asked(await world.kept(changes, f"{head}  tasks:\n{kept}", list(playbook.files)))
        assert asked.evidence.rows("missing"), f"nothing is missing without:\n{left_out}"
    added = await world.asked(
        await world.kept(changes, f"{head}  tasks:\n{cron}{''.join(tasks)}", list(playbook.files))
    )
    assert added.evidence.failure == ""
    assert [row.name for row in added.evidence.rows("extra")] == ["/etc/cron.d/surprise"]


@pytest.mark.full
async def test_the_rehearsal_is_compared_with_the_sandbox_at_the_points_that_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that was done after the playbook was generated is in the residual of who asks for it."""
    before = await world.fleet.look(world.sandbox)
    playbook = await world.work(world.sandbox, ["echo a > /etc/a"])
    world.sandbox.run("echo later > /etc/later")
    points: list[tuple[str, str]] = []

    async def diff(_: Identity, sandbox_id: str, since: str, until: str) -> Changes:
        points.append((since, until))
        after = await world.fleet.look(world.sandbox)
        found = await world.fleet.differ.diff(sandbox_id, since, until, before, after, quiesced=True)
        return await world.store.changes.insert(found.model_copy(update={"read_from": "disk"}))

    monkeypatch.setattr(world.fleet, "diff", diff, raising=False)
    request = ApprovalRequest(sandbox_id="SBX-1", playbook=playbook.id, targets=["web-01"], reason="a test")
    asked = await world.moved(await world.approvals.request(AGENT, request))
    assert asked.evidence.rows("missing") == [] and points == []
    later = request.model_copy(update={"from_snapshot": "first", "to_snapshot": "now"})
    asked = await world.moved(await world.approvals.request(AGENT, later))
    assert [row.name for row in asked.evidence.rows("missing")] == ["/etc/later"]
    assert points == [("first", "now")]


# --- the apply ---------------------------------------------------------------------------------------------


async def pending(
    world: World, *tasks: str, files: Sequence[str] = (), secrets: Sequence[str] = ()
) -> Approval:
    """A request that a person may approve, whatever the residual would say: what it does is not the point."""
    playbook = await world.kept(nothing(), play(*tasks), list(files), list(secrets))
    asked = await world.asked(playbook)

    def whole(row: Approval) -> None:
        row.evidence.residual, row.evidence.again_changed, row.evidence.again_paths = [], 0, []

    return await world.reviewed(await world.book.change(asked.id, [ApprovalState.PENDING], whole))


async def test_an_apply_to_a_target_that_cannot_be_kept_does_not_begin(world: World, tmp_path: Path) -> None:
    asked = await pending(world, FOLDER % "/srv/made")
    silent = Machine(tmp_path / "silent", name="web-01")
    silent.make()
    world.keeper._targets = Targets(targets_of(silent))
    await world.approvals.approve(BERT, asked.id, asked.digest)
    over = await world.moved(asked)
    assert over.state is ApprovalState.FAILED and over.outcome == "the apply failed"
    assert over.said_by_targets and over.said_by_targets.startswith("web-01: "), over.said_by_targets
    assert not over.apply_run
    assert world.production.run("ls /srv") == ""


@pytest.mark.full
async def test_what_could_not_be_brought_back_is_told_before_the_yes_and_to_operators_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(keeping.CONTENTS, "file_bytes", 2 << 20)
    sha256 = world.fleet.blobs.put(CONFIG)
    world.production.run("head -c 3M /dev/zero > /srv/big; echo small > /srv/small; echo x > /var/log/own")
    copy = "ansible.builtin.copy: {{src: files/{}, dest: {}, mode: '0644'}}"
    tasks = [copy.format(sha256, path) for path in ("/srv/big", "/srv/small", "/srv/new", "/var/log/own")]
    asked = await pending(world, *tasks, files=[sha256])
    told = [words for words in asked.evidence.dry_run["web-01"].differs if "roll back" in words]
    assert "a roll back cannot bring back /srv/big: not kept before the apply (over 2 MiB)" in told
    assert [words for words in told if "/var/log/own" in words and "never are" in words], told
    assert not [words for words in told if "small" in words or "new" in words]
    assert "/srv/big" not in (await world.approvals.get(AGENT, asked.id)).evidence.model_dump_json()
    over = await world.moved(await world.approvals.approve(BERT, asked.id, asked.digest))
    assert over.state is ApprovalState.APPLIED, over.ending
    left = (await world.keeper.kept(over.apply_run, "web-01")).left_out
    assert {b"/srv/big", b"/var/log/own"} <= left.keys() and b"/srv/small" not in left


KIOSK = r"""
mkdir -p /opt/kiosk/DEBIAN
printf 'Package: kiosk\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.com>\nDescription: it\n' \
    > /opt/kiosk/DEBIAN/control
dpkg-deb -b /opt/kiosk /opt/kiosk.deb && dpkg -i /opt/kiosk.deb
"""


@pytest.mark.full
async def test_packages_that_would_be_others_on_the_target_are_called_out(world: World) -> None:
    """Real apt and dpkg, whose sources on production are newer than on the twin."""
    newer = SOURCE.replace("Version: 1.0", r"Version: 2.0\nConflicts: kiosk")
    world.production.run(newer + KIOSK)
    make = world.fleet._make

    def twin(name: str) -> Machine:
        made = make(name)
        made.run(SOURCE)
        return made

    world.fleet._make = twin
    asked = await pending(world, "ansible.builtin.apt: {name: shopd, state: present}")
    assert [words for words in asked.evidence.dry_run["web-01"].differs if "packages" in words] == [
        "packages: another version on web-01 than (in the rehearsal): shopd 2.0 (1.0)",
        "packages: web-01 would lose what the rehearsal did not: kiosk",
    ]
    world.production.run("DEBIAN_FRONTEND=noninteractive apt-get -y install shopd")
    await world.approvals.dry_run(BERT, asked.id)
    again = (await world.moved(asked)).evidence.dry_run["web-01"].differs
    assert "Task 0: already so on web-01" in again
    assert "packages: another version on web-01 than (in the rehearsal): shopd 2.0 (1.0)" in again


@pytest.mark.full
async def test_what_was_not_rehearsed_is_applied_only_where_the_config_allows_it(world: World) -> None:
    world.production.run("touch /srv/only-there")
    remove = COMMAND % ("rm, /srv/only-there", "removes: /srv/only-there")
    asked = await world.asked(await world.kept(nothing(), play(FOLDER % "/srv/first", remove)))
    assert asked.evidence.unrehearsed == ["Task 1"]

    def whole(row: Approval) -> None:
        row.evidence.residual, row.evidence.again_changed = [], 0

    await world.book.change(asked.id, [ApprovalState.PENDING], whole)
    asked = await world.moved(await world.approvals.dry_run(BERT, asked.id))
    assert world.approvals.blockers(asked) == ["1 tasks were skipped in the rehearsal"]
    assert asked.digest == ""
    with pytest.raises(EvidenceIncomplete, match="1 tasks were skipped in the rehearsal"):
        await world.approvals.approve(BERT, asked.id, asked.digest)
    world.pipeline._config = Config.model_validate({"approvals": {"allow_unrehearsed": True}})
    over = await world.applied(asked)
    assert (over.state, over.evidence.unrehearsed) == (ApprovalState.APPLIED, ["Task 1"]), over.ending
    assert world.production.run("ls /srv") == "first\n"


@pytest.mark.full
async def test_a_target_that_drifts_after_the_review_voids_the_approval(world: World) -> None:
    asked = await pending(world, FOLDER % "/srv/made")
    world.production.run("mkdir -m 0700 /srv/made")
    await world.approvals.approve(BERT, asked.id, asked.digest)
    over = await world.moved(asked)
    assert over.state is ApprovalState.VOIDED and over.outcome == "the target drifted after the approval"
    assert over.said_by_targets and over.said_by_targets.startswith("web-01: "), over.said_by_targets
    assert world.production.run("stat -c %a /srv/made") == "700\n"


CONFIG = b"host = new\n"
SECRETS = {"word": "fresh", "hash": "$6$abcdefgh$newnewnewnewnewnewnew"}
OWN_SECRETS = """
printf 'host = db\npassword = hunter2secret\n' > /etc/app.conf
echo old > /srv/word
usermod -p '$6$abcdefgh$oldoldoldoldoldoldold' games
"""
DRIFTS = {
    "a password in a file that is replaced": "sed -i s/hunter2secret/hunter3secret/ /etc/app.conf",
    "what a secret replaces": "echo odd > /srv/word",
    "a user's password": "usermod -p '$6$abcdefgh$oddoddoddoddoddoddodd' games",
    "": "true",
}


@pytest.mark.full
@pytest.mark.parametrize("drift", DRIFTS)
async def test_a_target_that_drifts_in_a_secret_alone_voids_the_approval(world: World, drift: str) -> None:
    sha256 = world.fleet.blobs.put(CONFIG)
    tasks = (
        f"ansible.builtin.copy: {{src: files/{sha256}, dest: /etc/app.conf, mode: '0644'}}",
        "ansible.builtin.copy: {content: '{{ word }}', dest: /srv/word, mode: '0644'}\n      no_log: true",
        "ansible.builtin.user: {name: games, password: '{{ hash }}'}\n      no_log: true",
    )
    world.production.run(OWN_SECRETS)
    asked = await pending(world, *tasks, files=[sha256], secrets=[*SECRETS])
    world.production.run(DRIFTS[drift])
    await world.approvals.approve(BERT, asked.id, asked.digest, secrets=SECRETS)
    over = await world.moved(asked)
    assert over.state is (ApprovalState.VOIDED if drift else ApprovalState.APPLIED), over.outcome
    left = {"what a secret replaces": "odd\n", "": "fresh"}.get(drift, "old\n")
    assert world.production.run("cat /srv/word") == left


@pytest.mark.full
async def test_an_apply_that_is_aborted_says_where_and_its_way_back_leads_back(world: World) -> None:
    before = await world.fleet.look(world.production)
    gate = f"/srv/{new_id('GATE')}"  # all processes of this machine are seen: a name of its own
    waits = f"while test -e {gate}; do sleep 0.1; done"
    passing = COMMAND % (f"sh, -c, '{waits}; touch /srv/passed'", "creates: /srv/passed")
    asked = await pending(world, FOLDER % "/srv/first", passing, FOLDER % "/srv/last")
    world.production.run(f"touch {gate}")
    await world.approvals.approve(BERT, asked.id, asked.digest)
    while not naming(waits):
        await asyncio.sleep(0.2)
    run_id = (await world.book.load(asked.id)).apply_run
    await world.runs.cancel(BERT, run_id)
    over = await world.moved(asked)
    assert (over.state, over.outcome) == (ApprovalState.FAILED, "the apply canceled")
    assert over.ending.endswith("done: web-01 up to 'Task 0'"), over.ending
    assert (await world.runs.load(run_id)).state is RunState.CANCELED
    assert set(world.production.run("ls /srv").split()) == {Path(gate).name, "first"}
    world.production.run(f"rm {gate}")
    while naming(waits):  # what Ansible had begun there was ended with it, or ends by itself
        await asyncio.sleep(0.2)
    back = await world.taken_back(over)
    assert back.state is ApprovalState.APPLIED, back.outcome
    assert differing(before, await world.fleet.look(world.production)) == set()


@pytest.mark.full
async def test_a_connection_that_is_lost_makes_the_apply_lost_and_never_repeated(world: World) -> None:
    cut = (
        "import os, signal; pid = os.getpid()\n"
        "while open(f'/proc/{pid}/comm').read() != 'sshd\\n':\n"
        "    pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])\n"
        "os.kill(pid, signal.SIGKILL)\n"
    )
    lose = COMMAND % (
        "sh, -c, 'echo once >> /srv/log; test ! -e /srv/cut.py || python3 /srv/cut.py'",
        "creates: /x",
    )
    asked = await pending(world, FOLDER % "/srv/first", lose, FOLDER % "/srv/last")
    world.production.run("cat > /srv/cut.py", stdin=cut.encode())
    await world.approvals.approve(BERT, asked.id, asked.digest)
    over = await world.moved(asked)
    assert over.state is ApprovalState.FAILED and "lost in 'Task 1'" in over.ending, over.ending
    assert (await world.runs.load(over.apply_run)).state is RunState.LOST
    assert world.production.run("cat /srv/log; ls /srv") == "once\ncut.py\nfirst\nlog\n"


@pytest.mark.full
async def test_what_is_as_it_was_is_not_taken_back(world: World) -> None:
    over = await world.applied(await pending(world, FOLDER % "/srv/made"))
    world.production.run("rmdir /srv/made")
    with pytest.raises(WrongState, match="web-01 has what it had"):
        await world.approvals.request_rollback(ANNA, over.apply_run)
    with pytest.raises(FluidError, match="no apply to 'web-02'"):
        await world.approvals.request_rollback(ANNA, over.apply_run, "web-02")


@pytest.mark.full
async def test_a_backend_killed_at_twenty_moments_of_an_apply_applies_once_or_not_at_all(
    world: World, empty_dsn: str, runs: Path, python: str, run_as: str | None, tmp_path: Path
) -> None:
    """From before the yes is in the database until the apply is verified; the next backend goes on."""
    first = await pending(world, APPEND)
    playbook = await world.playbooks.load(first.playbook_id)
    job = {
        "dsn": empty_dsn,
        "folder": str(tmp_path),
        "runs": str(runs),
        "run_as": run_as,
        "python": python,
        "production": targets_of(world.production).model_dump(mode="json"),
    }

    async def request() -> Approval:
        """The same evidence again, under an id of its own."""
        again = first.model_copy(
            deep=True, update={"id": new_id("APR"), "expires_at": now() + timedelta(hours=1)}
        )
        again.digest = world.pipeline.digest(again, playbook)
        await world.book.add(again)
        return again

    def backend(asked: Approval, lives: int) -> str:
        """A backend of its own that dies after so many transactions; what it said."""
        told = {**job, "approval": asked.id, "digest": asked.digest, "lives": lives}
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from tests.service.runner.stage import main; main()"],
            input=json.dumps(told) + "\n", stdout=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        assert done.returncode in (0, -signal.SIGKILL)
        return done.stdout

    def log() -> str:
        return world.production.run("cat /srv/log 2>/dev/null; rm -f /srv/log")

    whole = await request()
    transactions = int(await asyncio.to_thread(backend, whole, sys.maxsize))
    assert ((await world.book.load(whole.id)).state, log()) == (ApprovalState.APPLIED, "once\n")
    met = set()
    for moment in range(20):
        asked = await request()
        await asyncio.to_thread(backend, asked, transactions * moment // 20)
        found = await world.book.load(asked.id)
        met.add((found.state, found.progress))
        await world.approvals.resume()
        over = await world.moved(asked)
        is_applied = over.state is ApprovalState.APPLIED
        assert log() == ("once\n" if is_applied else ""), (moment, found.state, over.outcome)
        late = "5 minutes" in over.outcome  # since the yes, on a busy machine
        assert is_applied or late or over.state in (ApprovalState.PENDING, ApprovalState.FAILED), over.outcome
        if over.state is ApprovalState.PENDING:
            await world.approvals.withdraw(BERT, asked.id)
    assert len(met) >= 4, met
