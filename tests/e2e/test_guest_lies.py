"""A guest that hides a file from whoever asks it: read from the disk it is caught; where that cannot be read,
the answer says whose word it is, down to what an operator approves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import DiskUnreadable
from backend.models import Approval, ApprovalState
from tests.fix_demo import Demo

pytestmark = pytest.mark.full

HIDDEN, SHOWN = "/etc/cron.d/hidden-job", "/etc/sysctl.d/90-shown.conf"
REHEARSAL_TIMEOUT_S = 900
ASKING = "read by asking the guest: root there could lie"
# stat says that nothing is there; python3, which runs what we send, leaves the name out of each folder.
LIE = rf"""
set -e
printf '* * * * * root /bin/true\n' >{HIDDEN}
printf 'vm.swappiness = 20\n' >{SHOWN}
mv /usr/bin/stat /usr/bin/stat.true
cat >/usr/bin/stat <<'END'
#!/bin/sh
case "$*" in *hidden-job*) echo "stat: cannot statx: No such file or directory" >&2; exit 1;; esac
exec /usr/bin/stat.true "$@"
END
true_python=$(readlink -f /usr/bin/python3)
rm /usr/bin/python3
cat >/usr/bin/python3 <<END
#!/bin/sh
[ "\$2" = -c ] || exec $true_python "\$@"
lie='import errno, os; real = os.listdir; os.listdir = lambda at: [x for x in real(at) if b"hidden" not in x]'
program=\$(printf %s "\$3" | sed "s/^import errno\\\$/\$lie/")
exec $true_python -IS -c "\$program"
END
chmod 755 /usr/bin/stat /usr/bin/python3
stat {HIDDEN} && exit 9
sync
"""
# The superblock claims a feature that we do not know; the kernel, which has mounted it, does not mind.
UNREADABLE = r"""
set -e
disk=$(findmnt -no SOURCE /)
python3 -c "
import os, sys
disk = os.open(sys.argv[1], os.O_RDWR)
features = os.pread(disk, 4, 1024 + 96)
os.pwrite(disk, (int.from_bytes(features, 'little') | 0x1000).to_bytes(4, 'little'), 1024 + 96)
os.fsync(disk)
" "$disk"
"""


# Started by hand: no unit on the disk says so. The second fails at once.
BY_HAND = r"""
set -e
systemd-run --quiet --unit=shop python3 -m http.server 8000 --bind 0.0.0.0
systemd-run --quiet --unit=broken /bin/false
for n in $(seq 100); do
  ss -Hlnt | grep -q ':8000 ' && systemctl is-failed --quiet broken.service && exit 0
  sleep 0.2
