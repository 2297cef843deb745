"""A real sshd on the loopback whose machine is this one: playbooks for it write below one scratch folder."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.ansible import Runner, SshKey, TargetHost
from backend.ansible._folder import remove

SSHD = "/usr/sbin/sshd"
SYSTEM_PYTHON = "/usr/bin/python3"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A run that never ends fails its test after ``TEST_S`` of its module, not the whole session. (No fixture
    can see to that: it is a task of its own.)"""
    for item in items:
        here = item.path.parent == Path(__file__).parent
        if here and isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _limited(item.obj, item.module.TEST_S)


def _limited(test: Callable[..., Awaitable[None]], limit_s: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: object, **more: object) -> None:
        async with asyncio.timeout(limit_s):
            await test(*args, **more)

    return run


@dataclass(frozen=True)
class Sshd:
    folder: Path
    port: int
    host_key: str
    key: SshKey

    def target(self, name: str = "web-01", **changes: object) -> TargetHost:
        values: dict[str, object] = {
            "name": name,
            "address": "127.0.0.1",
            "port": self.port,
            "host_key": self.host_key,
            "user": "root",
        }
        return TargetHost(**{**values, **changes})  # type: ignore[arg-type]

    def certified(self) -> SshKey:
        """A key that only its certificate lets in."""
        keygen(self.folder / "other")
        subprocess.run(
            ["ssh-keygen", "-q", "-s", "ca", "-I", "test", "-n", "root", "-V", "-1m:+10m", "other.pub"],
            cwd=self.folder,
            check=True,
        )
        return SshKey((self.folder / "other").read_bytes(), (self.folder / "other-cert.pub").read_bytes())


def keygen(path: Path) -> str:
    """A new ed25519 key at ``path``; answers ``type base64`` of its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder that other users may enter (pytest's own is closed to them)."""
    folder = Path(tempfile.mkdtemp(prefix="fluid-run-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sshd(scratch: Path) -> Iterator[Sshd]:
    folder = scratch / "sshd"
    folder.mkdir()
    host_key, _, _ = keygen(folder / "host"), keygen(folder / "user"), keygen(folder / "ca")
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    options = {
        "Port": str(port),
        "ListenAddress": "127.0.0.1",
        "HostKey": str(folder / "host"),
        "AuthorizedKeysFile": str(folder / "authorized_keys"),
        "TrustedUserCAKeys": str(folder / "ca.pub"),
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "listening" in line:
            break
    yield Sshd(folder, port, host_key, SshKey((folder / "user").read_bytes()))
    process.terminate()
    process.wait()
    process.stderr.close()


def _others_may_run(program: str) -> bool:
    real = Path(program).resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (real, *real.parents))


@pytest.fixture(scope="session")
def python(scratch: Path) -> str:
    """An interpreter that the runner's user can start: ours, or the system's with our packages."""
    if _others_may_run(sys.executable):
        return sys.executable
    return venv(scratch / "venv")


def venv(folder: Path, *, first: str = "") -> str:
    """A new interpreter with our packages, which runs ``first`` before anything else."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\nimport first_of_all\n")
    (site / "first_of_all.py").write_text(first)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def run_as() -> str | None:
    return "nobody" if os.geteuid() == 0 else None


@pytest.fixture
def runs(scratch: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="runs-"))
    folder.chmod(0o711)
    yield folder
    for run in folder.iterdir():
        remove(run)
    folder.rmdir()


@pytest.fixture
def machine(scratch: Path) -> Iterator[Path]:
    """The part of this machine that playbooks may write to."""
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="machine-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def runner(runs: Path, run_as: str | None, python: str) -> Runner:
    return Runner(runs, run_as=run_as, python=python)
