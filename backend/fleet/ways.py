"""How a host is reached: on this machine, where root's backend starts a libvirtd of its own if none answers
and another user's has the machine's; behind an SSH login, whose one connection leads to its libvirt and to
its guests; or at a libvirt URI of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

from backend.config import HostConfig
from backend.errors import HypervisorDown, HypervisorFailed
from backend.fleet.addresses import ROUTES, networks_of, taken_networks
from backend.guests import HostLink
from backend.hypervisor import Hypervisor, Pool
from backend.hypervisor.networks import not_held, switches
from backend.hypervisor.private import (
    SYSTEM_URI,
    PrivateLibvirt,
    holds_machines,
    remedy_for_users,
    system_libvirt,
)
from backend.hypervisor.probe import kvm_works
from backend.paths import Paths
from backend.places import LIBVIRT_SOCKET, Here, OverNetwork, OverSsh, SshDestination
from backend.whole_files import write_lasting

log = logging.getLogger(__name__)

CLOCK_TIMEOUT_S = 2.0
UPTIME = Path("/proc/uptime")
LIBVIRT_IMAGES = Path("/var/lib/libvirt/images")


class Way(Protocol):
    """To one host, again and again."""

    link: HostLink | None
    """Leads to its guests; None: this machine reaches them itself."""

    ssh: SshDestination | None
    """The same for a program that outlives us."""

    uri: str
    """As an operator knows it."""

    async def hypervisor(self) -> Hypervisor:
        """Connected. Raises FluidError, OSError."""

    async def routes(self) -> list[IPv4Network]:
        """The networks that the host has an address in or a route to."""

    async def must_hold(self, bridge: str) -> None:
        """Raises HypervisorFailed where guests on our bridge would not be held, and we cannot mend it."""

    async def clock_skew(self) -> float | None:
        """Seconds that the host's clock is ahead of ours, to half of a round trip; None: it is ours.

        Raises:
            FluidError: it cannot be told.
        """

    async def reserved_mb(self) -> int:
        """What of the host's free space, as its libvirt tells it, only root there may fill."""

    async def uptime(self) -> float:
        """Seconds since the host's kernel was started.

        Raises:
            FluidError, OSError, ValueError: it cannot be told.
        """

    async def revive(self) -> None:
        """The connection to libvirt is lost: do what is ours to do."""

    async def leave(self, *, idle: bool) -> None:
        """Hang up; ``idle``: no machine runs there."""


def way_to(settings: HostConfig, paths: Paths, prefix: str, *, reserve_mb: int = 0) -> Way:
    """The way that the config means. ``reserve_mb`` of this machine's disk is kept back."""
    place = settings.place()
    if not isinstance(place, Here):
        return RemoteWay(settings, place, paths, _pool(settings, paths, prefix, reserve_mb))
    if os.geteuid() == 0:
        return LocalWay(place.uri, paths, prefix)
    return UsersWay(place.uri, _pool(settings, paths, prefix, reserve_mb, paths.domains_placed))


def _pool(
    settings: HostConfig, paths: Paths, prefix: str, reserve_mb: int, usual: Path | None = None
) -> Pool:
    """Where our files lie on a host whose folders are not ours."""
    return Pool(
        name=prefix,
        path=settings.pool_path or usual or LIBVIRT_IMAGES / prefix,
        cache=paths.cache / "layers" / settings.name,
        images=paths.images,
        reserve_mb=reserve_mb,
    )


class OwnMachine:
    """What every way to this machine has in common."""

    link: HostLink | None = None
    ssh: SshDestination | None = None

    async def routes(self) -> list[IPv4Network]:
        return await taken_networks()

    async def must_hold(self, bridge: str) -> None:
        """Whoever makes the network here sees to it."""

    async def clock_skew(self) -> float | None:
        return None

    async def uptime(self) -> float:
        return _uptime(await asyncio.to_thread(UPTIME.read_bytes))


class UsersWay(OwnMachine):
    """This machine for a backend that is not root but in libvirt's group, to which libvirtd gives a pool.
    QEMU's files are not the user's, and whether the user may open /dev/kvm says nothing of QEMU."""

    def __init__(self, uri: str | None, pool: Pool) -> None:
        self.uri = uri or SYSTEM_URI
        self._pool = pool

    async def hypervisor(self) -> Hypervisor:
        hypervisor = Hypervisor(self.uri, pool=self._pool, prefix=self._pool.name)
        try:
            await hypervisor.open()
        except HypervisorDown as error:
            remedy = remedy_for_users() if self.uri == SYSTEM_URI else ""
            raise HypervisorDown(error.message, remedy=remedy or error.remedy) from error
        return hypervisor

    async def reserved_mb(self) -> int:
        told = await asyncio.to_thread(os.statvfs, self._pool.path)
        return (told.f_bfree - told.f_bavail) * told.f_frsize >> 20

    async def revive(self) -> None:
        """Its keeper's business."""

    async def leave(self, *, idle: bool) -> None:
        """There is nothing but the connection, and that is closed."""


