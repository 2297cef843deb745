"""The demo's home: one folder, one config, one backend of its own, apart from any installation of Fluid."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import yaml

from backend.client import Fluid
from backend.demo import processes, users
from backend.errors import BackendDown, FluidError
from backend.paths import Paths

HOME = Path("/var/lib") / users.DEMO
BACKEND_TIMEOUT_S = 90
POLL_S = 0.2


class DemoHome:
    """Where everything of the demo is. Images stay in the shared cache."""

    def __init__(self) -> None:
        self.folder = HOME
        os.environ["FLUID_HOME"] = str(self.folder)
        os.environ.setdefault("FLUID_CACHE", "/var/cache/fluid")
        self.paths = Paths.under(self.folder)
        self.production = self.folder / "production"
        self.agent = self.folder / "agent"
        self.code = self.agent / "lib"
        self.pid_file = self.folder / "backend.pid"

    def prepare(self) -> None:
        """Folders, and a copy of the SDK that the agent's user can read wherever the checkout is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        self.paths.make()
        self.agent.mkdir(exist_ok=True)
        package = Path(__file__).parents[1]
        shutil.rmtree(self.code, ignore_errors=True)
        shutil.copytree(
            package, self.code / "backend", ignore=shutil.ignore_patterns("__pycache__", "payload", "docs")
        )
        shutil.chown(self.agent, users.AGENT, users.AGENT)
        self.agent.chmod(0o700)
        for path in [self.code, *self.code.rglob("*")]:
            shutil.chown(path, users.AGENT, users.AGENT)

    def write_config(self, address: str) -> None:
        """The demo's ``config.yaml``: one operator (root), one agent, one target."""
        config = {
            "server": {"socket_group_agents": users.AGENT},
            "embedded": {"run_as": users.POSTGRES},
            "operators": ["root"],
            "agents": [users.AGENT],
            "ansible": {"run_as": users.RUNNER},
            "stock": {"per_source": 1, "busy_percent": 100},  # also where all is emulated on few processors
            "targets": {
                "groups": {
                    "production": {
                        "ssh_key_file": str(self.production / "id_production"),
                        "known_hosts": str(self.production / "known_hosts"),
                        "agents": [users.AGENT],
                        "hosts": {"web-01": {"address": address}},
                    }
                }
            },
        }
        self.paths.config_file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.paths.config_file.chmod(0o640)

    # --- the backend ----------------------------------------------------------------------------------

    def start_backend(self) -> Fluid:
        """Start it, or use the one that runs; returns once it answers.

        Raises:
            BackendDown: with the last words of its log.
        """
        log = self.paths.log / "backend.log"
        if not processes.running(self.pid_file):
            processes.start(
                [sys.executable, "-m", "backend.cli", "serve"],
                pid_file=self.pid_file,
                log=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        fluid = Fluid(self.paths.operator_socket)
        deadline = time.monotonic() + BACKEND_TIMEOUT_S
        while True:
            try:
                fluid.health()
                return fluid
            except FluidError as error:
                if not processes.running(self.pid_file) or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace").splitlines()[-3:]
                    raise BackendDown(
                        f"the demo's backend did not start: {' / '.join(tail)}", remedy=f"read {log}"
                    ) from error
            time.sleep(POLL_S)

    def stop_backend(self, *, hard: bool = False) -> bool:
        """End it; sandboxes, tmux and a running apply live on."""
        return processes.stop(self.pid_file, hard=hard)

    # --- the agent ------------------------------------------------------------------------------------

    @property
    def facts_file(self) -> Path:
        return self.agent / "facts.json"

    @property
    def agent_log(self) -> Path:
        return self.folder / "agent.log"

    def start_agent(self, source: str, seed: int) -> None:
        """The demo agent, as its own user, on the agent door."""
        processes.stop(self.folder / "agent.pid")
        self.facts_file.unlink(missing_ok=True)
        self.agent_log.unlink(missing_ok=True)
        processes.start(
            [
                *(sys.executable, "-m", "backend.demo.agent"),
                *("--socket", str(self.paths.agent_socket)),
                *("--source", source, "--seed", str(seed), "--facts", str(self.facts_file)),
            ],
            pid_file=self.folder / "agent.pid",
            log=self.agent_log,
            env={
                "PYTHONPATH": str(self.code),
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.agent),
                "LANG": "C.UTF-8",
            },
            user=users.AGENT,
        )

    def agent_running(self) -> bool:
        return processes.running(self.folder / "agent.pid") is not None

    def stop_agent(self) -> None:
        processes.stop(self.folder / "agent.pid")
