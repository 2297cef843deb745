"""A real OpenSSH server on the loopback plays the guest: our CA, our host key, a high port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.guests import CertificateAuthority, Guest, GuestCommands, GuestConnections, make_host_key

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
PRIVSEP_FOLDER = Path("/run/sshd")
READY_TIMEOUT_S = 20.0


@dataclass
class SshServer:
    """A running sshd and how to reach it."""

    folder: Path
    guest: Guest
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def start_sshd(folder: Path, ca: CertificateAuthority, name: str = "guest") -> SshServer:
    """An sshd that trusts ``ca`` for root, set up as our guests are."""
    private, public = make_host_key()
    PRIVSEP_FOLDER.mkdir(mode=0o755, exist_ok=True)
    key = folder / "host_key"
    key.touch(mode=0o600)
    key.write_text(private)
    (folder / "ca.pub").write_text(ca.public_key + "\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {key}\nTrustedUserCAKeys {folder}/ca.pub\n"
        "AuthorizedKeysFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nUseDNS no\nMaxSessions 100\nMaxStartups 100\nPidFile none\n"
        f"Subsystem sftp internal-sftp\nStrictModes no\nSetEnv HOME={folder}\n"  # not the developer's .bashrc
    )
    log = (folder / "sshd.log").open("wb")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log, start_new_session=True)
    guest = Guest(name=name, address="127.0.0.1", port=port, host_key_public=public)
    return SshServer(folder, guest, process)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory, ca: CertificateAuthority) -> Iterator[SshServer]:
    assert os.geteuid() == 0, "the guest of these tests is a root login: run them as root"
    server = start_sshd(tmp_path_factory.mktemp("sshd"), ca)
    yield server
    server.stop()


@pytest.fixture
def own_sshd(tmp_path: Path, ca: CertificateAuthority) -> Iterator[SshServer]:
    """A guest of the test's own, for tests that kill it."""
    server = start_sshd(tmp_path, ca, "own")
    yield server
    server.stop()


@pytest.fixture
async def connections(ca: CertificateAuthority) -> AsyncIterator[GuestConnections]:
    kept = GuestConnections(ca)
    yield kept
    await kept.close()


@pytest.fixture
async def guest(sshd: SshServer, connections: GuestConnections) -> Guest:
    await connections.ready(sshd.guest, timeout_s=READY_TIMEOUT_S)
    return sshd.guest


@pytest.fixture
async def commands(connections: GuestConnections) -> AsyncIterator[GuestCommands]:
    runner = GuestCommands(connections)
    yield runner
    await runner.close()
