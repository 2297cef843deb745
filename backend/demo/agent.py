"""The demo agent: a real program on the SDK, run by a system user of its own, with no language model.

It holds nothing but the agent door. It forks a sandbox, does an administrator's afternoon of work in it, has
the playbook generated from what changed, asks for approval and blocks until a person has spoken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from backend.client import Fluid
from backend.demo.scenario import Scenario, draw
from backend.errors import BackendDown, DuplicateName, FluidError
from backend.models import Approval, Sandbox

WAIT_S = 3600
RETRY_S = 60


class DemoAgent:
    """One run. ``facts`` is what the demo's report takes from the agent's side."""

    def __init__(self, fluid: Fluid, scenario: Scenario) -> None:
        self._fluid = fluid
        self._plan = scenario
        self.facts: dict[str, object] = {"seed": scenario.seed, "server": scenario.server}

    def run(self, source: str) -> Approval:
        """From nothing to a person's answer."""
        box = self._create(source)
        self._snapshot(box, "before")
        pane = self._fluid.open_pane(box.id)
        self._install(box)
        self._fluid.send_keys(pane.pane_id, text=f"systemctl --no-pager status {self._plan.server}\n")
        self._configure(box)
        self._fluid.send_keys(pane.pane_id, text="ls -l --color=always " + self._plan.root + "\n")
        self._switch_on(box)
        self._fluid.send_keys(pane.pane_id, text="ss -ltn\n")
        self._snapshot(box, "after")
        return self._ask(box)

    def _create(self, source: str) -> Sandbox:
        say(f"I need a machine: forking {source}")
        started = time.monotonic()
        box = self._create_patiently(source)
        self.facts |= {
            "sandbox_id": box.id,
            "sandbox_ready_s": round(time.monotonic() - started, 2),
            "created_by": box.created_by,
        }
        say(f"{box.sandbox_name} at {box.ip_address}, made by {box.created_by}")
        return box

    def _create_patiently(self, source: str) -> Sandbox:
        """A create fails whole, so after the death of a backend it is simply asked for again."""
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                return self._fluid.create_sandbox(
                    source, agent_id="demo-agent", name=self._plan.sandbox_name
                ).noun
            except (BackendDown, DuplicateName) as error:
                if time.monotonic() > deadline:
                    raise
                say(f"{error.message}; asking again")
                time.sleep(1)

    def _snapshot(self, box: Sandbox, name: str) -> None:
        started = time.monotonic()
        self._fluid.snapshot(box.id, name)
        self.facts["snapshot_s"] = round(time.monotonic() - started, 2)
        say(f"snapshot {name!r}")

    def _do(self, box: Sandbox, command: str, timeout_s: int = 1200) -> None:
        say(f"$ {command}")
        done = self._fluid.run(box.id, command, timeout=timeout_s)
        if done.exit_code != 0:
            sys.stdout.write(done.stdout[-2000:] + done.stderr[-2000:])
            raise SystemExit(f"{command!r} ended with {done.exit_code}")

    def _install(self, box: Sandbox) -> None:
        packages = " ".join(self._plan.packages)
        self._do(
            box,
            "find /var/lib/apt/lists -name '*Packages*' -mtime -1 | grep -q . || apt-get -q update",
        )
        self._do(box, f"DEBIAN_FRONTEND=noninteractive apt-get -qq -y install {packages} openssl")

    def _configure(self, box: Sandbox) -> None:
        plan = self._plan
        self._do(
            box, f"useradd --system --home-dir {plan.root} --shell /usr/sbin/nologin --user-group {plan.user}"
        )
        self._do(box, f"install -d -m 0755 -o root -g root {plan.root} /etc/ssl/{plan.user}")
        for file in plan.files:
            say(f"writing {file.path}")
            self._fluid.write_file(box.id, file.path, file.content.encode(), mode=file.mode, owner=file.owner)
        self._do(
            box,
            f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {plan.key} -out {plan.certificate}"
            f" -days 365 -subj /CN={plan.target}",
        )

    def _switch_on(self, box: Sandbox) -> None:
        plan = self._plan
        self._do(box, f"sysctl -q -p {plan.sysctl_file}")
        for command in plan.enable:
            self._do(box, command)
        self._do(box, "systemctl daemon-reload")
        self._do(box, f"systemctl enable --now {plan.user}-report.timer")

    def _ask(self, box: Sandbox) -> Approval:
        playbook = self._fluid.generate_playbook(box.id, "before", "after")
        self.facts["playbook_tasks"] = len(playbook.tasks)
        say(f"the playbook has {len(playbook.tasks)} tasks; asking for approval")
        approval = self._fluid.request_approval(
            box.id,
            playbook=playbook.id,
            targets=[self._plan.target],
            reason=f"Serve {self._plan.user} over TLS with {self._plan.server}",
            from_snapshot="before",
            to_snapshot="after",
        )
        self.facts["approval_id"] = approval.id
        say(f"{approval.id} is {approval.state}: I wait for a person")
        approval = self._fluid.wait_approval(approval.id, timeout=WAIT_S)
        self.facts["answered_at"] = time.time()
        say(f"{approval.id} is {approval.state}. {approval.outcome}")
        return approval


def say(words: str) -> None:
    """A line on the agent's own terminal."""
    print(f"{time.strftime('%H:%M:%S')} agent  {words}", flush=True)


def main() -> int:
    """``python -m backend.demo.agent --socket … --source … --seed N --facts FILE``."""
    words = argparse.ArgumentParser()
    words.add_argument("--socket", required=True)
    words.add_argument("--source", required=True)
    words.add_argument("--seed", type=int, required=True)
    words.add_argument("--facts", type=Path, required=True)
    given = words.parse_args()
    agent = DemoAgent(Fluid(given.socket), draw(given.seed))
    try:
        approval = agent.run(given.source)
        agent.facts["state"] = approval.state
    except FluidError as error:
        say(f"{error.message} ({error.code}) {error.remedy}")
        agent.facts["error"] = error.message
        return error.exit_code
    finally:
        partial = given.facts.with_suffix(".part")
        partial.write_text(json.dumps(agent.facts))
        partial.rename(given.facts)
    return 0 if approval.state == "applied" else 1


if __name__ == "__main__":
    sys.exit(main())
