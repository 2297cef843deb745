"""The ways to make a guest of a template, the fastest first; which one a host goes, its first forks find out.

- *save image*: the template's saved memory with another domain's XML written into its header. The header is
  libvirt's own business, and may change with it.
- *snapshot copy*: a disk that holds a snapshot with memory, copied and reverted to. All of it is public API,
  and each fork carries the memory in its disk until it runs.
- *cold boot*: of an overlay on the template's disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import libvirt

from backend.errors import HypervisorFailed
from backend.hypervisor.domain_xml import Rebase, rebased_xml, tree
from backend.hypervisor.domains import BOOT_TIMEOUT_S, START_TIMEOUT_S, Domains, memory_limit_s
from backend.hypervisor.memories import restore_memory
from backend.hypervisor.nouns import FORK_WAYS, ForkWay, Template, WayName
from backend.hypervisor.storage import TEMPLATE_RAM, TEMPLATE_RAM_XML
from backend.steps import reached

log = logging.getLogger(__name__)

SNAPSHOT = "<domainsnapshot><name>fork</name></domainsnapshot>"
SNAPSHOT_TIMEOUT_S = 120.0
UNTRIED = "not tried yet"


class WayClosed(Exception):
    """The host does not go the way that was tried; the next fork goes another."""


class ForkWays:
    """Which way one host goes. A way that worked once is not left any more: what fails on it is told."""

    def __init__(self, domains: Domains, forced: WayName | None) -> None:
        self._domains = domains
        self._settled = forced is not None
        self._preparing = asyncio.Lock()
        self.way = ForkWay(forced or FORK_WAYS[0], "asked for" if forced else UNTRIED)

    async def run(self, template: Template, to: Rebase) -> WayName:
        """Run a guest of the template on the disk that ``to`` names, which is made here. Returns the way it
        went, or raises WayClosed: what was begun is to be removed, and tried again."""
        way = self.way.name
        if way == "snapshot copy":
            with self._trying(way):
                await self._revert(template, to)
        else:
            await self._domains.files.create_overlay(to.disk, template.disk)
            reached("overlay")
            with self._trying(way):
                if way == "save image":
                    await restore_memory(self._domains, template.memory, to)
                else:
                    await self._boot(template, to)
        return way

    @contextlib.contextmanager
    def _trying(self, way: WayName) -> Iterator[None]:
        try:
            yield
        except HypervisorFailed as error:
            if self._settled or way == FORK_WAYS[-1]:
                raise
            if self.way.name == way:  # several may have tried it at once
                log.warning("forks go another way than by %s: %s", way, error.message)
                self.way = ForkWay(FORK_WAYS[FORK_WAYS.index(way) + 1], f"no {way}: {error.message}")
            raise WayClosed(way) from error
        if not self._settled and self.way.name == way:
            self._settled = True
            if self.way.reason == UNTRIED:
                self.way = ForkWay(way, "a guest was forked so")

    # --- snapshot copy -------------------------------------------------------------------------------

    async def _revert(self, template: Template, to: Rebase) -> None:
        files = self._domains.files
        disk, told = (files.template_path(template, name) for name in (TEMPLATE_RAM, TEMPLATE_RAM_XML))
        async with self._preparing, files.template_lock(template.key):
            if not await files.exists(told):
                await self._make_snapshot(template, disk, told)
        await files.copy(disk, to.disk)
        reached("overlay")
        snapshot = rebased_snapshot(await files.read(told), to)

        def work(connection: libvirt.virConnect) -> None:
            domain = connection.defineXML(ET.tostring(_domain_of(snapshot), encoding="unicode"))
            point = domain.snapshotCreateXML(
                ET.tostring(snapshot, encoding="unicode"),
                libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT,
            )
            domain.revertToSnapshot(point, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
            point.delete(0)  # its room in the disk is used again

        limit_s = memory_limit_s(SNAPSHOT_TIMEOUT_S, template.memory_mb)
        await self._domains.connection.call(work, what=f"revert {to.name}", limit_s=limit_s)
        reached("running")

    async def _make_snapshot(self, template: Template, disk: Path, told: Path) -> None:
        """Run the template's memory once more, paused and on a disk beside its own, and snapshot it into that
        disk. What libvirt tells of the snapshot is written last."""
        files, memory = self._domains.files, str(template.memory)
        owner = f"{self._domains.prefix}-template-{template.key}-ram"  # of its console
        limit_s = memory_limit_s(SNAPSHOT_TIMEOUT_S, 2 * template.memory_mb)  # read once, and written once

        def work(connection: libvirt.virConnect) -> bytes:
            saved = connection.saveImageGetXMLDesc(memory, libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
            root = tree(saved)
            name, uuid = root.findtext("name", ""), root.findtext("uuid", "")
            beside = Rebase(name, uuid, disk, files.path(owner, "console.log"))
            xml = rebased_xml(saved.encode(), beside).decode()
            connection.restoreFlags(memory, xml, libvirt.VIR_DOMAIN_SAVE_PAUSED)
            domain = connection.lookupByName(name)
            try:
                point = domain.snapshotCreateXML(SNAPSHOT, 0)
                return bytes(point.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE).encode())
            finally:
                domain.destroy()

        with self._domains.at_work_on(owner, owner.removesuffix("-ram")):
            await files.drop(owner)
            await files.claim(owner)
            try:
                await files.remove(disk)
                await files.create_overlay(disk, template.disk)
                xml = await self._domains.connection.call(
                    work, what=f"snapshot template {template.key}", limit_s=limit_s
                )
                await files.put(told, xml)
            finally:
                await asyncio.shield(files.drop(owner))

    # --- cold boot -----------------------------------------------------------------------------------

    async def _boot(self, template: Template, to: Rebase) -> None:
        def work(connection: libvirt.virConnect) -> None:
            saved = connection.saveImageGetXMLDesc(
                str(template.memory), libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
            )
            connection.defineXML(rebased_xml(saved.encode(), to).decode()).create()

        await self._domains.connection.call(work, what=f"boot {to.name}", limit_s=START_TIMEOUT_S)
        reached("running")
        await self._domains.ask(to.name, "ping", limit_s=BOOT_TIMEOUT_S, resend=True)


def rebased_snapshot(xml: bytes, to: Rebase) -> ET.Element:
    """A snapshot of one domain as one of another: its two descriptions of the domain become the other's."""
    root = tree(xml)
    for place, element in enumerate(list(root)):
        if element.tag in ("domain", "inactiveDomain"):
            other = tree(rebased_xml(ET.tostring(element), to))
            other.tag = element.tag
            root[place] = other
    return root


def _domain_of(snapshot: ET.Element) -> ET.Element:
    """The description that the next start of the domain reads."""
    for tag in ("inactiveDomain", "domain"):
        if (found := snapshot.find(tag)) is not None:
            found = tree(ET.tostring(found))
            found.tag = "domain"
            return found
    raise HypervisorFailed("a snapshot says nothing of its domain", remedy="let the template be built again")
