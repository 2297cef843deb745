"""Whole machines without a VM: this machine's files under an overlay, in namespaces of their own, behind a
real sshd. What root does there changes nothing here. No systemd runs there.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.config import HostAddress, TargetGroup, TargetsConfig
from tests.fix_sshd import LOOPBACK, PRIVSEP_FOLDER, SSHD, HostSshd

START_S = 30.0
PAUSE_S = 0.05
RUN_S = 60
# Everything ends with the last process there. The sshd's own folder is bound in: it may lie on another disk.
ENTER = """
set -e
own="$1/own" root="$1/own/root"
mkdir "$own"
mount -t tmpfs none "$own"
mkdir "$own/upper" "$own/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$own/upper,workdir=$own/work" none "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
for hidden in run tmp home root; do mount -t tmpfs none "$root/$hidden"; done
chmod 1777 "$root/tmp"
chmod 700 "$root/root"
mkdir -p "$root/$3" "$root/$1"
mount --bind "$1" "$root/$1"
hostname "$2"
exec chroot "$root" "$4" -D -e -f "$1/sshd_config"
"""


@dataclass
class Machine(HostSshd):
    """One of them, by its name."""

    name: str = "web-01"

    def start(self) -> None:
        """Return once its sshd listens."""
        script = ["sh", "-c", ENTER, "sh", self.folder, self.name, PRIVSEP_FOLDER, SSHD]
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--uts", "--propagation", "private", *script],
                stderr=log,
                start_new_session=True,
                env={"PATH": os.environ["PATH"]},
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((LOOPBACK, self.port), timeout=PAUSE_S).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
                assert time.monotonic() < deadline, f"the sshd of {self.name} does not listen"
                time.sleep(PAUSE_S)

    def run(self, command: str, *, stdin: bytes = b"") -> str:
        """What a command of root prints there."""
        known = self.folder / "known_hosts"
        options = ["-o", f"UserKnownHostsFile={known}", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        login = ["-i", str(self.folder / "key"), "-p", str(self.port), f"root@{LOOPBACK}"]
        argv = ["ssh", "-F", "none", *options, *login, command]
        done = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=RUN_S)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.decode()

    @property
    def group(self) -> TargetGroup:
        """As config.yaml would name it."""
        address = HostAddress(address=LOOPBACK, port=self.port)
        return TargetGroup(
            ssh_key_file=self.folder / "key",
            known_hosts=self.folder / "known_hosts",
            hosts={self.name: address},
        )


@contextmanager
def machine(folder: Path, name: str) -> Iterator[Machine]:
    """A fresh one."""
    found = Machine(folder / name, name=name)
    found.make()
    try:
        found.start()
        yield found
    finally:
        found.stop()


def targets_of(*machines: Machine) -> TargetsConfig:
    """Each in a group of its own."""
    return TargetsConfig(groups={one.name: one.group for one in machines})
