"""kill -9 of the backend at five moments of the demo; every promise is kept all the same.

The apply is the one that counts: it runs on in its own process, and exactly once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.client import Fluid
from backend.errors import FluidError
from backend.models import Approval, FleetView, Phase, RunKind
from tests.fix_demo import Demo, play

LOOK_S = 0.02  # a sandbox that comes from stock is being made for a tenth of a second
WAIT_S = 900

Moment = Callable[[FleetView, Approval | None], bool]
MOMENTS: dict[str, Moment] = {
    "a sandbox is being made": lambda fleet, _: any(box.phase is Phase.CREATING for box in fleet.sandboxes),
    "the rehearsal runs": lambda _, asked: asked is not None and asked.progress == "rehearsing: first run",
    "it is pending": lambda _, asked: asked is not None and asked.state == "pending",
    "the second dry run runs": lambda _, asked: asked is not None and "again" in asked.progress,
    "the apply runs": lambda _, asked: asked is not None and asked.progress == "applying",
}


def kill_at_each(demo: Demo, killed: list[str], done: threading.Event) -> None:
    """Watch through the operator door; at each moment, once, kill the backend."""
    fluid = Fluid(demo.operator_socket)
    waiting = dict(MOMENTS)
    before = {row.id for row in _approvals(fluid)}
    deadline = time.monotonic() + WAIT_S
    while waiting and not done.is_set() and time.monotonic() < deadline:
        time.sleep(LOOK_S)
        try:
            fleet = fluid.fleet()
        except FluidError:
            continue
        asked = next((row for row in fleet.approvals if row.id not in before), None)
        for name, moment in list(waiting.items()):
            if moment(fleet, asked):
                pid = int((demo.home / "run" / "backend.pid").read_text())
                os.kill(pid, signal.SIGKILL)
                killed.append(name)
                del waiting[name]
                break


def _approvals(fluid: Fluid) -> list[Approval]:
    try:
        return fluid.approvals()
    except FluidError:
        return []


@pytest.mark.full
def test_a_demo_whose_backend_dies_five_times_keeps_every_promise(demo: Demo, tmp_path: Path) -> None:
    killed: list[str] = []
    done = threading.Event()
    watcher = threading.Thread(target=kill_at_each, args=(demo, killed, done))
    watcher.start()
    try:
        told = play(demo, 4, tmp_path)
    finally:
        done.set()
        watcher.join()
    assert killed == list(MOMENTS), told.transcript
    assert told.code == 0, told.transcript
    operator = Fluid(demo.operator_socket)
    approval = next(row for row in operator.approvals() if row.state == "applied")
    rows = [row for row in operator.audit(action="approval.apply", limit=1000) if row.id == approval.id]
    assert sum(row.step == "intent" for row in rows) == 1
    apply = operator.run_of(approval.apply_run)
    assert apply.kind is RunKind.APPLY
    assert all(result.failed == 0 for result in apply.results.values())