class LocalWay(OwnMachine):
    """This machine for root. Whether its guests run on KVM is decided by booting a probe."""

    def __init__(self, uri: str | None, paths: Paths, prefix: str) -> None:
        self.uri = uri or ""
        self._uri = uri
        self._paths = paths
        self._prefix = prefix
        self._private: PrivateLibvirt | None = None

    async def hypervisor(self) -> Hypervisor:
        probe = await kvm_works(cache=self._paths.cache / "kvm-probe.json")
        self._private = None
        uri = self._uri or await self._machines_libvirt()
        if uri is None:
            self._private = PrivateLibvirt(self._folder, hide_kvm=not probe.works)
            uri = await self._private.start()
            log.warning("a libvirtd of Fluid's own runs, whose guests no AppArmor or SELinux confines")
        self.uri = uri
        # What this process can do, libvirt may not: it is asked, too, before a machine is trusted to it.
        undecided = None if probe.works else "qemu"
        hypervisor = Hypervisor(uri, folder=self._paths.domains, virt_type=undecided, prefix=self._prefix)
        hypervisor.kvm = probe
        await hypervisor.open()
        kvm = hypervisor.kvm
        log.info("virtual machines run %s: %s", "on KVM" if kvm.works else "emulated", kvm.reason)
        return hypervisor

    @property
    def _folder(self) -> Path:
        return self._paths.state / "libvirt"

    async def _machines_libvirt(self) -> str | None:
        """The machine's own libvirtd; None: one of ours is to be started. Which it was stays, as long as it
        has machines of ours: the other one knows nothing of them.

        Raises:
            HypervisorDown: the machine's is wanted, and does not answer.
        """
        if await asyncio.to_thread(holds_machines, self._folder):
            return None
        kept = self._paths.state / "libvirtd"
        uri = await system_libvirt()
        if uri is not None:
            await asyncio.to_thread(write_lasting, kept, f"{uri}\n".encode())
        elif await asyncio.to_thread(kept.exists):
            raise HypervisorDown(
                "the machine's libvirtd, which has been used so far, does not answer",
                remedy=f"systemctl start libvirtd; for one of Fluid's own instead, remove {kept}",
            )
        return uri

    async def reserved_mb(self) -> int:
        """It is not counted as free here."""
        return 0

    async def revive(self) -> None:
        """Start a libvirtd of ours again. Another's is its keeper's business."""
        if self._private:
            await self._private.start()

    async def leave(self, *, idle: bool) -> None:
        """A libvirtd of ours ends with us unless a machine runs on it, which runs on."""
        if self._private and idle:
            await self._private.stop()


class RemoteWay:
    """Another machine: nothing is installed there, our files lie in a libvirt pool of ours."""

    def __init__(self, settings: HostConfig, place: OverSsh | OverNetwork, paths: Paths, pool: Pool) -> None:
        self.ssh: SshDestination | None = place.ssh
        socket = place.socket if isinstance(place, OverSsh) else LIBVIRT_SOCKET
        self._link = HostLink(settings.name, place.ssh, paths.links, libvirt_socket=socket)
        self.link: HostLink | None = self._link
        self._own_uri = place.uri if isinstance(place, OverNetwork) else None
        self.uri = self._own_uri or f"qemu+ssh://{place.ssh.address}/system"
        self._pool = pool

    async def hypervisor(self) -> Hypervisor:
        await self._link.open()
        if self._own_uri is None:
            await self._link.must_reach_libvirt()
        uri = self._own_uri or await self._link.libvirt_uri()
        hypervisor = Hypervisor(uri, pool=self._pool, prefix=self._pool.name)
        await hypervisor.open()
        return hypervisor

    async def routes(self) -> list[IPv4Network]:
        return networks_of(await self._link.run(ROUTES))

    async def must_hold(self, bridge: str) -> None:
        """Nothing said: br_netfilter is loaded with the first filter, and sees every bridge then."""
        said = (
            await self._link.run(["sh", "-c", 'cat "$@" 2>/dev/null; :', "sh", *switches(bridge)])
        ).split()
        if said and b"1" not in said:
            raise not_held(bridge)

    async def clock_skew(self) -> float | None:
        began, asked_at = time.time(), time.monotonic()
        told = await self._link.run(["date", "+%s.%N"], timeout_s=CLOCK_TIMEOUT_S)
        took_s = time.monotonic() - asked_at
        try:
            return float(told) - (began + took_s / 2)
        except ValueError as error:
            raise HypervisorFailed(
                f"its `date` says {told[:40]!r}, not the seconds", remedy="date +%s.%N, on that host"
            ) from error

    async def reserved_mb(self) -> int:
        """By stat(1) of GNU; where it does not tell, nothing is known to be kept back."""
        try:
            told = await self._link.run(["stat", "-f", "-c", "%f %a %S", str(self._pool.path)])
            free, available, block_bytes = map(int, told.split())
        except (HypervisorFailed, ValueError) as error:
            log.warning("what of %s's disk is root's is not known: %s", self._link.name, error)
            return 0
        return max(free - available, 0) * block_bytes >> 20

    async def uptime(self) -> float:
        return _uptime(await self._link.run(["cat", str(UPTIME)], timeout_s=CLOCK_TIMEOUT_S))

    async def revive(self) -> None:
        """The link tries by itself."""

    async def leave(self, *, idle: bool) -> None:
        await self._link.close()


def _uptime(told: bytes) -> float:
    """proc(5): the first number of /proc/uptime."""
    return float(told.partition(b" ")[0])
