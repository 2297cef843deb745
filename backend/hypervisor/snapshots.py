"""External snapshots only: the disk layer is frozen as a file, the memory is a save image.

Restoring makes a new overlay on the frozen layer and runs the memory again: processes go on where they were.
One operation at a time on one domain is the caller's care.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import libvirt

from backend.errors import FluidError, LimitReached, NotFound, SnapshotNotFound, WrongState
from backend.hypervisor.domain_xml import (
    NAMESPACE,
    PREFIX,
    Rebase,
    metadata_element,
    rebased_xml,
    snapshot_xml,
)
from backend.hypervisor.domains import SECURE_XML, START_TIMEOUT_S, Domains, info_of
from backend.hypervisor.memories import restore_memory
from backend.hypervisor.merging import until_over
from backend.hypervisor.nouns import DomainInfo, SnapshotFiles
from backend.hypervisor.storage import MEMORY_SUFFIX, HostFiles
from backend.models.base import check_name
from backend.steps import reached

log = logging.getLogger(__name__)

MOST_LAYERS = 190  # libvirt takes 200
SNAPSHOT_TIMEOUT_S = 120.0
THAW_TIMEOUT_S = 10.0  # after it the guest thaws by itself


async def snapshot(
    domains: Domains, name: str, snapshot_name: str, *, memory: bool, quiesce_timeout_s: float
) -> SnapshotFiles:
    """Freeze, snapshot, thaw. A guest that does not freeze in time is snapshot as it is, and labelled so."""
    started = time.monotonic()
    check_name(snapshot_name, "snapshot name")
    state = (await domains.info(name)).state
    running = state == "running"
    if memory and state not in ("running", "paused"):
        raise WrongState(f"domain {name!r} is {state}: it has no memory to keep", remedy="start it first")
    limit_s = await domains.memory_limit_s(name, SNAPSHOT_TIMEOUT_S) if memory else SNAPSHOT_TIMEOUT_S
    files = domains.files
    layers = tuple(await files.backing_chain(await domains.disk(name)))
    if len(layers) >= MOST_LAYERS:
        raise LimitReached(
            f"the disk of {name!r} has {len(layers)} layers: one of each snapshot, and one of what lies "
            "between two; no more can be made",
            remedy="delete snapshots that nobody needs: their layers are merged then",
        )
    overlay = await files.next_disk(name)
    saved = _memory(files, name, snapshot_name) if memory else None
    async with _marked(files, name, snapshot_name, layers[0]):
        reached("marked")
        if saved:
            await files.make_memory(saved)
        await files.create_overlay(overlay, layers[0])
        reached("overlay")
        async with _frozen(domains, name, quiesce_timeout_s if running else 0) as quiesced:
            reached("frozen")
            began = time.monotonic()
            xml = snapshot_xml(snapshot_name, overlay, saved)
            await _take(domains, name, xml, memory=memory, limit_s=limit_s)
            saved_s = time.monotonic() - began
            reached("taken")
    reached("thawed")
    ended = time.monotonic()
    stood_still_s = ended - began if quiesced else saved_s
    return SnapshotFiles(
        layers, saved, quiesced or not running, round(stood_still_s, 3), round(ended - started, 3)
    )


def _memory(files: HostFiles, name: str, snapshot_name: str) -> Path:
    """The save image of a snapshot's memory."""
    return files.path(name, f"{snapshot_name}{MEMORY_SUFFIX}")


async def must_be_there(files: HostFiles, snapshot: SnapshotFiles) -> None:
    """SnapshotNotFound when its memory or its layer was deleted, before anything is done with it."""
    for path in filter(None, (snapshot.memory_file, snapshot.disk_layers[0])):
        await _must_exist(files, path)


async def layers_below(files: HostFiles, layer: Path) -> list[Path]:
    """A snapshot's layers as they are now, its own on top: some may have become one since. Raises
    SnapshotNotFound."""
    await _must_exist(files, layer)
    return await files.backing_chain(layer)


async def _must_exist(files: HostFiles, path: Path) -> None:
    if not await files.exists(path):
        raise SnapshotNotFound(f"the snapshot is gone: no {path}", remedy="use another snapshot")


@contextlib.asynccontextmanager
async def _marked(files: HostFiles, name: str, snapshot_name: str, layer: Path) -> AsyncIterator[None]:
    """Keep ``layer`` for the snapshot; nothing is kept when the block fails."""
    await files.mark(name, snapshot_name, layer)
    try:
        yield
    except BaseException:
        # The overlay stays: libvirt may end its work after we gave up. A sweep sees whether it is used.
        await asyncio.shield(_unkeep(files, name, snapshot_name))
        raise


async def _unkeep(files: HostFiles, name: str, snapshot_name: str) -> int:
    """The memory goes first: what was cut off in between is found by its mark."""
    freed = await files.remove(_memory(files, name, snapshot_name))
    reached("memory gone")
    await files.unmark(name, snapshot_name)
    return freed


