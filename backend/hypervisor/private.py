"""A libvirtd of our own where none runs: no systemd, no D-Bus, nothing of the machine's libvirt is touched.

libvirtd and virtlogd live in a mount namespace where libvirt's folders are ours. Domains outlive both: QEMU
is its own process, and the next libvirtd finds it through the same folders.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import libvirt

from backend.errors import HypervisorDown, MissingProgram

DEFAULT_SOCKET = Path("/run/libvirt/libvirt-sock")
SYSTEM_URI = "qemu:///system"
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 10
PROBE_TIMEOUT_S = 10
ANSWER_PAUSE_S = 0.05  # libvirtd without systemd announces its readiness by its socket alone
ENTER = Path(__file__).with_name("_enter.py")
# What the daemons see in place of the machine's own folders.
BOUND = {
    "run": Path("/run/libvirt"),
    "lib": Path("/var/lib/libvirt"),
    "cache": Path("/var/cache/libvirt"),
    "etc": Path("/etc/libvirt"),
    "log": Path("/var/log/libvirt"),
}
KVM = Path("/dev/kvm")
QEMU_USERS = ("libvirt-qemu", "qemu")
# No namespaces of QEMU's own: libvirt would fail to move the mount that hides /dev/kvm.
QEMU_CONF = """\
security_driver = "none"
namespaces = []
dynamic_ownership = 1
remember_owner = 0
save_image_format = "raw"
snapshot_image_format = "raw"
"""
LIBVIRTD_CONF = (
    'auth_unix_rw = "none"\nunix_sock_group = "root"\nunix_sock_rw_perms = "0700"\nlog_level = 4\n'
)
VIRTLOGD_CONF = "max_size = 1048576\nmax_backups = 1\n"

_asked: dict[str, Future[bool]] = {}  # by URI; libvirt.open has no limit of its own


class PrivateLibvirt:
    """One private libvirtd. ``folder`` holds its state, logs, sockets and pid files."""

    def __init__(self, folder: Path, hide_kvm: bool) -> None:
        self.folder = folder
        self.hide_kvm = hide_kvm

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.folder / 'run' / 'libvirt-sock'}"

    async def start(self) -> str:
        """Start both daemons, or adopt those that run, and return the URI once libvirt answers."""
        if self._pid("libvirtd") and await _answers(self.uri, START_TIMEOUT_S):
            return self.uri
        if os.geteuid() != 0:
            raise HypervisorDown(
                "no libvirtd answers, and only root can start one",
                remedy="start the machine's libvirtd, or run as root",
            )
        programs = {name: _find(name) for name in ("virtlogd", "libvirtd")}
        await asyncio.to_thread(self._prepare)
        for name, program in programs.items():
            if not self._pid(name):
                await self._launch(name, program)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await _answers(self.uri, START_TIMEOUT_S):  # noqa: ASYNC110 - nothing tells us
                    await asyncio.sleep(ANSWER_PAUSE_S)
        except TimeoutError:
            raise HypervisorDown(
                f"the private libvirtd does not answer within {START_TIMEOUT_S} s",
                remedy=f"read {self.folder / 'log' / 'libvirtd.log'}",
            ) from None
        return self.uri

    async def stop(self) -> None:
        """End both daemons; domains go on running. Nothing happens when none runs."""
        for name in ("libvirtd", "virtlogd"):
            if pid := self._pid(name):
                await _end(pid)
            self._pid_file(name).unlink(missing_ok=True)

    def pids(self) -> dict[str, int]:
        """The daemons that run, by name."""
        found = {name: self._pid(name) for name in ("virtlogd", "libvirtd")}
        return {name: pid for name, pid in found.items() if pid}

    def _pid_file(self, name: str) -> Path:
        return self.folder / f"{name}.pid"

    def _pid(self, name: str) -> int | None:
        """The daemon's pid, unless the file is stale and the number now means another program."""
        try:
            pid = int(self._pid_file(name).read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self._pid_file(name)) in words else None

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)
        for part, target in BOUND.items():
            (self.folder / part).mkdir(mode=0o755, exist_ok=True)
            target.mkdir(parents=True, exist_ok=True)
        # The package makes it; libvirtd writes a list of MACs there even where no dnsmasq runs.
        (self.folder / "lib" / "dnsmasq").mkdir(exist_ok=True)
        etc = self.folder / "etc"
        (etc / "qemu.conf").write_text(f'{QEMU_CONF}user = "{qemu_user(self.folder)}"\n')
        (etc / "libvirtd.conf").write_text(LIBVIRTD_CONF)
        (etc / "virtlogd.conf").write_text(VIRTLOGD_CONF)
        hidden = self.folder / "no-kvm"
        hidden.touch()
        hidden.chmod(0)

    async def _launch(self, name: str, program: str) -> None:
        bindings = [f"{self.folder / part}={target}" for part, target in BOUND.items()]
        if self.hide_kvm and await asyncio.to_thread(KVM.exists):
            bindings.append(f"ro:{self.folder / 'no-kvm'}={KVM}")
        config = self.folder / "etc" / f"{name}.conf"
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-IS", str(ENTER), *bindings, "--"),
                *(program, "--daemon", "--pid-file", str(self._pid_file(name)), "--config", str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                status = await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            status = await process.wait()
        if status:
            raise HypervisorDown(
                f"{name} ended with status {status}", remedy=f"read {self.folder / name}.log"
            )


def holds_machines(folder: Path) -> bool:
    """Whether the private libvirtd of that folder has a machine that is defined, running or not."""
    return any((folder / "etc" / "qemu").glob("*.xml"))


def _find(name: str) -> str:
    """Where a daemon is; ``/usr/sbin`` is not on everybody's path."""
    program = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise MissingProgram(f"{name} is not installed", remedy="apt-get install libvirt-daemon-system")
    return program


def qemu_user(folder: Path) -> str:
    """Who guests run as: libvirt's own unprivileged user where there is one and it can reach ``folder``."""
    reachable = all(parent.stat().st_mode & stat.S_IXOTH for parent in folder.resolve().parents)
    for name in QEMU_USERS:
        with contextlib.suppress(KeyError):
            if reachable and pwd.getpwnam(name):
                return name
    return "root"


async def system_libvirt() -> str | None:
    """The URI of the machine's own libvirtd, None where none runs. Raises HypervisorDown: it is silent."""
    if await asyncio.to_thread(DEFAULT_SOCKET.exists) and await _answers(SYSTEM_URI, PROBE_TIMEOUT_S):
        return SYSTEM_URI
    return None


def remedy_for_users(socket: Path = DEFAULT_SOCKET) -> str:
    """What lets a user who is not root speak with the machine's libvirtd; empty: nothing is in the way."""
    if not socket.exists():
        return "apt-get install libvirt-daemon-system, as root; it starts libvirtd"
    if os.access(socket, os.W_OK):
        return ""
    try:
        group = socket.group()
    except KeyError:
        group = "libvirt"
    return f"usermod -aG {group} {pwd.getpwuid(os.geteuid()).pw_name}, as root; then log in again"


async def _answers(uri: str, limit_s: float) -> bool:
    """Whether a libvirtd answers there. One that is silent is asked once: the next caller waits for the same
    answer, and nothing else waits for the thread.

    Raises:
        HypervisorDown: it was silent for ``limit_s`` seconds.
    """
    asked = _asked.get(uri)
    if asked is None or asked.done():
        asked = _asked[uri] = Future()
        asked.set_running_or_notify_cancel()  # who leaves does not cancel it for the others
        threading.Thread(target=_tell, args=(uri, asked), name=f"ask {uri}", daemon=True).start()
    try:
        async with asyncio.timeout(limit_s):
            return await asyncio.wrap_future(asked)
    except TimeoutError:
        raise HypervisorDown(
            f"{uri} does not answer within {limit_s:g} s",
            remedy="see whether libvirtd hangs, and start it again",
        ) from None


def _tell(uri: str, asked: Future[bool]) -> None:
    try:
        asked.set_result(_ask(uri))
    except BaseException as error:
        asked.set_exception(error)


def _ask(uri: str) -> bool:
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError:
        return False
    try:
        return bool(connection.getLibVersion())
    except libvirt.libvirtError:
        return False
    finally:
        connection.close()


async def _end(pid: int) -> None:
    """SIGTERM, and SIGKILL when it does not end; the kernel tells us when (pidfd_open(2))."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, number)
                if await _readable(descriptor, STOP_TIMEOUT_S):
                    return
        finally:
            os.close(descriptor)


async def _readable(descriptor: int, limit_s: float) -> bool:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(limit_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True
