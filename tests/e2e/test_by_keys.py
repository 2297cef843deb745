"""From the alert to the applied change by keys only: the attended demo in a real terminal, nothing mocked."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from backend.client import Fluid
from backend.demo.scenario import draw
from backend.models import Approval, ApprovalState
from fluid_tui.screens.confirm import ARMING_S
from tests.fix_demo import DEMO_TIMEOUT_S, Demo
from tests.fix_tmux import Terminal

pytestmark = pytest.mark.full

SEED = 8
RUN_LIMIT_S = 600.0  # of Ansible, emulated, beside whatever else runs
ASK_AGAIN_S = 3.0
QUESTION = re.compile(r"Type (\w{4}) to approve")


def asked_for(operator: Fluid) -> Approval | None:
    mine = (row for row in operator.approvals() if row.sandbox_name == draw(SEED).sandbox_name)
    return next(mine, None)


def short_id(seen: Terminal) -> str:
    """Ask for the approval until the question stands there: the dry run goes on while the review is read."""
    end = monotonic() + RUN_LIMIT_S
    while not (found := QUESTION.search("\n".join(seen.lines()))):
        assert monotonic() < end, "\n".join(seen.lines())
        seen.press("a")
        sleep(ASK_AGAIN_S)
    return found[1]


def test_a_change_reaches_production_by_keys_alone(demo: Demo, tmp_path: Path) -> None:
    demo_words = [sys.executable, "-P", "-m", "backend.cli", "demo", "--yes", "--seed", str(SEED)]
    command = ["sh", "-c", '"$@"; echo "exit $?"; exec cat', "sh", *demo_words]  # its last words stay
    name = draw(SEED).sandbox_name
    seen = Terminal(tmp_path / "tmux.sock", 80, 24, command, demo.env)
    try:
        seen.sees("Nobody needs you", name, limit_s=DEMO_TIMEOUT_S)
        seen.sees("1 needs you", limit_s=DEMO_TIMEOUT_S)
        seen.press("g", "v")
        seen.sees("review", "Evidence", name)
        own = short_id(seen)
        sleep(2 * ARMING_S)
        seen.press(own, "Enter")
        door = Fluid(demo.operator_socket)
        asked = asked_for(door)
        assert asked is not None and asked.id.removeprefix("APR-").startswith(own)
        over = door.wait_approval(asked.id, timeout=RUN_LIMIT_S)
        assert over.state is ApprovalState.APPLIED, over.outcome
        assert [(one.verb, one.name) for one in over.decisions] == [("approve", "root")]
        seen.sees("applied")
        seen.press("q")
        seen.sees("? help")
        seen.press("q")
        seen.sees("every promise was kept", "remove it all:", "exit 0", limit_s=RUN_LIMIT_S)
    finally:
        seen.close()