async def _take(domains: Domains, name: str, xml: str, *, memory: bool, limit_s: float) -> None:
    flags = (
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    )
    if not memory:
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    await domains.call(
        name, lambda domain: domain.snapshotCreateXML(xml, flags), what="snapshot", limit_s=limit_s
    )


async def restore(domains: Domains, name: str, snapshot_files: SnapshotFiles, ca_public: str) -> DomainInfo:
    """Put a domain back: same name, card and address; processes of a snapshot with memory go on. It trusts
    the CA keys of now, not those of then."""
    files = domains.files
    await must_be_there(files, snapshot_files)
    frozen = snapshot_files.disk_layers[0]
    info = await domains.info(name)
    overlay = await files.next_disk(name)
    await files.create_overlay(overlay, frozen)
    reached("overlay")
    await domains.power_off(name)
    reached("off")
    to = Rebase(name, info.uuid, overlay, domains.console(name), info.metadata)
    await _change_disk(domains, name, to)  # the definition too: the next cold start reads that one
    reached("disk changed")
    if snapshot_files.memory_file:
        await restore_memory(domains, snapshot_files.memory_file, to)
        await domains.wake(name, ca_public)
        reached("awake")
        result = await domains.info(name)
    else:
        result = await domains.start(name, ca_public)
    await files.sweep(name, await domains.disks(name))  # what was written since
    return result


async def tidy(domains: Domains, name: str) -> int:
    """Remove the layers that neither the domain's disk nor a snapshot stands on."""
    return await domains.files.sweep(name, await domains.disks(name))


async def settle(domains: Domains, name: str) -> None:
    """A call that changes a running domain waits for the one before (libvirt's jobs): its own metadata is set
    to what it is, and a guest that was left frozen goes on."""
    with contextlib.suppress(NotFound):
        info = await domains.info(name)
        if info.state == "shutoff":
            return
        limit_s = await domains.memory_limit_s(name, SNAPSHOT_TIMEOUT_S)
        await domains.call(name, _set_metadata_again, what="wait for", limit_s=limit_s)
        if info.state == "running":
            await _thaw(domains, name, THAW_TIMEOUT_S)
        await until_over(domains, name, SNAPSHOT_TIMEOUT_S)


def _set_metadata_again(domain: libvirt.virDomain) -> None:
    kind, space = libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE
    text = ET.tostring(metadata_element(info_of(domain).metadata, space=""), encoding="unicode")
    domain.setMetadata(kind, text, PREFIX, space, libvirt.VIR_DOMAIN_AFFECT_LIVE)


async def delete_snapshot(domains: Domains, name: str, snapshot_name: str) -> int:
    """Forget a snapshot: its memory goes, and each layer that nothing stands on any more. A layer that the
    running disk, another snapshot or a branch needs stays.

    Returns the bytes that the disk has again. Raises SnapshotNotFound.
    """
    files = domains.files
    check_name(snapshot_name, "snapshot name")
    tops = await domains.disks(name)
    if not await files.is_marked(name, snapshot_name):
        raise SnapshotNotFound(
            f"domain {name!r} has no snapshot {snapshot_name!r}", remedy="list its snapshots"
        )
    freed = await _unkeep(files, name, snapshot_name)
    return freed + await files.sweep(name, tops)


@contextlib.asynccontextmanager
async def _frozen(domains: Domains, name: str, limit_s: float) -> AsyncIterator[bool]:
    """Freeze the guest's file systems for the time of the block; yields whether it did in time."""
    quiesced = False
    try:
        if limit_s > 0:
            try:
                await domains.ask(name, "freeze", limit_s=limit_s)
                quiesced = True
            except FluidError as error:
                log.warning("%s is not quiesced: %s", name, error)
        yield quiesced
    finally:
        if limit_s > 0:
            # One that did not answer may have frozen late: it is asked as long, not longer.
            await asyncio.shield(_thaw(domains, name, THAW_TIMEOUT_S if quiesced else limit_s))


async def _thaw(domains: Domains, name: str, limit_s: float) -> None:
    try:
        await domains.ask(name, "thaw", limit_s=limit_s, epoch=time.time())
    except FluidError as error:
        log.warning("%s was not thawed by us, it thaws by itself: %s", name, error)


async def _change_disk(domains: Domains, name: str, to: Rebase) -> None:
    """Point the definition of a domain that is off at another disk."""

    def work(domain: libvirt.virDomain) -> None:
        xml = rebased_xml(domain.XMLDesc(SECURE_XML).encode(), to)
        domain.connect().defineXML(xml.decode())

    await domains.call(name, work, what="change the disk of", limit_s=START_TIMEOUT_S)


async def layers_of(domains: Domains, name: str) -> list[Path]:
    """The domain's disk as it stands, the top first."""
    return await domains.files.backing_chain(await domains.disk(name))