done
exit 9
"""


@pytest.fixture(scope="module")
def source(operator: Fluid) -> str:
    return operator.sources()[0].name


@pytest.fixture
def box(operator: Fluid, source: str) -> Iterator[FluidSandbox]:
    made = operator.create_sandbox(source, agent_id="e2e", name="liar")
    yield made
    made.destroy()


def does(box: FluidSandbox, script: str) -> None:
    done = box.run(script)
    assert done.exit_code == 0, done.stderr


def rehearsed(operator: Fluid, box: FluidSandbox) -> Approval:
    """A request for what was done in the sandbox, once its rehearsal is over."""
    playbook = operator.generate_playbook(box.id)
    asked = operator.request_approval(box.id, playbook=playbook.id, targets=["web-01"], reason="a test")
    deadline = time.monotonic() + REHEARSAL_TIMEOUT_S
    while asked.state is ApprovalState.REHEARSING and time.monotonic() < deadline:
        asked = operator.approval(asked.id, wait=30)
    return asked


def test_a_hidden_file_and_what_hides_it_are_read_from_the_disk(box: FluidSandbox) -> None:
    assert box.snapshot("clean").read_from == "disk"
    does(box, LIE)
    changes = box.diff("clean", "now")
    assert changes.read_from == "disk" and changes.quiesced
    paths = {change.path for change in changes.shown()}
    assert paths >= {HIDDEN, SHOWN, "/usr/bin/stat", "/usr/bin/python3"}
    assert [setting.paths for setting in changes.settings if setting.kind == "cron job"] == [[HIDDEN]]


def test_a_guest_that_must_be_asked_can_hide_a_file_and_is_named_for_its_word(
    box: FluidSandbox, demo: Demo
) -> None:
    box.snapshot("readable")
    does(box, UNREADABLE)
    point = box.snapshot("clean")
    assert (point.read_from, point.quiesced) == ("guest", True) and point.files > 5_000
    does(box, LIE)
    changes = box.diff("clean", "now")
    assert changes.read_from == "guest" and not changes.quiesced
    paths = {change.path for change in changes.shown()}
    assert SHOWN in paths and HIDDEN not in paths
    assert not [path for path in paths if path.startswith(("/proc/", "/sys/", "/dev/", "/run/"))]
    assert ("vm.swappiness", "20") in {(one.name, one.after.get("value")) for one in changes.settings}
    with pytest.raises(DiskUnreadable, match="readable was read from the disk"):
        box.diff("readable", "now")
    told = demo.fluid("snapshots", "diff", box.id, "clean", "now")
    assert told.returncode == 0 and ASKING in told.stdout.splitlines()[0], told.stderr
    box.snapshot("later")
    named = box.diff("clean", "later")
    assert (named.read_from, {change.path for change in named.shown()}) == ("guest", paths)
    assert box.diff("clean", "later").id == named.id


def test_what_listens_and_runs_is_told_with_whose_word_it_is_and_nothing_of_ours(
    box: FluidSandbox, demo: Demo
) -> None:
    before = box.snapshot("clean").running
    assert before is not None and before.notes == [] and before.ports and before.units
    assert any(name.endswith(":22") for name in before.ports)
    assert not [name for name in before.ports if name.endswith(":3128")]
    assert not [name for name in before.units if "fluid" in name or name.startswith(("session-", "user@"))]
    does(box, BY_HAND)
    changes = box.diff("clean", "now")
    assert changes.read_from == "disk"
    assert changes.running is not None and changes.running.read_from == "guest"
    assert {(one.verb, one.name, one.after) for one in changes.running.changes} == {
        ("added", "tcp 0.0.0.0:8000", "python3"),
        ("added", "broken.service", "failed"),
        ("added", "shop.service", "running"),
    }
    told = demo.fluid("snapshots", "diff", box.id, "clean", "now").stdout.splitlines()
    assert {f"what listens and runs, {ASKING}", "+ port     tcp 0.0.0.0:8000  python3"} <= set(told)
    assert "! unit     broken.service  failed" in told


def test_a_daemon_that_was_started_by_hand_is_in_the_evidence_and_blocks_nothing(
    operator: Fluid, box: FluidSandbox
) -> None:
    box.snapshot("clean")
    does(box, f"printf 'vm.swappiness = 20\\n' >{SHOWN}; sync\n{BY_HAND}")
    asked = rehearsed(operator, box)
    assert asked.state is ApprovalState.PENDING, asked.outcome
    assert not asked.evidence.rows("missing") + asked.evidence.rows("extra")
    assert {(row.kind, row.noun, row.name) for row in asked.evidence.running or []} == {
        ("missing", "port", "tcp 0.0.0.0:8000"),
        ("missing", "unit", "broken.service"),
        ("missing", "unit", "shop.service"),
    }


def test_evidence_by_the_guests_word_says_so_to_who_approves(operator: Fluid, box: FluidSandbox) -> None:
    does(box, UNREADABLE)
    box.snapshot("clean")
    does(box, f"printf 'vm.swappiness = 20\\n' >{SHOWN}; sync")
    asked = rehearsed(operator, box)
    assert asked.state is ApprovalState.PENDING, asked.outcome
    assert asked.evidence.read_from == "guest"
    assert asked.evidence.risk[0] == f"the change was {ASKING}"
    assert not asked.evidence.rows("missing") + asked.evidence.rows("extra")
    assert asked.evidence.again_changed == 0
