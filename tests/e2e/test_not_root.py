"""A backend that is not root: its user has no right but libvirt's socket, and the folders of XDG."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.images import BuiltImage, Images
from backend.models import LeftoverReport
from backend.paths import Paths
from tests.bench.stage import CHECKOUT
from tests.fix_hosts import USER, RealHost, real_hosts
from tests.leftovers import left_of
from tests.processes import argv_of

HOME = f"/home/{USER}"
STRANGER = "games"  # a user of every machine, who is in no group of libvirt's
VENV = Path(sys.prefix).resolve()
ENVIRONMENT = {
    "HOME": HOME,
    "USER": USER,
    "PATH": f"{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": str(CHECKOUT),
    "LANG": "C.UTF-8",
}
FLUID = (str(VENV / "bin/python"), "-P", "-m", "backend.cli")
COMMAND_S, READY_S, STOP_S, LOOK_S = 240.0, 180.0, 30.0, 0.5


@dataclass
class Installation:
    """One user's, on a machine of its own. ``fluid`` is what that user types there."""

    host: RealHost
    image: BuiltImage
    log: Path
    served: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def fluid(self, *words: str, user: str = USER, fails: bool = False) -> Any:
        """What the command says as JSON."""
        own = ENVIRONMENT if user == USER else ENVIRONMENT | {"HOME": "/nonexistent", "USER": user}
        done = subprocess.run(
            self.host.as_user([*FLUID, *words, "--json"], own, user),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_S,
        )
        assert bool(done.returncode) == fails, f"{words}: {done.stdout}{done.stderr}{self.last_words()}"
        return json.loads(done.stdout) if done.stdout else {}

    def serve(self) -> None:
        with self.log.open("ab") as log:
            argv = self.host.as_user([*FLUID, "serve"], ENVIRONMENT)
            self.served.append(
                subprocess.Popen(argv, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        self.until(self.answers)

    def answers(self) -> bool:
        assert self.served[-1].poll() is None, self.last_words()
        return "version" in self.fluid("status")

    def until(self, holds: Any) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                if holds():
                    return
            except AssertionError:
                if self.served[-1].poll() is not None:
                    raise
            assert time.monotonic() < deadline, self.last_words()
            time.sleep(LOOK_S)

    def backend(self) -> int:
        """Its pid on this machine; nsenter and setpriv have become it."""
        (pid,) = (pid for pid in self.host.processes() if b"backend.cli\0serve" in argv_of(pid))
        return pid

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def volumes(self) -> set[str]:
        """What lies in the pool, as root sees it."""
        return {path.name for path in (self.host.folder / "lib" / "images").glob("*/*")}

    def findings(self, name: str, user: str = USER, *, fails: bool = False) -> list[dict[str, str]]:
        return [one for one in self.fluid("doctor", user=user, fails=fails) if one["name"] == name]


@pytest.fixture(scope="module")
async def image() -> BuiltImage:
    return await Images(Paths.default().images).build(progress=lambda _: None)


@pytest.fixture(scope="module")
def mine(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Its images are those that root's backend made: read, and left as they are."""
    log = tmp_path_factory.mktemp("not-root") / "backend.log"
    with real_hosts("desk", shown=(CHECKOUT, VENV, image.disk.parent)) as (host,):
        host.exec(
            [
                "install",
                "-d",
                "-m",
                "0700",
                "-o",
                USER,
                "-g",
                USER,
                HOME,
                f"{HOME}/.config",
                f"{HOME}/.config/fluid",
            ]
        )
        config = yaml.safe_dump({"storage": {"images": str(image.disk.parent)}})
        host.exec(["sh", "-c", f'printf %s "$1" >{HOME}/.config/fluid/config.yaml', "sh", config])
        installation = Installation(host, image, log)
        try:
            installation.serve()
            yield installation
        finally:
            for process in installation.served:
                process.send_signal(signal.SIGTERM)
                process.wait(STOP_S)


def test_it_starts_with_no_right_but_libvirts_socket(mine: Installation) -> None:
    status = Path(f"/proc/{mine.backend()}/status").read_text()
    told = {line.partition(":")[0]: line.split()[1:] for line in status.splitlines()}
    assert "0" not in told["Uid"] and int(told["CapEff"][0], 16) == 0
    assert told["Groups"] == []
    there = mine.host.exec(
        ["find", HOME, "/etc/fluid", "/var/lib/fluid", "-name", "backend.pid"], check=False
    )
    assert there.decode().split() == [f"{HOME}/.local/state/fluid/fluid/backend.pid"]
    status_of = {one["name"]: one["status"] for one in mine.fluid("status")["components"]}
    assert set(status_of.values()) == {"ok"}, status_of
    (host,) = mine.fluid("hosts", "list")["hosts"]
    assert (host["status"], host["isolated"]) == ("up", True)


def test_the_doctor_says_what_a_user_lacks(mine: Installation) -> None:
    (fine,) = mine.findings("libvirt")[:1]
    assert fine["level"] == "ok"
    (lacks,) = mine.findings("libvirt", STRANGER, fails=True)
    assert (lacks["level"], lacks["message"]) == ("bad", "/run/libvirt/libvirt-sock does not let you in")
    assert lacks["remedy"] == f"usermod -aG {USER} {STRANGER}, as root; then log in again"


@pytest.mark.full
def test_a_sandbox_lives_and_ends_and_the_backend_may_die_meanwhile(mine: Installation) -> None:
    mine.until(lambda: mine.fluid("hosts", "list")["hosts"][0]["templates"])
    shared = mine.volumes()
    box = mine.fluid("sandboxes", "create", mine.image.name, "--name", "mine")["sandbox"]
    assert (box["created_by"], box["host_name"]) == ("fork", "local")
    print(f"a fork through the pool, ready after {box['ready_s']:.1f} s, emulated")
    assert run(mine, "mine", "id -u; hostname") == ["0", "mine"]
    run(mine, "mine", "echo old >/root/mark; sleep 9999 </dev/null >/dev/null 2>&1 & echo $! >/root/pid")
    mine.fluid("snapshots", "create", "mine", "before")
    run(mine, "mine", "echo new >/root/mark; useradd ada; sync")
    changes = mine.fluid("snapshots", "diff", "mine", "before")
    assert "/root/mark" in json.dumps(changes) and '"ada"' in json.dumps(changes)
    branch = mine.fluid("snapshots", "branch", "mine", "before", "--name", "beside")["sandbox"]
    mine.fluid("snapshots", "restore", "mine", "before", "--yes")
    for name in ("mine", "beside"):
        assert run(mine, name, "cat /root/mark; kill -0 $(cat /root/pid) && echo alive") == ["old", "alive"]

    os.kill(mine.backend(), signal.SIGKILL)
    mine.served[-1].wait(STOP_S)
    mine.serve()
    mine.until(lambda: run(mine, "mine", "hostname") == ["mine"])
    mine.fluid("sandboxes", "stop", "mine")
    mine.fluid("sandboxes", "start", "mine")
    assert run(mine, "mine", "cat /root/mark") == ["old"]
    for name in ("mine", branch["id"]):
        mine.fluid("sandboxes", "destroy", name, "--yes")
    assert left_of(LeftoverReport.model_validate(mine.fluid("gc", "--dry-run"))) == []
    assert mine.volumes() == shared


def run(mine: Installation, name: str, line: str) -> list[str]:
    done = mine.fluid("sandboxes", "exec", name, line)["command"]
    assert done["exit_code"] == 0, done
    return str(done["stdout"]).split()
