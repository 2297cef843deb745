"""What bad input gets, on the live backend: one line with the value and the remedy, the right code, and
nothing half done. One sandbox goes through all of it, in this order."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.client import Fluid
from backend.client.blocking import FluidSandbox
from backend.errors import FluidError
from backend.store import EmbeddedPostgres
from tests.fix_database import standing_still
from tests.fix_demo import Demo, until_parked
from tests.processes import qemu_of

NAME = "bad-input"
LEFT_BYTES = 1 << 30  # enough for everybody else on the machine, and less than the reserve
LIMIT_S = 15
GUARD_LOOKS_S = 2.5  # its look is every two seconds
WAIT_S = 60


@pytest.fixture(scope="module")
def box(operator: Fluid) -> Iterator[FluidSandbox]:
    sandbox = operator.create_sandbox(operator.sources()[0].name, agent_id="me", name=NAME)
    until_parked(operator)  # what a test leaves is then the test's own
    yield sandbox
    if any(row.id == sandbox.id for row in operator.sandboxes()):
        sandbox.destroy()


Call = Callable[[Fluid, FluidSandbox], Any]
REFUSED: list[tuple[str, str, Call]] = [
    ("sandbox_not_found", "SBX-deadbeef", lambda door, _: door.run("SBX-deadbeef", "id")),
    ("route_not_found", "../etc", lambda door, _: door.stop("../etc")),
    ("sandbox_not_found", "SBX-DEADBEEF", lambda door, _: door.destroy("SBX-DEADBEEF")),
    ("snapshot_not_found", "never", lambda _, box: box.restore("never")),
    ("snapshot_not_found", "..", lambda _, box: box.restore("..")),
    ("snapshot_not_found", "a/b", lambda _, box: box.diff("a/b", "now")),
    ("approval_not_found", "APR-deadbeef", lambda door, _: door.approve("APR-deadbeef", "d")),
    ("playbook_not_found", "PBK-deadbeef", lambda door, _: door.playbook("PBK-deadbeef")),
    ("run_not_found", "RUN-deadbeef", lambda door, _: door.run_of("RUN-deadbeef")),
    ("pane_not_found", "%99999", lambda door, _: door.read_pane("%99999")),
    ("file_not_found", "/root/none", lambda _, box: box.read_file("/root/none")),
    ("source_not_found", "plan9", lambda door, _: door.create("plan9", agent_id="me")),
    ("invalid_name", "../debian", lambda door, _: door.create("../debian", agent_id="me")),
    *(
        (
            "invalid_name",
            name,
            lambda door, box, name=name: door.create(_source(box), agent_id="me", name=name),
        )
        for name in ("a/b", "..", "Web")
    ),
    *(("invalid_name", name, lambda _, box, name=name: box.snapshot(name)) for name in ("a/b", "..", "Now")),
    ("duplicate_name", NAME, lambda door, box: door.create(_source(box), agent_id="me", name=NAME)),
    ("duplicate_name", "now", lambda _, box: box.snapshot("now")),
    ("target_not_found", "../web-01", lambda door, box: _ask(door, box, "../web-01")),
    ("playbook_refused", "'shell'", lambda door, _: _edit(door, "shell: id")),
]


def _source(box: FluidSandbox) -> str:
    return box.noun.base_image


def _edit(door: Fluid, task: str) -> None:
    playbook = door.playbooks()[0]
    yaml = door.playbook(playbook.id).yaml
    door.update_playbook(playbook.id, f"{yaml.rstrip()}\n    - name: one more\n      {task}\n")


def _ask(door: Fluid, box: FluidSandbox, target: str) -> None:
    playbook = door.playbooks()[0]
    door.request_approval(playbook.sandbox_id, playbook=playbook.id, targets=[target], reason="try")


def test_an_unknown_id_and_an_impossible_name_are_named_with_a_remedy(
    operator: Fluid, box: FluidSandbox
) -> None:
    before = _everything(operator)
    for code, value, call in REFUSED:
        with refused(code, value):
            call(operator, box)
    assert _everything(operator) == before


@pytest.mark.parametrize(
    ("code", "value", "words"),
    [
        (3, "SBX-deadbeef", "sandboxes exec SBX-deadbeef -- id"),
        (3, "a/b", "sandboxes stop a/b"),
        (2, "Web", f"snapshots create {NAME} Web"),
        (3, "APR-deadbeef", "approvals approve APR-deadbeef --digest d"),
    ],
)
def test_the_command_line_says_it_in_one_line(
    demo: Demo, box: FluidSandbox, code: int, value: str, words: str
) -> None:
    assert_one_line(demo, code, value, *words.split())


def test_a_restored_sandbox_goes_on_where_it_was(demo: Demo, operator: Fluid, box: FluidSandbox) -> None:
    pane = box.open_pane()
    box.run("sleep 1000 > /dev/null 2>&1 & echo $! > /root/pid")
    box.snapshot("good")
    box.run("kill $(cat /root/pid); rm /root/pid; echo later > /root/later")
    done = demo.fluid("snapshots", "restore", NAME, "good", "--yes")
    assert done.returncode == 0, done.stderr
    assert box.run("kill -0 $(cat /root/pid) && ! test -e /root/later && date +%s").exit_code == 0
    assert box.run("ss -ltn | grep -c 127.0.0.1:3128").stdout.strip() == "1"
    deadline = time.monotonic() + WAIT_S  # the pane gets a new shell; what is typed before that is lost
    while "back-42" not in operator.read_pane(pane.pane_id):
        assert time.monotonic() < deadline, operator.read_pane(pane.pane_id)
        operator.send_keys(pane.pane_id, text="echo back-$((40+2))")
        operator.send_keys(pane.pane_id, key="Enter")
        time.sleep(1)
    operator.close_pane(pane.pane_id)


def test_a_full_disk_is_seen_before_anything_is_written(
    demo: Demo, operator: Fluid, box: FluidSandbox
) -> None:
    before = _everything(operator), _folders(demo)
    with nearly_full(demo.home):
        with refused("no_space", "MB are free"):
            operator.create(_source(box), agent_id="me")
        with pytest.raises(FluidError) as error:
            box.snapshot("fuller")
        # The guard may have paused it already, as one that writes to a disk at its reserve.
        assert error.value.code in ("no_space", "wrong_state") and "disk" in error.value.message
        assert_one_line(demo, 6, "are needed", "sandboxes", "create", _source(box))
    _wake_all(operator)
    assert (_everything(operator), _folders(demo)) == before
    assert box.run("true").exit_code == 0


def _wake_all(operator: Fluid) -> None:
    """Those that the guard paused go on; its last look may have been while the disk was full, and be under
    way."""
    deadline = time.monotonic() + WAIT_S
    while True:
        time.sleep(GUARD_LOOKS_S)
        held = [row for row in operator.sandboxes() if row.phase == "paused"]
        if not held:
            return
        for row in held:
            assert "of disk left" in row.reason, row
            operator.resume(row.id)
        assert time.monotonic() < deadline, held


def test_without_its_database_it_says_so_and_does_nothing_new(
    demo: Demo, operator: Fluid, box: FluidSandbox
) -> None:
    server = EmbeddedPostgres(demo.home / "state" / "postgresql")
    before = _everything(operator), _folders(demo)
    with standing_still(server):
        for call in (
            lambda: operator.create(_source(box), agent_id="me"),
            lambda: box.run("touch /root/new"),
        ):
            with refused("database_down", "the database fluid at"):
                call()
        assert_one_line(demo, 6, "does not answer", "sandboxes", "stop", box.id)
        assert _folders(demo) == before[1]
    _until(lambda: box.run("test -e /root/new").exit_code == 1)
    postmaster = server.postmaster()
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    _until(lambda: box.run("true").exit_code == 0)
    assert (_everything(operator), _folders(demo)) == before
    assert operator.verify_audit()["ok"]


def test_a_stopped_sandbox_says_how_to_start_it(demo: Demo, operator: Fluid, box: FluidSandbox) -> None:
    box.stop()
    for call in (lambda: box.run("id"), lambda: box.snapshot("off"), box.pause, box.open_pane):
        with refused("wrong_state", f"{NAME} is stopped") as error:
            call()
        assert error[0].remedy == f"start it: fluid sandboxes start {box.id}"
    assert_one_line(demo, 4, f"{NAME} is stopped", "sandboxes", "exec", NAME, "id")
    assert box.snapshots()[-1].name == "good"
    operator.restore(box.id, "good")
    assert box.run("true").exit_code == 0


def test_a_guest_that_dies_is_told_at_once_and_can_be_removed(
    demo: Demo, operator: Fluid, box: FluidSandbox
) -> None:
    heard: list[FluidError] = []

    def wait() -> None:
        try:
            box.run("echo here; sleep 300", on_output=lambda *_: running.set())
        except FluidError as error:
            heard.append(error)

    running, caller = threading.Event(), threading.Thread(target=wait)
    caller.start()
    assert running.wait(WAIT_S)
    domain = operator.sandbox(box.id).domain
    (pid,) = qemu_of(domain)
    os.kill(pid, signal.SIGKILL)
    caller.join(LIMIT_S)
    assert heard and heard[0].code == "command_lost" and NAME in heard[0].message and heard[0].remedy
    with refused("wrong_state", "its virtual machine died"):
        box.run("id")
    seen = operator.sandbox(box.id)
    assert seen.phase == "error" and seen.reason.startswith("its virtual machine died: it was killed"), seen
    box.destroy()
    assert domain not in _folders(demo)
    with refused("sandbox_not_found", box.id):
        box.run("id")


@contextmanager
def refused(code: str, value: str) -> Iterator[list[FluidError]]:
    """One line with the value and a remedy, within seconds. Yields where the error is put."""
    seen: list[FluidError] = []
    began = time.monotonic()
    with pytest.raises(FluidError) as caught:
        yield seen
    error = caught.value
    seen.append(error)
    assert error.code == code, f"{value}: {error.code} {error.message}"
    assert value in error.message and "\n" not in error.message + error.remedy, error.message
    assert error.remedy, f"{error.message}: no remedy"
    assert time.monotonic() - began < LIMIT_S, error.message


def assert_one_line(demo: Demo, code: int, value: str, *words: str) -> None:
    done = demo.fluid(*words)
    assert done.returncode == code and done.stdout == "", done.stderr
    assert re.fullmatch(rf"fluid: .*{re.escape(value)}.* — .+\n", done.stderr), done.stderr


@contextmanager
def nearly_full(folder: Path) -> Iterator[None]:
    """A file without a name takes the room: it goes with this process, whatever happens."""
    size = shutil.disk_usage(folder).free - LEFT_BYTES
    with tempfile.TemporaryFile(dir=folder) as filler:
        fd = filler.fileno()
        subprocess.run(["fallocate", "-l", str(size), f"/proc/self/fd/{fd}"], pass_fds=(fd,), check=True)
        yield


def _everything(operator: Fluid) -> list[tuple[str, str, list[str]]]:
    """Sandboxes with their states and snapshots; an edit or a request would show in the rest."""
    rows = [
        (box.id, box.phase, [row.name for row in operator.snapshots(box.id)]) for box in operator.sandboxes()
    ]
    rows += [(row.id, row.state, []) for row in operator.approvals()]
    return rows + [(row.id, row.digest, []) for row in operator.playbooks()]


def _folders(demo: Demo) -> dict[str, list[str]]:
    """Each domain's files."""
    folder = demo.home / "state" / "domains" / "domains"
    return {path.name: sorted(file.name for file in path.iterdir()) for path in folder.iterdir()}


def _until(works: Callable[[], bool]) -> None:
    """The backend comes back by itself; nothing tells of it from outside."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            assert works()
            return
        except FluidError as error:
            assert time.monotonic() < deadline, error.message
        time.sleep(0.2)
