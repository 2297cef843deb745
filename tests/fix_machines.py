"""A fleet over real libvirtds, whose machines have no system in them: a boot sector that counts."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from backend.audit import Audit
from backend.background import Background
from backend.config import Config
from backend.fleet import Fleet, FleetParts
from backend.fleet.addresses import free_network, taken_networks
from backend.fleet.hosts import Hosts
from backend.hypervisor import GuestImage, Hypervisor, Pool, PrivateLibvirt
from backend.hypervisor.storage import HostFiles
from backend.images import BuiltImage, Images
from backend.models import Identity, Phase, Role, Sandbox, now
from backend.paths import Paths
from backend.policy import Policy
from backend.store import EventBus, Store
from tests.fix_foreign import boot_sector, foreign_xml

OPERATOR = Identity(uid=0, name="op", role=Role.OPERATOR)
FAR, LAN = "far", "fluid-test-lan"
DISK_BYTES = 8 << 20


class Silent:
    """Guests' connections and forwards, of which there are none."""

    def hold(self, name: str) -> None: ...
    def forget(self, name: str) -> None: ...
    async def drop(self, name: str) -> None: ...


class PoolWay:
    """Another machine, as the fleet has it: its files lie in a pool."""

    link = ssh = None

    def __init__(self, uri: str, pool: Pool, prefix: str) -> None:
        self.uri, self._pool, self._prefix = uri, pool, prefix

    async def hypervisor(self) -> Hypervisor:
        hypervisor = Hypervisor(self.uri, pool=self._pool, virt_type="qemu", prefix=self._prefix)
        await hypervisor.open()
        return hypervisor

    async def routes(self) -> list[IPv4Network]:
        return []

    async def must_hold(self, bridge: str) -> None: ...
    async def revive(self) -> None: ...
    async def leave(self, *, idle: bool) -> None: ...
    async def clock_skew(self) -> float | None:
        return None

    async def reserved_mb(self) -> int:
        return 0


class Machines:
    """The fleet, and what a person with root could do beside it."""

    def __init__(self, store: Store, bus: EventBus, paths: Paths, config: Config) -> None:
        self.store, self.paths, self.config = store, paths, config
        self.images = Images(paths.images)
        self.hosts = Hosts(config, paths, store)
        self.background = Background()
        self.audit = Audit(store, paths.state / "spool", paths.state / "audit.key", paths.state / "head")
        parts = SimpleNamespace(
            config=config,
            store=store,
            events=bus,
            audit=self.audit,
            policy=Policy(config.limits),
            images=self.images,
            hosts=self.hosts,
            background=self.background,
            guests=Silent(),
            forwards=Silent(),
            proxy=Silent(),
            commands=None,
            files=None,
        )
        self.fleet = Fleet(cast("FleetParts", parts))

    @property
    def local(self) -> Hypervisor:
        return self.hosts.named("local").require()

    def files(self, host: str = "local") -> HostFiles:
        return self.hosts.named(host).require()._files

    @property
    def prefix(self) -> str:
        return self.hosts.named("local").domain_name("").removesuffix("-")

    def connect(self, host: str = "local") -> libvirt.virConnect:
        """A connection of our own, as virsh has one."""
        return libvirt.open(self.hosts.named(host).require().uri)

    def build(self, name: str = "base") -> BuiltImage:
        """An image of new content takes the name."""
        raw, disk = self.paths.cache / "disk.raw", self.paths.cache / "disk.qcow2"
        raw.write_bytes(boot_sector() + os.urandom(DISK_BYTES - 512))
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
        data = disk.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        place = self.images.folder / f"{name}-{sha256[:16]}.qcow2"
        disk.rename(place)
        image = BuiltImage(
            name, sha256, place, None, None, "", "amd64", datetime.now(UTC), 1.0, 1, len(data), sha256,
            (len(data),), kind="imported",
        )  # fmt: skip
        self.images.put(image)
        return image

    async def runs(self, image: BuiltImage, number: int = 1, host: str = "local") -> Sandbox:
        """A sandbox of the image with its row, its address, its files and its running machine."""
        at, files = self.hosts.named(host), self.files(host)
        id = f"SBX-{number:08x}"
        name = at.domain_name(id)
        row = Sandbox(
            id=id, sandbox_name=f"box-{number}", base_image=image.name, image_sha256=image.sha256,
            host_name=host, domain=name, phase=Phase.RUNNING, ip_address=await at.take_address(set()),
            created_at=now(), updated_at=now(),
        )  # fmt: skip
        await self.store.sandboxes.insert(row)
        there = await files.ensure_image(_guest_image(image))
        await files.claim(name)
        await files.create_overlay(disk := files.path(name, "disk-0.qcow2"), there.disk)
        self.start(name, disk, host)
        return row

    def start(self, name: str, disk: Path, host: str = "local", role: str = "sandbox") -> None:
        connection = self.connect(host)
        try:
            connection.defineXML(foreign_xml(name, [(disk, "qcow2")], role)).create()
        finally:
            connection.close()


