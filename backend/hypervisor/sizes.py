"""What one guest may take of its host: its share of the processors, the end of its disk, what it has written.

Shares count while guests compete; nothing holds a guest back on an idle host.
"""

from __future__ import annotations

import logging

import libvirt

from backend.hypervisor.domains import Domains
from backend.hypervisor.nouns import DiskUse

log = logging.getLogger(__name__)
# libvirt hands shares on as cpu.weight, whose usual value is 100 and whose highest 10,000 (cgroup v2).
SHARES_PER_CPU, SHARES_MAX = 100, 10_000
DISK = "vda"
GIB = 1024**3
GROW_TIMEOUT_S = 60.0
EACH = (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG)  # never both in one call
NO_SHARES = (
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_NO_SUPPORT,
)


async def share_processors(domains: Domains, name: str, cpu: int) -> None:
    """Give a running guest shares by its processors. A host without control groups refuses: the kernel
    divides its time among threads then."""
    shares = min(cpu * SHARES_PER_CPU, SHARES_MAX)

    def work(domain: libvirt.virDomain) -> None:
        try:
            for flag in EACH:
                domain.setSchedulerParametersFlags({libvirt.VIR_DOMAIN_SCHEDULER_CPU_SHARES: shares}, flag)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in NO_SHARES:
                raise
            log.info("%s has no shares of the processors: %s", name, error)

    await domains.call(name, work, what="give processor shares to")


async def grow_disk(domains: Domains, name: str, size_gb: int) -> None:
    """Make a running guest's disk end later, and its root file system with it.

    Raises GuestDown when the file system inside cannot follow (it is no ext4, or lies in a partition).
    """
    size = size_gb * GIB

    def work(domain: libvirt.virDomain) -> None:
        domain.blockResize(DISK, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    await domains.call(name, work, what="grow the disk of")
    await domains.ask(name, "grow", bytes=size, limit_s=GROW_TIMEOUT_S)


async def disk_use(domains: Domains) -> list[DiskUse]:
    """How large the top layer of each running guest of ours is by now, in one call. A guest whose QEMU is
    busy is left out."""
    start = f"{domains.prefix}-"

    def work(connection: libvirt.virConnect) -> list[DiskUse]:
        found = []
        told = connection.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_BLOCK,
            libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )
        for domain, facts in told:
            if domain.name().startswith(start) and "block.0.physical" in facts:
                found.append(
                    DiskUse(domain.name(), str(facts.get("block.0.path", "")), int(facts["block.0.physical"]))
                )
        return found

    return await domains.connection.call(work, what="ask for the sizes of disks")
