"""What operators and agents do with sandboxes besides the path of one change, on the demo's backend."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import SandboxNotFound, SnapshotNotFound
from tests.fix_demo import until_parked

READY_FROM_STOCK_S = 2.5
BEAT = "while sleep 0.2; do date +%s >/root/beat; done"
WHO = "hostname; cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub; hostname -I"


@pytest.fixture(scope="module")
def source(operator: Fluid) -> str:
    return operator.sources()[0].name


@pytest.fixture
def made(operator: Fluid) -> Iterator[list[FluidSandbox]]:
    """Sandboxes of a test, destroyed after it."""
    boxes: list[FluidSandbox] = []
    yield boxes
    for box in boxes:
        try:
            box.destroy()
        except SandboxNotFound:
            continue


def said(box: FluidSandbox, command: str) -> list[str]:
    done = box.run(command)
    assert done.exit_code == 0, done.stderr
    return done.stdout.splitlines()


def test_stock_is_handed_out_at_once_to_one_owner_with_a_name_of_its_own(
    operator: Fluid, source: str, made: list[FluidSandbox]
) -> None:
    identities = []
    for name in ("from-stock-a", "from-stock-b"):
        until_parked(operator)
        box = operator.create_sandbox(source, agent_id="e2e", name=name)
        made.append(box)
        assert (box.noun.created_by, box.noun.sandbox_name) == ("stock", name)
        assert box.noun.ready_s is not None and box.noun.ready_s < READY_FROM_STOCK_S
        identities.append(said(box, WHO))
        assert identities[-1][0] == name
        assert abs(float(said(box, "date +%s.%N")[0]) - time.time()) < 2
    assert all(one != other for one, other in zip(*identities, strict=True))
    assert not [box.sandbox_name for box in operator.fleet().sandboxes if box.purpose == "stock"]


def test_restore_branch_and_delete_any_point_of_the_tree(
    operator: Fluid, source: str, made: list[FluidSandbox]
) -> None:
    first = operator.create_sandbox(source, agent_id="e2e", name="tree")
    made.append(first)
    said(first, f"setsid sh -c '{BEAT}' </dev/null >/dev/null 2>&1 & echo $! >/root/pid")
    said(first, "echo one >/root/mark")
    first.snapshot("one")
    said(first, "echo two >/root/mark; dd if=/dev/urandom of=/root/big bs=1M count=20 2>/dev/null; sync")
    first.snapshot("two")

    first.restore("one")
    assert said(first, "cat /root/mark") == ["one"]
    said(first, "kill -0 $(cat /root/pid)")

    branch = operator.branch(first.id, "two", vm_name="tree-branch")
    other = FluidSandbox(operator, branch)
    made.append(other)
    assert branch.created_by == "branch"
    assert said(other, "cat /root/mark; stat -c %s /root/big") == ["two", str(20 << 20)]
    said(other, "sleep 0.5; kill -0 $(cat /root/pid); [ $(stat -c %Y /root/beat) -ge $(($(date +%s) - 3)) ]")
    assert all(mine != theirs for mine, theirs in zip(said(first, WHO), said(other, WHO), strict=True))

    assert first.delete_snapshot("two") > 0
    assert [point.name for point in first.snapshots()] == ["one"]
    with pytest.raises(SnapshotNotFound):
        first.restore("two")
    first.destroy()
    assert said(other, "cat /root/mark") == ["two"]
    operator.stop(other.id)
    operator.start(other.id)
    assert said(other, "cat /root/mark; md5sum </root/big | wc -l") == ["two", "1"]


def test_a_dangerous_command_has_a_snapshot_before_it_and_that_is_no_starting_point(
    operator: Fluid, source: str, made: list[FluidSandbox]
) -> None:
    box = operator.create_sandbox(source, agent_id="e2e", name="danger")
    made.append(box)
    said(box, "mkdir /root/work; echo kept >/root/work/mark; sync")
    said(box, "rm -rf /root/work")
    (point,) = box.snapshots()
    assert point.auto and point.name.startswith("auto-")
    assert point.note == "before `rm -rf /root/work`: it removes folders"
    with pytest.raises(SnapshotNotFound):
        box.generate_playbook()
    box.restore(point.name)
    assert said(box, "cat /root/work/mark") == ["kept"]
    pane = box.open_pane()
    operator.send_keys(pane.pane_id, "rm -r /root/wo")
    assert [point.note for point in box.snapshots() if point.auto][1:] == [
        "before something was typed: it removes folders"
    ]


def test_two_sandboxes_of_one_source_are_compared_by_their_disks(
    operator: Fluid, source: str, made: list[FluidSandbox]
) -> None:
    one, other = (operator.create_sandbox(source, agent_id="e2e", name=name) for name in ("this", "that"))
    made += [one, other]
    both = "printf 'a\\nb\\n' >/etc/both.conf; echo x >/srv/moved-on-one; chmod 0644 /srv/moved-on-one"
    for box in (one, other):
        said(box, both)
    one.snapshot("before")
    said(one, "echo only >/etc/only-one; mv /srv/moved-on-one /srv/moved")
    said(other, "printf 'a\\nc\\n' >/etc/both.conf; useradd -m deploy; ln -s both.conf /etc/link")
    changes = operator.diff(one.id, "now", "now", other.id)
    found = {row.path: row.verb.value for row in changes.shown() if not row.path.startswith("/home/deploy/")}
    assert (
        found.items()
        >= {
            "/etc/both.conf": "modified",
            "/etc/only-one": "removed",
            "/etc/link": "added",
            "/home/deploy": "added",
        }.items()
    )
    assert [(row.renamed_from, row.path) for row in changes.files if row.renamed_from] == [
        ("/srv/moved", "/srv/moved-on-one")
    ]
    assert [user.name for user in changes.users] == ["deploy"] and changes.packages == []
    assert (changes.sandbox_id, changes.to_sandbox, changes.read_from) == (one.id, other.id, "disk")
    before = operator.diff(one.id, "before", "now", other.id)
    paths = {row.path for row in before.shown()}
    assert "/etc/both.conf" in paths and not paths & {"/etc/only-one", "/srv/moved", "/srv/moved-on-one"}
    # Each machine's own name, address and keys are hidden as noise, and counted.
    assert not {"/etc/hostname", "/etc/machine-id"} & (paths | found.keys())
    assert any(row.path == "/etc/hostname" and row.hidden for row in changes.files)