def _guest_image(image: BuiltImage) -> GuestImage:
    return GuestImage(image.name, image.sha256, image.disk, None, None, "")


def network_xml(name: str) -> str:
    """A network that has no bridge in use: it is never started."""
    root = ET.Element("network")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "bridge", name=f"{name[-8:]}br")
    return ET.tostring(root, encoding="unicode")


def _start_lan(uri: str, cidr: IPv4Network) -> None:
    """Somebody else's network, which runs."""
    root = ET.fromstring(network_xml(LAN))
    root[1].set("name", f"flm{os.getpid() % 1_000_000}")
    ET.SubElement(root, "ip", address=str(cidr[1]), prefix=str(cidr.prefixlen))
    connection = libvirt.open(uri)
    connection.networkCreateXML(ET.tostring(root, encoding="unicode"))
    connection.close()


@pytest.fixture(scope="session")
async def daemons(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[PrivateLibvirt]]:
    """Two of them, for all tests: the first machine on each makes it ask all there is of QEMU."""
    folder = tmp_path_factory.mktemp("machines")
    folder.chmod(0o711)
    made = [PrivateLibvirt(folder / name, hide_kvm=True) for name in ("here", "there")]
    async with AsyncExitStack() as stack:
        for daemon in made:
            await daemon.start()
            stack.push_async_callback(daemon.stop)
        yield made


@asynccontextmanager
async def machines(
    store: Store, bus: EventBus, folder: Path, uris: Sequence[str], domains: Path | None = None
) -> AsyncIterator[Machines]:
    """``uris``: this machine's libvirtd, and that of another one."""
    paths = Paths.under(folder)
    paths = paths.placed(images=folder / "images", domains=domains)
    paths.make()
    probed = Paths.default().cache / "kvm-probe.json"
    if probed.exists():  # a probe is booted otherwise, for ten seconds
        shutil.copy(probed, paths.cache)
    entries: list[dict[str, Any]] = [{"name": "local", "uri": uris[0]}]
    if far := list(uris[1:]):
        # Both daemons make their bridges in one kernel: ours can be on one of them only.
        entries.append({"name": FAR, "address": "192.0.2.7", "network": LAN})
    made = Machines(store, bus, paths, Config.model_validate({"hosts": entries}))
    for uri in far:
        pool = Pool(
            made.prefix, Path("/var/lib/libvirt/images") / made.prefix, paths.cache / "far", paths.images
        )
        made.hosts.named(FAR).way = PoolWay(uri, pool, made.prefix)
    async with made.background:
        try:
            for uri in far:
                _start_lan(uri, IPv4Network(free_network(await taken_networks())))
            for host in made.hosts:
                assert await host.open(), host.require()
            yield made
        finally:
            for uri in uris:
                sweep(uri)
            await made.hosts.close()


def sweep(uri: str) -> None:
    """Nothing of a test is left on its libvirtd."""
    connection = libvirt.open(uri)
    try:
        for domain in connection.listAllDomains(0):
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            )
        for network in connection.listAllNetworks(0):
            persistent = network.isPersistent()
            if network.isActive():
                network.destroy()
            if persistent:
                network.undefine()
        for pool in connection.listAllStoragePools(0):
            for volume in pool.listAllVolumes(0):
                volume.delete(0)
            pool.destroy()
            pool.undefine()
    finally:
        connection.close()
