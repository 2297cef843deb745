"""A real OpenSSH server on the loopback that plays another host: an authorized key, its own host key."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.guests import make_client_key, make_host_key
from backend.places import SshDestination

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
PRIVSEP_FOLDER = Path("/run/sshd")
LOOPBACK = "127.0.0.1"


@dataclass
class HostSshd:
    """One sshd, its keys and the files that lead a client to it."""

    folder: Path
    port: int = 0
    host_key: str = ""  # the public line
    process: subprocess.Popen[bytes] | None = field(default=None)

    def make(self) -> None:
        """Write keys and configuration."""
        self.folder.mkdir(exist_ok=True)
        PRIVSEP_FOLDER.mkdir(mode=0o755, exist_ok=True)
        with socket.create_server((LOOPBACK, 0)) as probe:
            self.port = probe.getsockname()[1]
        private, self.host_key = make_host_key()
        client, public = make_client_key()
        for name, text in (
            ("host_key", private),
            ("key", client),
            ("authorized_keys", f"{public}\n"),
            ("known_hosts", f"[{LOOPBACK}]:{self.port} {self.host_key}\n"),
        ):
            file = self.folder / name
            file.touch(mode=0o600)
            file.write_text(text)
        # OpenSSH's options in a file have quotes for names with blanks, and % for tokens.
        quoted = str(self.folder).replace("\\", "\\\\").replace('"', '\\"')
        authorized = f"{quoted}/authorized_keys".replace("%", "%%")
        (self.folder / "sshd_config").write_text(
            f'ListenAddress {LOOPBACK}\nPort {self.port}\nHostKey "{quoted}/host_key"\n'
            f'AuthorizedKeysFile "{authorized}"\nStrictModes no\nPermitRootLogin prohibit-password\n'
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nUseDNS no\nPidFile none\n"
            f"LogLevel VERBOSE\nSetEnv HOME={PRIVSEP_FOLDER}\n"  # not the developer's .bashrc
        )

    def start(self) -> None:
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log, start_new_session=True
            )

    def pids(self) -> list[int]:
        """The listener and the sessions that it forked: they are its process group or have it as ancestor."""
        assert self.process is not None
        found, grown = {self.process.pid}, True
        while grown:
            children = {
                int(child)
                for pid in found
                for child in _read(Path(f"/proc/{pid}/task/{pid}/children")).split()
            }
            grown = not children <= found
            found |= children
        return sorted(found)

    def programs(self) -> set[str]:
        """What runs in it and under it, by name."""
        return {_read(Path(f"/proc/{pid}/comm")).strip() for pid in self.pids()}

    def signal(self, number: int) -> None:
        """To the listener and to every session."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it and whoever is logged in."""
        if self.process is None:
            return
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text()

    @property
    def destination(self) -> SshDestination:
        return SshDestination(LOOPBACK, "root", self.port, self.folder / "key", self.folder / "known_hosts")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


@pytest.fixture
def make_sshd(tmp_path: Path) -> Iterator[Callable[[str], HostSshd]]:
    """Starts such servers, each in a folder of the name given; ends them all."""
    assert os.geteuid() == 0, "these tests log in as root: run them as root"
    made: list[HostSshd] = []

    def make(name: str) -> HostSshd:
        server = HostSshd(tmp_path / name)
        made.append(server)
        server.make()
        server.start()
        return server

    yield make
    for server in made:
        server.stop()
