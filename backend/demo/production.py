"""``web-01``: a virtual machine that plays production, with its own network, its own key and its own drift.

Fluid reaches it like any production machine: by an inventory line, a key file and a known host key. It starts
drifted from what the agent will make, so that the dry run has something to call out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import ssl
import sys
import time
from pathlib import Path

from backend.demo import processes
from backend.demo.scenario import Scenario
from backend.demo.users import DEMO
from backend.errors import EvidenceFailed
from backend.fleet import guest_image
from backend.fleet.addresses import free_network, taken_networks
from backend.guests import CertificateAuthority, Guest, GuestCommands, GuestConnections, GuestFiles
from backend.hypervisor import Hypervisor, NetworkSpec, make_identity
from backend.images import BuiltImage

NAME = "web-01"
DOMAIN = f"{DEMO}-web-01"
NETWORK = f"{DEMO}-production"
BRIDGE = f"{DEMO[:13]}-p"
POOL = ipaddress.IPv4Network("10.232.0.0/16")
READY_TIMEOUT_S = 180
STEP_TIMEOUT_S = 60
PAGE_TIMEOUT_S = 10
CPU = 2
MEMORY_MB = 1024


class Production:
    """Makes and removes ``web-01``. ``folder`` holds its disk, its key and its known_hosts line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def key_file(self) -> Path:
        return self._folder / "id_production"

    @property
    def known_hosts(self) -> Path:
        return self._folder / "known_hosts"

    async def plan(self) -> str:
        """Choose network, address and login key once, before the machine is there, so that the backend's
        config is complete from its first start. Returns the address."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._folder / "network").exists():
            (self._folder / "network").write_text(free_network(await taken_networks(), POOL))
        if not self.key_file.exists():
            await _keygen(self.key_file)
        if not self.known_hosts.exists():
            self.known_hosts.write_text("")
        return str(self._addresses()[10])

    def _addresses(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((self._folder / "network").read_text().strip())

    async def create(self, hypervisor: Hypervisor, image: BuiltImage, scenario: Scenario) -> float:
        """Boot it cold from the image and let it drift. Returns the seconds until root's first command: the
        figure that forks are measured against."""
        network = self._addresses()
        spec = NetworkSpec(name=NETWORK, bridge=BRIDGE, cidr=str(network))
        processes.stop(self._folder / "mirror.pid")
        await hypervisor.destroy(DOMAIN)
        await hypervisor.ensure_network(spec)
        authority = CertificateAuthority(self._folder / "builder")
        identity = await make_identity(
            DOMAIN,
            hostname=NAME,
            address=str(network[10]),
            prefix=network.prefixlen,
            ca_public=authority.public_key,
        )
        self.known_hosts.write_text(f"{identity.address} {identity.host_key_public}\n")
        started = time.monotonic()
        await hypervisor.cold_boot(
            guest_image(image), identity, NETWORK, cpu=CPU, memory_mb=MEMORY_MB, metadata={"role": "target"}
        )
        connections = GuestConnections(authority)
        guest = Guest(name=NAME, address=identity.address, host_key_public=identity.host_key_public)
        try:
            await connections.ready(guest, timeout_s=READY_TIMEOUT_S)
            cold_boot_s = round(time.monotonic() - started, 2)
            await self._settle(connections, guest, scenario)
        finally:
            await connections.close()
        await self._mirror(guest)
        return cold_boot_s

    async def _settle(self, connections: GuestConnections, guest: Guest, scenario: Scenario) -> None:
        """Its own login key, and its drift."""
        commands = GuestCommands(connections)
        files = GuestFiles(connections, commands)
        public = self.key_file.with_name(self.key_file.name + ".pub").read_bytes()
        contents = {"/root/.ssh/authorized_keys": (public, 0o600), **drift(scenario)}
        for command in ("install -d -m 0700 /root/.ssh", "useradd --create-home oldadmin"):
            done = await commands.run(guest, command, timeout_s=STEP_TIMEOUT_S)
            if done.exit_code != 0:
                raise EvidenceFailed(f"{command!r} on {NAME} ended with {done.exit_code}: {done.stderr!r}")
        for path, (content, mode) in contents.items():
            await files.write(guest, path.encode(), content, mode=mode)
        await commands.run(guest, f"sysctl -q -p {scenario.sysctl_file}", timeout_s=STEP_TIMEOUT_S)

    async def _mirror(self, guest: Guest) -> None:
        """Production's package mirror, a process of its own."""
        ready = self._folder / "mirror.ready"
        ready.unlink(missing_ok=True)
        processes.start(
            [
                *(sys.executable, "-m", "backend.demo.mirror"),
                *("--builder", str(self._folder / "builder"), "--ready", str(ready)),
            ],
            pid_file=self._folder / "mirror.pid",
            log=self._folder / "mirror.log",
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=json.dumps(dataclasses.asdict(guest)).encode(),
        )
        async with asyncio.timeout(STEP_TIMEOUT_S):
            while not ready.exists():  # noqa: ASYNC110 - another process makes the file
                await asyncio.sleep(0.1)


async def _keygen(file: Path) -> None:
    program = await asyncio.create_subprocess_exec(
        *("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "production", "-f", str(file))
    )
    async with asyncio.timeout(STEP_TIMEOUT_S):
        if status := await program.wait():
            raise EvidenceFailed(f"ssh-keygen could not make {file}: status {status}")


def drift(scenario: Scenario) -> dict[str, tuple[bytes, int]]:
    """What makes production differ: another sysctl value, an older timer (the extra user is made apart)."""
    sysctl = "".join(f"{name} = {int(value) // 2 + 1}\n" for name, value in scenario.sysctl.items())
    timer = next(file for file in scenario.files if file.path.endswith("-report.timer"))
    older = timer.content.replace("OnCalendar=*:", "OnCalendar=03:")
    return {scenario.sysctl_file: (sysctl.encode(), 0o644), timer.path: (older.encode(), 0o644)}


async def page_status(address: str, scenario: Scenario) -> int:
    """The HTTP status of ``https://web-01/`` (its certificate is self-signed); 0 if it does not answer, 599
    if the page is not the one that was approved."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(PAGE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address, 443, ssl=trust, server_hostname=NAME)
            writer.write(f"GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
            answer = await reader.read(65_536)
            writer.close()
    except (OSError, TimeoutError):
        return 0
    status = int(answer.split(b" ", 2)[1])
    return status if scenario.page.content.encode() in answer or status != 200 else 599
