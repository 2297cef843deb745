"""Real hosts on one machine: each has a network, mounts, users, processes, libvirtd and sshd of its own.

Nothing of the machine is changed but for one network card a host, and a host has no route but to us. All of a
host ends with its first process, and that one ends with ours, however we end.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import libvirt

from backend.fleet.addresses import free_network, taken_networks
from backend.guests import make_client_key, make_host_key
from backend.hypervisor.private import QEMU_CONF, VIRTLOGD_CONF, qemu_user
from backend.places import SshDestination

INSIDE = Path(__file__).with_name("_inside_host.py")
POOL = IPv4Network("10.79.0.0/16")
USER = "fluid-t-host"  # on the hosts only; not root, and libvirt's socket is its group's
LIBVIRT_STATE = Path("/var/lib/libvirt")
START_S = 30.0
STOP_S = 15.0
PAUSE_S = 0.05
SSH_PORT = 22
DAEMONS = ("virtlogd", "libvirtd")
FROZEN = ("sshd", "virtlogd", "libvirtd")
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class RealHost:
    """One host. ``folder`` holds what is its own as this machine sees it; ``lib`` is /var/lib/libvirt."""

    name: str
    folder: Path
    address: str
    key: Path
    known_hosts: Path
    port: int = SSH_PORT
    user: str = USER
    shown: Sequence[Path] = ()
    card: str = field(default_factory=lambda: f"flt{secrets.token_hex(3)}")
    _first: subprocess.Popen[str] | None = None
    _pid: int = 0

    @property
    def destination(self) -> SshDestination:
        return SshDestination(self.address, self.user, self.port, self.key, self.known_hosts)

    @property
    def settings(self) -> dict[str, str | int]:
        """Its entry below ``hosts`` of config.yaml."""
        return {
            "name": self.name,
            "address": self.address,
            "user": self.user,
            "port": self.port,
            "key": str(self.key),
            "known_hosts": str(self.known_hosts),
        }

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    @property
    def root_uri(self) -> str:
        """Its libvirt by its socket as it lies on this machine: for assertions, not for the product."""
        return f"qemu:///system?socket={self.folder / 'run' / 'libvirt-sock'}"

    def exec(self, argv: Sequence[str], *, check: bool = True) -> bytes:
        """What a program prints that runs there as root."""
        done = subprocess.run(self._entered(argv), cwd="/", capture_output=True, check=False, timeout=START_S)
        if check and done.returncode:
            raise AssertionError(f"{argv} on {self.name} ended with {done.returncode}: {done.stderr!r}")
        return done.stdout

    def as_user(self, argv: Sequence[str], environment: Mapping[str, str], name: str = USER) -> list[str]:
        """What runs ``argv`` there as that user with its own group alone, and with nothing of our
        environment."""
        login = ["setpriv", "--reuid", name, "--regid", name, "--clear-groups", "--"]
        return self._entered(
            [*login, "env", "-i", *(f"{key}={environment[key]}" for key in environment), *argv]
        )

    def start_libvirtd(self, *options: str) -> None:
        """Start what does not run of virtlogd and libvirtd; return when libvirt answers. With ``--listen`` it
        answers on TCP too."""
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised, not printed as well
        running = set(self.processes().values())
        for name in DAEMONS:
            if name not in running:
                program = shutil.which(name) or f"/usr/sbin/{name}"
                pid_file, config = f"/run/libvirt/{name}.pid", f"/etc/libvirt/{name}.conf"
                more = options if name == "libvirtd" else ()
                self.exec([program, "--daemon", "--pid-file", pid_file, "--config", config, *more])
        deadline = time.monotonic() + START_S
        while True:
            try:
                libvirt.open(self.root_uri).close()
                return
            except libvirt.libvirtError:
                assert time.monotonic() < deadline, f"the libvirtd of {self.name} does not answer"
                time.sleep(PAUSE_S)

    def stop_libvirtd(self) -> None:
        """End libvirtd; its machines run on."""
        self._end(signal.SIGTERM, "libvirtd")

    def start_sshd(self) -> None:
        self.exec([SSHD, "-f", "/etc/ssh/sshd_config", "-E", "/var/log/libvirt/sshd.log"])

    def stop_sshd(self) -> None:
        """End sshd and every login."""
        self._end(signal.SIGKILL, "sshd")

    def freeze(self) -> None:
        """The host hangs: whoever calls is answered by its kernel and by nothing else."""
        self._signal(signal.SIGSTOP, FROZEN)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT, FROZEN)

    def cut(self) -> None:
        """The cable is out. At its end: our route stays, so that nothing for it goes elsewhere."""
        self.exec(["ip", "link", "set", "eth0", "down"])

    def mend(self) -> None:
        """The cable is in."""
        self.exec(["ip", "link", "set", "eth0", "up"])

    def processes(self) -> dict[int, str]:
        """The names of what runs on the host, by their pid on this machine."""
        mine = Path(f"/proc/{self._pid}/ns/pid").readlink()
        found: dict[int, str] = {}
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and (folder / "ns/pid").readlink() == mine:
                    found[int(folder.name)] = (folder / "comm").read_text().strip()
        return found

    # --- its life --------------------------------------------------------------------------------------

    def start(self, network: IPv4Network) -> None:
        """Make the namespaces and start sshd and libvirtd."""
        self._write()
        self._first = subprocess.Popen(
            [
                *("unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-IS", str(INSIDE), str(self.folder), self.name),
                *map(str, self.shown),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,
        )
        assert self._first.stdout is not None
        assert self._first.stdout.readline() == "ready\n", f"{self.name} does not start"
        self._pid = int(Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text())
        ours, theirs = (network[number] for number in (1, 2))
        _ip("link", "add", self.card, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid))
        _ip("address", "add", f"{ours}/{network.prefixlen}", "dev", self.card)
        _ip("link", "set", self.card, "up")
        self.exec(["ip", "address", "add", f"{theirs}/{network.prefixlen}", "dev", "eth0"])
        self.exec(["ip", "link", "set", "eth0", "up"])
        self.start_sshd()
        self.start_libvirtd()

    def stop(self) -> None:
        """End everything of it, its machines too."""
        subprocess.run(["ip", "link", "delete", self.card], check=False, stderr=subprocess.DEVNULL)
        if self._first is not None and self._first.stdin is not None:
            self._first.stdin.close()
            try:
                self._first.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._first.kill()
                self._first.wait()
            self._first = None

    def _write(self) -> None:
        """The files that are its own. All of /etc: a file that is laid over another alone goes with that one
        when it is replaced on this machine, as ``useradd`` replaces /etc/passwd."""
        for name in ("run", "lib", "lib/images", "lib/dnsmasq", "cache", "log", "cgroup"):
            (self.folder / name).mkdir(parents=True)
        subprocess.run(["cp", "--archive", "/etc", self.etc], check=True)
        for name in ("fluid", "libvirt", "ssh"):
            shutil.rmtree(self.etc / name, ignore_errors=True)
            (self.etc / name).mkdir()
        (self.etc / "machine-id").unlink(missing_ok=True)  # some machines have a link there
        uid = _unused_id()
        for name, line in (
            ("passwd", f"{USER}:x:{uid}:{uid}::/:/bin/sh\n"),
            ("group", f"{USER}:x:{uid}:\n"),
            ("shadow", f"{USER}:*:19000:0:99999:7:::\n"),
        ):
            with (self.etc / name).open("a") as file:
                file.write(line)
        self._file("etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        self._file("no-kvm", "", 0)
        self._file("etc/libvirt/qemu.conf", f'{QEMU_CONF}user = "{qemu_user(LIBVIRT_STATE)}"\n')
        self._file("etc/libvirt/virtlogd.conf", VIRTLOGD_CONF)
        self._file(
            "etc/libvirt/libvirtd.conf",
            f'unix_sock_group = "{USER}"\nunix_sock_rw_perms = "0770"\nauth_unix_rw = "none"\nlog_level = 3\n'
            f'log_outputs = "3:file:/var/log/libvirt/libvirtd.log"\nhost_uuid = "{uuid.uuid4()}"\n'
            f'listen_tls = 0\nlisten_tcp = 1\nauth_tcp = "none"\nlisten_addr = "{self.address}"\n',
        )
        private, public = make_host_key()
        self._file("etc/ssh/host_key", private, 0o600)
        self._file("etc/ssh/authorized_keys", self.key.with_suffix(".pub").read_text())
        self._file(
            "etc/ssh/sshd_config",
            f"ListenAddress {self.address}\nPort {self.port}\nHostKey /etc/ssh/host_key\nPidFile none\n"
            f"AllowUsers {USER}\nAuthorizedKeysFile /etc/ssh/authorized_keys\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nUsePAM no\nUseDNS no\nLogLevel VERBOSE\n",
        )
        with self.known_hosts.open("a") as known:
            known.write(f"{self.address} {public}\n")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def _file(self, name: str, text: str, mode: int = 0o644) -> None:
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_text(text)
        file.chmod(mode)

    def _entered(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self._pid), "-m", "-u", "-n", "-p", "--", *argv]

    def _signal(self, number: int, names: Sequence[str]) -> None:
        for pid, name in self.processes().items():
            if name.startswith(tuple(names)):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _end(self, number: int, name: str) -> None:
        handles = [os.pidfd_open(pid) for pid, found in self.processes().items() if found.startswith(name)]
        try:
            for handle in handles:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            for handle in handles:
                assert select.select([handle], [], [], STOP_S)[0], f"{name} of {self.name} does not end"
        finally:
            for handle in handles:
                os.close(handle)


@contextmanager
def real_hosts(*names: str, shown: Sequence[Path] = ()) -> Iterator[list[RealHost]]:
    """Hosts of these names, with sshd and libvirtd; all of them end, also after a failure. ``shown``: folders
    of this machine that they have, too."""
    assert os.geteuid() == 0, "only root makes hosts"
    folder = Path(tempfile.mkdtemp(prefix="fluid-hosts-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o711)
        private, public = make_client_key()
        for file, text in (("key", private), ("key.pub", f"{public}\n"), ("known_hosts", "")):
            (folder / file).touch(mode=0o600)
            (folder / file).write_text(text)
        made: list[RealHost] = []
        for name in names:
            with ThreadPoolExecutor(1) as thread:  # a test's own loop may run in this one
                taken = thread.submit(asyncio.run, taken_networks()).result()
            network = IPv4Network(free_network(taken, POOL))
            host = RealHost(name, folder / name, str(network[2]), folder / "key", folder / "known_hosts")
            host.shown = shown
            stack.callback(host.stop)
            host.start(network)
            made.append(host)
        yield made


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _unused_id() -> int:
    """The highest number below the system's own for users that neither a user nor a group has."""
    taken = {each.pw_uid for each in pwd.getpwall()} | {each.gr_gid for each in grp.getgrall()}
    return next(number for number in range(64_999, 60_000, -1) if number not in taken)
