"""Real guests on a libvirtd of a test's own, without a backend."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from backend.fleet.addresses import free_network, taken_networks
from backend.guests import CertificateAuthority, Guest, GuestConnections
from backend.hypervisor import Hypervisor, Identity, NetworkSpec, PrivateLibvirt, kvm_works, make_identity


def own_network(prefix: str, bridge: str, within: str = "10.233.0.0/16") -> NetworkSpec:
    """A run that was cut off may have left its bridge and its addresses: the next one takes others."""
    cidr = free_network(asyncio.run(taken_networks()), IPv4Network(within))
    return NetworkSpec(f"{prefix}-net", f"{bridge}{os.getpid() % 100_000}", cidr)


def guest_of(identity: Identity) -> Guest:
    return Guest(name=identity.name, address=identity.address, host_key_public=identity.host_key_public)


@dataclass(frozen=True)
class GuestHost:
    """A host, and the way into its guests."""

    host: Hypervisor
    daemon: PrivateLibvirt
    prefix: str
    network: NetworkSpec
    authority: CertificateAuthority
    guests: GuestConnections
    limit_s: float

    async def identity(self, name: str, number: int) -> Identity:
        return await make_identity(
            f"{self.prefix}-{name}",
            address=str(IPv4Network(self.network.cidr)[number]),
            prefix=24,
            ca_public=self.authority.public_key,
        )

    async def ssh(self, identity: Identity, command: str, *, again: bool = False) -> str:
        """What root's command prints, over one kept connection; ``again`` when the guest went down since. The
        host key must be the one that we made."""
        if again:
            await self.guests.drop(identity.name)
        connection = await self.guests.connection(guest_of(identity), timeout_s=self.limit_s)
        async with asyncio.timeout(self.limit_s):
            done = await connection.run(command)
        assert done.exit_status == 0, done.stderr
        return str(done.stdout)


@asynccontextmanager
async def opened(
    host: Hypervisor,
    daemon: PrivateLibvirt,
    network: NetworkSpec,
    prefix: str,
    folder: Path,
    limit_s: float = 60,
) -> AsyncIterator[GuestHost]:
    """A host with its network. Nothing of it is left: no domain, no process, no ``folder``."""
    await host.open()
    authority = CertificateAuthority(folder / "ca")
    guests = GuestConnections(authority)
    try:
        await host.ensure_network(network)
        yield GuestHost(host, daemon, prefix, network, authority, guests, limit_s)
    finally:
        await guests.close()
        for domain in await host.list_ours():
            await host.destroy(domain.name)
        await host.remove_network(network.name)
        await host.close()
        await daemon.stop()
        assert daemon.pids() == {}
        shutil.rmtree(folder)


async def here(folder: Path, prefix: str) -> tuple[PrivateLibvirt, Hypervisor]:
    """A libvirtd, and a host on it whose folder is ours; with KVM where that works."""
    probe = await kvm_works()
    daemon = PrivateLibvirt(folder / "lv", hide_kvm=not probe.works)
    virt_type = "kvm" if probe.works else "qemu"
    return daemon, Hypervisor(
        await daemon.start(), folder=folder / "host", virt_type=virt_type, prefix=prefix
    )
