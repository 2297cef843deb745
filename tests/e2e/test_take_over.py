"""An operator types into an agent's terminal in a real guest: by the command line, by the console."""

from __future__ import annotations

import pwd
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from backend.client import Fluid
from tests.bench.terminal import Terminal
from tests.fix_demo import Demo, until_parked
from tests.fix_doors import call_as

pytestmark = pytest.mark.full

NAME = "taken-over"
LIMIT_S = 60.0
LEAVE = b"\x1d"


class Agent:
    """The demo's agent, from a process of its own uid."""

    def __init__(self, demo: Demo) -> None:
        self._door = demo.agent_socket
        self._user = pwd.getpwnam(f"{demo.env['FLUID_DEMO_NAME']}-agent")

    def call(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        user = self._user
        return call_as(user.pw_uid, self._door, method, path, [user.pw_gid], body or None)


@pytest.fixture(scope="module")
def agent(operator: Fluid, demo: Demo) -> Agent:
    return Agent(demo)


@pytest.fixture(scope="module")
def sandbox_id(operator: Fluid, agent: Agent) -> Iterator[str]:
    until_parked(operator)
    source = operator.sources()[0].name
    made = {"source_vm_name": source, "agent_id": "e2e", "vm_name": NAME}
    status, told = agent.call("POST", "/v1/sandboxes", **made, auto_start=True, wait_for_ip=True)
    assert status == 201, told
    yield told["sandbox"]["id"]
    if any(row.id == told["sandbox"]["id"] for row in operator.sandboxes()):
        operator.destroy(told["sandbox"]["id"])


@pytest.fixture(scope="module")
def pane_id(agent: Agent, sandbox_id: str) -> str:
    status, told = agent.call("POST", "/v1/tmux/panes/create", sandbox_id=sandbox_id)
    assert status == 201, told
    return str(told["pane_id"])


def fluid(demo: Demo, *words: str) -> Terminal:
    environment = {**demo.env, "FLUID_HOME": str(demo.home)}
    return Terminal([sys.executable, "-m", "backend.cli", *words], environment, 100, 30)


def ran(agent: Agent, sandbox_id: str, command: str) -> str:
    status, told = agent.call("POST", f"/v1/sandboxes/{sandbox_id}/run", command=command)
    assert status == 200, told
    return str(told["command"]["stdout"])


def test_the_command_line_types_as_root_while_the_agent_waits(
    demo: Demo, operator: Fluid, agent: Agent, sandbox_id: str, pane_id: str
) -> None:
    with fluid(demo, "sandboxes", "attach", NAME) as seen:
        seen.until(b"its agent waits", LIMIT_S)
        seen.press(b"echo by-hand-$((40+2)) | tee /root/by-hand\r")
        seen.until(b"by-hand-42", LIMIT_S)
        seen.press(b"echo once more >> /root/by-hand; echo d$((40+1))ne\r")
        seen.until(b"d41ne", LIMIT_S)
        seen.press(b"\x1b[A\r")  # the guest's own history
        seen.until(b"d41ne", LIMIT_S)
        status, told = agent.call(
            "POST", "/v1/tmux/panes/send-keys", pane_id=pane_id, text="rm /root/by-hand\n"
        )
        assert (status, told["error_code"], told["details"]["by"]) == (409, "pane_taken", "root")
        assert ran(agent, sandbox_id, "cat /root/by-hand").splitlines()[0] == "by-hand-42", "commands go on"
        seen.press(LEAVE)
        seen.until(b"its agent's again", LIMIT_S)
    assert ran(agent, sandbox_id, "cat /root/by-hand").count("once more") == 2
    status, _ = agent.call("POST", "/v1/tmux/panes/send-keys", pane_id=pane_id, text="true\n")
    assert status == 200
    rows = operator.audit(sandbox_id=sandbox_id, action="pane.hand_back")
    assert rows[0].actor_name == "root" and rows[0].data["typed_bytes"] > 80
    assert operator.verify_audit()["ok"]


def test_the_console_types_and_is_told_when_the_sandbox_is_destroyed(
    demo: Demo, operator: Fluid, agent: Agent, sandbox_id: str, pane_id: str
) -> None:
    with fluid(demo) as seen:
        seen.until(NAME.encode(), LIMIT_S)
        seen.press(b":")
        seen.settle(1.0)
        seen.press(f"sandbox {NAME} terminal\r".encode())
        seen.until(b"live", LIMIT_S)
        seen.press(b"i")
        seen.until(b"YOU TYPE", LIMIT_S)
        seen.press(b"echo console-$((40+2))\r")
        seen.until(b"console-42", LIMIT_S)
        seen.press(LEAVE)
        seen.until(b"agent's again", LIMIT_S)
        seen.press(b"i")
        seen.until(b"YOU TYPE", LIMIT_S)
        operator.destroy(sandbox_id)
        seen.until(b"destroyed", LIMIT_S)
    rows = operator.audit(sandbox_id=sandbox_id, action="pane.hand_back")
    assert [row.data["why"] for row in rows[:2]] == ["destroyed", "handed_back"]
