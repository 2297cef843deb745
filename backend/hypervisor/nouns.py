"""What this room takes and gives: plain values, no libvirt object ever leaves the room."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from typing import Literal

from backend.errors import InvalidValue
from backend.models.base import check_name

MAC = re.compile(r"52:54:00(:[0-9a-f]{2}){3}")
HEX_32 = re.compile(r"[0-9a-f]{32}")
INTERFACE_NAME_MAX = 15  # IFNAMSIZ minus the NUL

State = Literal["running", "paused", "shutoff", "crashed"]
Why = Literal[
    "",  # libvirt does not know, or nothing is to be said
    "shut down",  # by itself, or asked to
    "switched off",
    "died",
    "migrated",
    "saved",
    "did not start",
    "reverted",
    "asked",  # paused by whoever asked libvirt for it, us included
    "disk error",
    "disk full",
    "watchdog",
    "guest crashed",
    "at work",  # libvirt saves, dumps or migrates it, and goes on by itself
    "asleep",
]
"""Why a domain is in its state."""
EventKind = Literal["started", "stopped", "paused", "resumed", "crashed", "removed", "connected", "lost"]


def first_address(network: IPv4Network) -> str:
    """The host's own in each of our networks."""
    return str(next(network.hosts()))


WayName = Literal["save image", "snapshot copy", "cold boot"]
FORK_WAYS: tuple[WayName, ...] = ("save image", "snapshot copy", "cold boot")


@dataclass(frozen=True)
class ForkWay:
    """How a host forks, and why it does so."""

    name: WayName
    reason: str


@dataclass(frozen=True)
class KvmProbe:
    """Whether a real guest executed under KVM here, and why not."""

    works: bool
    reason: str


@dataclass(frozen=True)
class Machine:
    """How guests of one architecture run on a host. ``firmware``: what starts a boot loader there; None where
    the machine has a BIOS of its own, or where the host has none."""

    virt_type: str
    firmware: Path | None = None


@dataclass(frozen=True)
class GuestImage:
    """A disk, and the kernel that boots it directly; without one the disk has a boot loader of its own."""

    name: str
    sha256: str
    disk: Path  # qcow2
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    arch: str = "x86_64"


@dataclass(frozen=True)
class Identity:
    """Who one guest is. Made on the host, so that its host key is known before SSH first meets it."""

    name: str  # the libvirt domain
    uuid: str
    mac: str
    address: str
    prefix: int
    hostname: str
    machine_id: str
    host_key: str = field(repr=False)  # OpenSSH private key
    host_key_public: str
    ca_public: str  # the SSH CA keys whose user certificates the guest accepts, one a line
    gateway: str = ""  # the host's own address where it is not the first of the network

    def __post_init__(self) -> None:
        check_name(self.name, "domain name")
        check_name(self.hostname, "host name")
        IPv4Interface(f"{self.address}/{self.prefix}")
        if not MAC.fullmatch(self.mac):
            raise InvalidValue(
                f"{self.mac!r} is not a MAC of ours", remedy="use 52:54:00:xx:xx:xx, lower case"
            )
        if not HEX_32.fullmatch(self.machine_id):
            raise InvalidValue(f"{self.machine_id!r} is not a machine id", remedy="use 32 hexadecimal digits")

    @property
    def host_address(self) -> str:
        """The host's address in the guest's network, see :class:`NetworkSpec`: who may speak with it."""
        return self.gateway or first_address(IPv4Interface(f"{self.address}/{self.prefix}").network)


@dataclass(frozen=True)
class NetworkSpec:
    """A network without DHCP, DNS or a route: the host has its first address, guests may open nothing."""

    name: str
    bridge: str
    cidr: str

    def __post_init__(self) -> None:
        check_name(self.name, "network name")
        check_name(self.bridge, "bridge name")
        if len(self.bridge) > INTERFACE_NAME_MAX:
            raise InvalidValue(
                f"bridge name {self.bridge!r} is longer than {INTERFACE_NAME_MAX} characters",
                remedy="use a shorter name",
            )
        IPv4Network(self.cidr)

    @property
    def host_address(self) -> str:
        """The host's own address in it: the first one."""
        return first_address(IPv4Network(self.cidr))

    @property
    def netmask(self) -> str:
        return str(IPv4Network(self.cidr).netmask)


@dataclass(frozen=True)
class ForeignNetwork:
    """Somebody else's network as libvirt has it. Nothing of it is ours to change, and it isolates nobody."""

    name: str
    bridge: str
    cidr: str
    host_address: str
    reserved: tuple[tuple[str, str], ...] = ()  # first and last address of what its DHCP gives away


@dataclass(frozen=True)
class Pool:
    """Where our files lie on a host whose folders are not ours to open: a libvirt pool, and what this machine
    keeps of it."""

    name: str
    path: Path  # on that host
    cache: Path  # here: frozen layers that were downloaded
    images: Path | None = None  # here: images under the same names as there
    reserve_mb: int = 0  # of the disk here, that no download takes


@dataclass(frozen=True)
class HostFacts:
    """One host as libvirt tells it. Sizes in MiB. ``cpu_busy_ns``, ``cpu_idle_ns``: what all its processors
    did since it started, with whose work ever."""

    hostname: str
    libvirt_version: str
    qemu_version: str
    cpus: int
    memory_mb: int
    memory_free_mb: int
    disk_free_mb: int
    virt_type: str
    cpu_busy_ns: int = 0
    cpu_idle_ns: int = 0


@dataclass(frozen=True)
class Template:
    """A guest booted once, its network card unconnected, and saved: what forks are made of."""

    key: str
    disk: Path  # frozen: forks stand on it
    memory: Path  # a libvirt save image
    cpu: int
    memory_mb: int
    build_s: float
    image: str  # the SHA-256 of the disk that it stands on


@dataclass(frozen=True)
class DomainInfo:
    """One of our domains, as libvirt has it."""

    name: str
    uuid: str
    state: State
    metadata: dict[str, str]
    why: Why = ""
    persistent: bool = True  # its definition stays when it goes off


@dataclass(frozen=True)
class DomainEvent:
    """A change that libvirt told. ``connected`` and ``lost`` are about the host itself: no domain."""

    domain: str
    kind: EventKind


@dataclass(frozen=True)
class SnapshotFiles:
    """The files of one external snapshot. Layers are frozen: nothing ever writes to them again."""

    disk_layers: tuple[Path, ...]  # top first, the image last
    memory_file: Path | None
    quiesced: bool  # the guest froze its file systems
    stood_still_s: float  # how long the guest's writes (or, unquiesced, its processors) stood still
    took_s: float


@dataclass(frozen=True)
class DiskUse:
    """The layer that a running guest writes to, and the bytes that it takes on the host."""

    domain: str
    layer: str
    size: int
