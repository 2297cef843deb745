"""A saved memory run as another domain: the save image is copied with that domain's XML in its header."""

from __future__ import annotations

import asyncio
from pathlib import Path

import libvirt

from backend.hypervisor.domain_xml import Rebase, memory_mb_of, rebased_xml
from backend.hypervisor.domains import SECURE_XML, START_TIMEOUT_S, Domains, memory_limit_s
from backend.steps import reached


async def restore_memory(domains: Domains, source: Path, to: Rebase) -> None:
    """Run a saved memory, by a copy for the meantime, as the domain that ``to`` names."""
    copy = domains.files.path(to.name, "restore.save")
    memory_mb = 0

    def edit(xml: bytes) -> bytes:
        nonlocal memory_mb
        memory_mb = memory_mb_of(xml)
        return rebased_xml(xml, to)

    def restore(connection: libvirt.virConnect) -> None:
        connection.restoreFlags(str(copy), None, libvirt.VIR_DOMAIN_SAVE_RUNNING)

    try:
        await domains.files.copy_memory(source, copy, edit)
        reached("memory")
        limit_s = memory_limit_s(START_TIMEOUT_S, memory_mb)
        await domains.connection.call(restore, what=f"restore {to.name}", limit_s=limit_s)
        reached("running")
    finally:
        await asyncio.shield(domains.files.remove(copy))
    await domains.call(to.name, _persist, what="keep")
    reached("defined")


def _persist(domain: libvirt.virDomain) -> None:
    """A restored domain is transient until its XML is defined."""
    domain.connect().defineXML(domain.XMLDesc(SECURE_XML))
