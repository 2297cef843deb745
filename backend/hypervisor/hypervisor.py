"""One host: the whole contract of this room in one class, each part in a module of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path

import libvirt

from backend.errors import WrongState
from backend.hypervisor import (
    branches,
    far_sources,
    forks,
    kernel_log,
    merging,
    networks,
    preparations,
    shutdown,
    sizes,
    snapshots,
    sources,
    stock,
)
from backend.hypervisor.connection import Connection
from backend.hypervisor.domains import Domains
from backend.hypervisor.fork_ways import ForkWays
from backend.hypervisor.forks import Login
from backend.hypervisor.host_probe import probe_host
from backend.hypervisor.local_files import LocalFiles
from backend.hypervisor.merging import Mergeable
from backend.hypervisor.nouns import (
    DiskUse,
    DomainEvent,
    DomainInfo,
    ForeignNetwork,
    ForkWay,
    GuestImage,
    HostFacts,
    Identity,
    KvmProbe,
    NetworkSpec,
    Pool,
    SnapshotFiles,
    Template,
    WayName,
)
from backend.hypervisor.pool_files import PoolFiles
from backend.hypervisor.source_xml import SourceDomain
from backend.hypervisor.sources import Backup, BackupLimits, Copying
from backend.hypervisor.storage import HostFiles
from backend.hypervisor.templates import Before, Templates, Wanted

STOP_TIMEOUT_S = 60.0
QUIESCE_TIMEOUT_S = 5.0


class Hypervisor:
    """A host reached by a libvirt URI. Its files lie in ``folder`` when the host is this machine, else in
    ``pool``; one of the two is given. Without a ``virt_type``, opening it decides between KVM and emulation
    by booting a probe there (:attr:`kvm` says why).

    Every method that changes a domain refuses one without our metadata. All raise HypervisorDown while the
    host does not answer; the connection comes back by itself.
    """

    def __init__(
        self,
        uri: str,
        *,
        folder: Path | None = None,
        pool: Pool | None = None,
        virt_type: str | None = None,
        prefix: str = "fluid",
        fork_way: WayName | None = None,
    ) -> None:
        """``fork_way``: the one that forks go; without it the fastest that works there."""
        self.uri = uri
        self.kvm: KvmProbe | None = None
        self._prefix = prefix
        self._connection = Connection(uri)
        self._files: HostFiles
        if pool:
            self._files = PoolFiles(self._connection, pool, prefix)
        elif folder:
            self._files = LocalFiles(folder, prefix)
        else:
            raise ValueError("a host has a folder or a pool")
        self._domains = Domains(self._connection, self._files, virt_type or "", prefix)
        self._templates = Templates(self._domains)
        self._ways = ForkWays(self._domains, fork_way)

    @property
    def virt_type(self) -> str:
        """``kvm`` or ``qemu``; empty until that is decided."""
        return self._domains.virt_type

    @property
    def fork_way(self) -> ForkWay:
        """How the next fork is made, and why so: the first ones find out what works there."""
        return self._ways.way

    @property
    def folder(self) -> Path:
        """Where its files lie, as the host knows it."""
        return self._files.root

    @property
    def alive(self) -> bool:
        """Whether the connection stands."""
        return self._connection.alive

    async def open(self) -> None:
        """Connect; HypervisorDown if nobody answers."""
        await self._connection.open()
        try:
            await self._files.open()
            if not self._domains.virt_type:
                self.kvm = await probe_host(self._domains)
                self._domains.virt_type = "kvm" if self.kvm.works else "qemu"
        except BaseException:
            await self._connection.close()
            raise

    async def close(self) -> None:
        await self._connection.close()

    async def facts(self) -> HostFacts:
        """Versions and sizes, for placement and for the doctor."""

        disk_free_mb = await self._files.free_mb()

        def work(conn: libvirt.virConnect) -> HostFacts:
            info = conn.getInfo()
            memory = conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            cpu = conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)
            free_kb = sum(int(memory.get(key, 0)) for key in ("free", "buffers", "cached"))
            return HostFacts(
                hostname=conn.getHostname(),
                libvirt_version=_version(conn.getLibVersion()),
                qemu_version=_version(conn.getVersion()),
                cpus=int(info[2]),
                memory_mb=int(memory.get("total", 0)) >> 10,
                memory_free_mb=free_kb >> 10,
                disk_free_mb=disk_free_mb,
                virt_type=self.virt_type,
                cpu_busy_ns=sum(int(cpu.get(key, 0)) for key in ("kernel", "user")),
                cpu_idle_ns=sum(int(cpu.get(key, 0)) for key in ("idle", "iowait")),
            )

        return await self._connection.call(work, what="ask the host")

    # --- networks ------------------------------------------------------------------------------------

    async def ensure_network(self, spec: NetworkSpec) -> None:
        """See :func:`backend.hypervisor.networks.ensure_network`."""
        here = isinstance(self._files, LocalFiles)
        await networks.ensure_network(self._connection, spec, self._prefix, here=here)

    async def find_network(self, name: str) -> ForeignNetwork:
        """See :func:`backend.hypervisor.networks.find_network`."""
        return await networks.find_network(self._connection, name)

    async def our_networks(self) -> list[str]:
        """The names of our networks."""
        return await networks.our_networks(self._connection, self._prefix)

    async def remove_network(self, name: str) -> None:
        await networks.remove_network(self._connection, name, self._prefix)

    async def vanish(self) -> list[str]:
        """Remove all that is ours on this host: templates, copies of images, networks, the pool. What had to
        stay there, by name.

        Raises:
            WrongState: there are domains of ours, or files of such; nothing was removed.
        """
        if there := [*(one.name for one in await self.list_ours()), *await self.leftovers()]:
            raise WrongState(f"{', '.join(there[:3])} of ours are there", remedy="fluid gc, then try again")
        for key in await self.templates():
            await self.remove_template(key)
        await self.forget_image(await self.images())
        for network in await self.our_networks():
            await self.remove_network(network)
        return await self._files.vanish()

    # --- images and layers ---------------------------------------------------------------------------

    async def ensure_image(self, image: GuestImage) -> GuestImage:
        """The image's disk, kernel and initrd as files of this host. Templates and cold boots ask for it
        themselves: it is for bringing a large image over ahead of them."""
        return await self._files.ensure_image(image)

    async def local_layers(self, layers: Sequence[Path]) -> list[Path]:
        """Frozen disk layers of this host, in the order given, as files of the control node. They may be read
        until the layer is deleted."""
        return await self._files.local_layers(layers)

    # --- new guests ----------------------------------------------------------------------------------

    async def ensure_template(
        self, image: GuestImage, *, cpu: int, memory_mb: int, before: Before | None = None
    ) -> Template:
        """See :meth:`backend.hypervisor.templates.Templates.ensure`."""
        return await self._templates.ensure(image, cpu=cpu, memory_mb=memory_mb, before=before)

    async def fork(
        self,
        template: Template,
        identity: Identity,
        network: str,
        *,
        metadata: dict[str, str],
        login: Login | None = None,
    ) -> DomainInfo:
        """A new running guest from a template; SSH is to be met with ``identity``'s host key. ``login`` is
        awaited as soon as that can be, beside the rest of the work; when it fails, nothing is left."""
        return await forks.fork(self._domains, self._ways, template, identity, network, metadata, login)

    async def branch(
        self, snapshot: SnapshotFiles, identity: Identity, network: str, *, metadata: dict[str, str]
    ) -> DomainInfo:
        """See :func:`backend.hypervisor.branches.branch`."""
        return await branches.branch(self._domains, snapshot, identity, network, metadata)

    async def hand_out(
        self, domain: str, *, hostname: str, metadata: dict[str, str], ca_public: str = ""
    ) -> DomainInfo:
        """See :mod:`backend.hypervisor.stock`; a fork with ``role: stock`` is parked by :meth:`pause`."""
        return await stock.hand_out(self._domains, domain, hostname, metadata, ca_public)

    async def suspend(self, domain: str) -> Path:
        """See :mod:`backend.hypervisor.stock`: a parked fork's memory, moved to a file of that host."""
        return await stock.suspend(self._domains, domain)

    async def recall(self, domain: str, memory: Path) -> None:
        """The reverse of :meth:`suspend`."""
        await stock.recall(self._domains, domain, memory)

    async def cold_boot(
        self,
        image: GuestImage,
        identity: Identity,
        network: str,
        *,
        cpu: int,
        memory_mb: int,
        metadata: dict[str, str],
    ) -> DomainInfo:
        """A new running guest, booted from the image."""
        return await forks.cold_boot(
            self._domains, image, identity, network, cpu=cpu, memory_mb=memory_mb, metadata=metadata
        )

    async def boot_once(
        self,
        image: GuestImage,
        seed: bytes,
        *,
        cpu: int,
        memory_mb: int,
        limit_s: float,
        on_console: preparations.OnConsole,
    ) -> None:
        """See :func:`backend.hypervisor.preparations.boot_once`."""
        await preparations.boot_once(
            self._domains,
            image,
            seed,
            cpu=cpu,
            memory_mb=memory_mb,
            limit_s=limit_s,
            on_console=on_console,
        )

    async def sweep_preparations(self) -> list[str]:
        """See :func:`backend.hypervisor.preparations.sweep`."""
        return await preparations.sweep(self._domains)

    @property
    def is_local(self) -> bool:
        """Whether its files are files of this machine."""
        return isinstance(self._files, LocalFiles)

    async def templates(self) -> list[str]:
        """The keys of all templates."""
        return await self._files.template_keys()

    async def templates_of(self, sha256: str) -> list[str]:
        """The keys of the templates that stand on the image with this disk."""
        return await self._templates.of(sha256)

    async def has_template(self, wanted: Wanted) -> bool:
        """See :meth:`backend.hypervisor.templates.Templates.has`."""
        return await self._templates.has(wanted)

    async def age_templates(self, wanted: Sequence[Wanted], idle_s: float) -> list[str]:
        """See :meth:`backend.hypervisor.templates.Templates.age`."""
        return await self._templates.age(wanted, idle_s)

    async def template_leftovers(self, wanted: Sequence[Wanted]) -> list[str]:
        """See :meth:`backend.hypervisor.templates.Templates.leftovers`."""
        return await self._templates.leftovers(wanted)

    async def is_free_template(self, key: str) -> bool:
        """See :meth:`backend.hypervisor.templates.Templates.is_free`."""
        return await self._templates.is_free(key)

    async def remove_template(self, key: str) -> None:
        """A template that no guest stands on."""
        await self._templates.remove(key)

    async def forget_image(self, files: Sequence[Path]) -> None:
        """Remove this host's own copies of an image's files, which no guest stands on."""
        await self._files.forget_image(files)

    async def images(self) -> list[Path]:
        """See :meth:`backend.hypervisor.storage.HostFiles.images`."""
        return await self._files.images()

    # --- other people's domains ----------------------------------------------------------------------

    async def source(self, name: str) -> SourceDomain:
        """The domain of that name, whoever's it is; nothing of it is changed. Raises NotFound."""
        return await sources.find(self._connection, name)

    async def marked_sources(self) -> list[str]:
        """The names of the domains that carry our mark as sources, and are not named as ours are."""
        marked = await sources.marked(self._connection)
        return [name for name in marked if not name.startswith(f"{self._prefix}-")]

    async def source_addresses(self, source: SourceDomain) -> set[str]:
        """See :func:`backend.hypervisor.sources.addresses`."""
        return await sources.addresses(self._connection, source)

    def copy_place(self, here: Path) -> Path:
        """The file on that host that stands for the new file ``here`` while QEMU writes it."""
        return self._files.copy_place(here)

    async def back_up_source(
        self, source: SourceDomain, target: str, copying: Copying, into: Path, limits: BackupLimits
    ) -> Backup:
        """See :func:`backend.hypervisor.sources.back_up`; ``into`` is a file of this machine, where the copy
        is brought from its place. Who calls it calls :meth:`end_source_copy` then, whatever happened."""
        done = await sources.back_up(self._connection, source, target, copying, limits)
        await self._files.bring(copying.file, into)
        return done

    async def end_source_copy(self, name: str, file: Path, late_s: float) -> bool:
        """See :func:`backend.hypervisor.sources.end`. Then nothing is left of ``file``."""
        found = await sources.end(self._connection, name, file, late_s)
        await self._files.remove_copy(file)
        return found

    async def fetch_source_file(self, path: Path, into: Path, limits: BackupLimits) -> None:
        """See :func:`backend.hypervisor.far_sources.fetch`."""
        await far_sources.fetch(self._connection, path, into, limits)

    async def source_file_bytes(self, path: Path) -> int:
        """See :func:`backend.hypervisor.far_sources.size_bytes`."""
        return await far_sources.size_bytes(self._connection, path)

    async def read_source_file(self, path: Path, offset: int, length: int) -> bytes:
        """See :func:`backend.hypervisor.far_sources.read`."""
        return await far_sources.read(self._connection, path, offset, length)

    async def thaw_source(self, name: str) -> None:
        """See :func:`backend.hypervisor.sources.thaw`."""
        await sources.thaw(self._connection, name)

    # --- a guest's life ------------------------------------------------------------------------------

    async def start(self, domain: str, *, ca_public: str = "") -> DomainInfo:
        """Boot a stopped domain; returns when the daemon inside answers and its clock is right. ``ca_public``
        as in :class:`Identity`, here and below: empty leaves the guest those it has."""
        return await self._domains.start(domain, ca_public)

    async def stop(self, domain: str, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """See :func:`backend.hypervisor.shutdown.stop`."""
        return await shutdown.stop(self._domains, domain, timeout_s)

    async def destroy(self, domain: str, *, uuid: str = "") -> None:
        """The domain and all its files, snapshots included; nothing is wrong when there is nothing. See
        :meth:`backend.hypervisor.domains.Domains.destroy` for ``uuid``."""
        await self._domains.destroy(domain, uuid)

    async def pause(self, domain: str) -> None:
        await self._domains.pause(domain)

    async def resume(self, domain: str, *, ca_public: str = "") -> None:
        """Go on, with the clock of now."""
        await self._domains.resume(domain, ca_public)

    async def trust(self, domain: str, ca_public: str) -> None:
        """The CA keys of now for a guest that runs and that SSH does not reach."""
        await self._domains.wake(domain, ca_public)

    async def grow_disk(self, domain: str, size_gb: int) -> None:
        """See :func:`backend.hypervisor.sizes.grow_disk`."""
        await sizes.grow_disk(self._domains, domain, size_gb)

    async def disk_use(self) -> list[DiskUse]:
        """See :func:`backend.hypervisor.sizes.disk_use`."""
        return await sizes.disk_use(self._domains)

    # --- snapshots -----------------------------------------------------------------------------------

    async def snapshot(
        self,
        domain: str,
        name: str,
        *,
        memory: bool = True,
        quiesce_timeout_s: float = QUIESCE_TIMEOUT_S,
    ) -> SnapshotFiles:
        """See :func:`backend.hypervisor.snapshots.snapshot`."""
        return await snapshots.snapshot(
            self._domains, domain, name, memory=memory, quiesce_timeout_s=quiesce_timeout_s
        )

    async def restore(self, domain: str, snapshot: SnapshotFiles, *, ca_public: str = "") -> DomainInfo:
        """See :func:`backend.hypervisor.snapshots.restore`."""
        return await snapshots.restore(self._domains, domain, snapshot, ca_public)

    async def delete_snapshot(self, domain: str, snapshot: str) -> int:
        """See :func:`backend.hypervisor.snapshots.delete_snapshot`."""
        return await snapshots.delete_snapshot(self._domains, domain, snapshot)

    async def settle(self, domain: str) -> None:
        """Return when libvirt has ended what somebody who is gone had asked of the domain; nothing is wrong
        when there is no such domain."""
        await snapshots.settle(self._domains, domain)

    async def tidy(self, domain: str) -> int:
        """Remove the layers of a domain that nothing stands on; the bytes that the disk has again."""
        return await snapshots.tidy(self._domains, domain)

    async def disk_layers(self, domain: str) -> list[Path]:
        """The current chain of disk files, top first."""
        return await snapshots.layers_of(self._domains, domain)

    async def layers_below(self, layer: Path) -> list[Path]:
        """See :func:`backend.hypervisor.snapshots.layers_below`."""
        return await snapshots.layers_below(self._files, layer)

    async def to_merge(self, domain: str) -> list[Mergeable]:
        """See :func:`backend.hypervisor.merging.to_merge`."""
        return await merging.to_merge(self._domains, domain)

    async def merge(self, domain: str, found: Sequence[Mergeable]) -> int:
        """See :func:`backend.hypervisor.merging.merge`."""
        return await merging.merge(self._domains, domain, found)

    # --- what there is -------------------------------------------------------------------------------

    async def info(self, domain: str) -> DomainInfo:
        """One domain of ours, or NotFound."""
        return await self._domains.info(domain)

    async def take_back(self, domain: str, uuid: str) -> DomainInfo | None:
        """See :meth:`backend.hypervisor.domains.Domains.take_back`."""
        return await self._domains.take_back(domain, uuid)

    async def why_died(self, domain: str, ran_at: datetime) -> kernel_log.Verdict:
        """What this machine's kernel knows of a domain that ran then and died; another's log is not read."""
        if not self.is_local:
            return "unknown"
        return await asyncio.to_thread(kernel_log.verdict, domain, ran_at)

    async def list_ours(self, kind: str = "") -> list[DomainInfo]:
        """Every domain with our mark and prefix; ``kind``: what their names go on with."""
        return await self._domains.list_ours(kind)

    async def is_idle(self) -> bool:
        """Whether no domain runs there, whoever it belongs to."""

        def work(connection: libvirt.virConnect) -> bool:
            return not connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)

        return await self._connection.call(work, what="list domains")

    async def leftovers(self) -> list[str]:
        """Domain names whose files are there without a domain; ``destroy`` removes them."""
        return await self._domains.leftovers()

    def unnamed(self) -> set[str]:
        """The names of domains that are ours and no sandbox: templates that are being built."""
        return set(self._domains.unnamed)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[AsyncIterator[DomainEvent]]:
        """As :meth:`events`, from the moment of entering."""
        async with self._connection.listening() as queue:

            async def told() -> AsyncIterator[DomainEvent]:
                while True:
                    yield await queue.get()

            yield self._of_ours(told())

    async def _of_ours(self, events: AsyncIterator[DomainEvent]) -> AsyncIterator[DomainEvent]:
        async for event in events:
            if not event.domain or event.domain.startswith(f"{self._prefix}-"):
                yield event

    async def events(self) -> AsyncIterator[DomainEvent]:
        """What happens to our domains, and ``lost``/``connected`` of the host (with an empty domain)."""
        async with self.listening() as events:
            async for event in events:
                yield event


def _version(number: int) -> str:
    """libvirt packs a version as major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
