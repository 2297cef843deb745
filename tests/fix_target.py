"""A machine that plays production: booted cold, beside the sandboxes and on a network of its own.

Fluid's CA means nothing to it. It is reached as any production machine is: a key of the target group's own,
and the host key that it shows.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from backend.fleet import guest_image
from backend.fleet.addresses import free_network, taken_networks
from backend.guests import CertificateAuthority, Guest, GuestCommands, GuestConnections, make_client_key
from backend.hypervisor import Hypervisor, NetworkSpec, make_identity
from backend.images import BuiltImage

NAME = "web-01"
PREFIX = "fluid-t-prod"
POOL = IPv4Network("10.234.0.0/16")
NUMBER = 10
LIMIT_S = 180.0
AUTHORIZE = "umask 077; mkdir -p /root/.ssh; cat > /root/.ssh/authorized_keys"
WARM_UP = "python3 -c 'import ctypes, json, ssl, subprocess'"  # as on a machine that has run for a while


@dataclass(frozen=True)
class Target:
    """One machine to be. ``folder`` holds its disk, the group's key and the file of known hosts."""

    folder: Path
    network: IPv4Network

    @classmethod
    async def plan(cls, folder: Path) -> Target:
        """Key and address, so that a config can name the machine before it is there."""
        folder.mkdir()
        private, public = make_client_key()
        for name, text in (("key", private), ("key.pub", f"{public}\n"), ("known_hosts", "")):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text)
        return cls(folder, IPv4Network(free_network(await taken_networks(), POOL)))

    @property
    def address(self) -> str:
        return str(self.network[NUMBER])

    @property
    def settings(self) -> dict[str, object]:
        """``targets`` of config.yaml."""
        group = {
            "ssh_key_file": str(self.folder / "key"),
            "known_hosts": str(self.folder / "known_hosts"),
            "hosts": {NAME: {"address": self.address}},
        }
        return {"groups": {"production": group}}

    @asynccontextmanager
    async def running(self, libvirt: str, image: BuiltImage) -> AsyncIterator[Login]:
        """The machine, with a way in that is the test's alone; it is gone afterwards."""
        host = Hypervisor(libvirt, folder=self.folder / "host", virt_type="qemu", prefix=PREFIX)
        network = NetworkSpec(f"{PREFIX}-net", f"fltp{os.getpid() % 100_000}", str(self.network))
        authority = CertificateAuthority(self.folder / "ca")
        identity = await make_identity(
            f"{PREFIX}-{NAME}",
            hostname=NAME,
            address=self.address,
            prefix=self.network.prefixlen,
            ca_public=authority.public_key,
        )
        guests = GuestConnections(authority)
        await host.open()
        try:
            await host.ensure_network(network)
            await host.cold_boot(
                guest_image(image), identity, network.name, cpu=2, memory_mb=1024, metadata={"role": "target"}
            )
            guest = Guest(name=NAME, address=self.address, host_key_public=identity.host_key_public)
            await guests.ready(guest, timeout_s=LIMIT_S)
            login = Login(guest, GuestCommands(guests))
            await login.run(AUTHORIZE, (self.folder / "key.pub").read_bytes())
            await login.run(WARM_UP)
            (self.folder / "known_hosts").write_text(f"{self.address} {identity.host_key_public}\n")
            yield login
        finally:
            await guests.close()
            await host.destroy(identity.name)
            await host.remove_network(network.name)
            await host.close()


@dataclass(frozen=True)
class Login:
    """Root's shell on the target, by a CA of the test's own."""

    guest: Guest
    commands: GuestCommands

    async def run(self, command: str, stdin: bytes = b"") -> str:
        """What it prints."""
        done = await self.commands.run(self.guest, command, stdin=stdin, timeout_s=LIMIT_S)
        assert done.exit_code == 0, done
        return done.stdout.decode()
