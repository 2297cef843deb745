"""Other people's domains as sources: looked at, and copied while they run. Nothing of them is ever changed.

A copy is libvirt's full backup in push mode: one consistent point, written by the domain's own QEMU into a
file of ours, while its disks and its chain stay as they are. Where QEMU's agent answers, the guest's file
systems are frozen at that point, and thawed whatever happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import libvirt

from backend.errors import FluidError, HypervisorFailed, NoSpace, TimedOut, TooLarge, WrongState
from backend.hypervisor.connection import Connection
from backend.hypervisor.domains import role_of
from backend.hypervisor.source_xml import SourceDomain, backup_xml, source_domain
from backend.hypervisor.states import state_of

log = logging.getLogger(__name__)
T = TypeVar("T")

SOURCE_ROLE = "source"
FREEZE_S = 10.0  # a healthy agent needs a tenth of a second
THAW_S = 40.0  # libvirt itself waits 30 s for whoever asks the domain something else
LOOK_EVERY_S = 0.5  # the job's end is told by no event to a connection that was lost meanwhile
UNSUPPORTED = {
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_OPERATION_INVALID,
}
ADDRESS_SOURCES = (
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
)


@dataclass(frozen=True)
class BackupLimits:
    """``bytes``: of the disk; ``room_bytes``: what the copy may take where it goes."""

    bytes: int
    room_bytes: int
    total_s: float = 3600


@dataclass(frozen=True)
class Backup:
    """A copy that is whole. ``unquiesced``: why the guest's file systems were not frozen; empty if they were.
    ``frozen_s``: how long they were."""

    unquiesced: str
    frozen_s: float
    took_s: float


async def find(connection: Connection, name: str) -> SourceDomain:
    """The domain of that name, whoever's it is. Raises NotFound."""
    return await connection.call(
        lambda conn: _told(conn.lookupByName(name)), what=f"look at the domain {name}"
    )


async def marked(connection: Connection) -> list[str]:
    """The names of the domains that carry our mark with the role of a source."""

    def work(conn: libvirt.virConnect) -> list[str]:
        found = []
        for domain in conn.listAllDomains(0):
            with contextlib.suppress(libvirt.libvirtError):  # it may vanish between the list and the look
                if role_of(domain) == SOURCE_ROLE:
                    found.append(domain.name())
        return sorted(found)

    return await connection.call(work, what="list domains")


async def addresses(connection: Connection, source: SourceDomain) -> set[str]:
    """The IP addresses that libvirt's leases and the agent know; of a domain that is off: none."""

    def work(domain: libvirt.virDomain) -> set[str]:
        found: set[str] = set()
        for kind in ADDRESS_SOURCES:
            with contextlib.suppress(libvirt.libvirtError):
                for card in domain.interfaceAddresses(kind, 0).values():
                    found.update(one["addr"] for one in card["addrs"] or ())
        return found

    return set() if source.is_off else await _on(connection, source, work, "ask for the addresses of")


async def back_up(
    connection: Connection, source: SourceDomain, target: str, into: Path, limits: BackupLimits
) -> Backup:
    """Copy the disk ``target`` of a running domain into the new file ``into``.

    Raises:
        WrongState: libvirt cannot, there; it is off; or something else is under way with the domain.
        NoSpace, TooLarge: before anything was begun. HypervisorFailed, TimedOut: nothing goes on there.
    """
    started = time.monotonic()
    await _must_fit(connection, source, target, limits)
    others = [disk.target for disk in source.disks if disk.target != target]
    xml = backup_xml(target, others, into)
    unquiesced, frozen_s = await _begin_at_one_point(connection, source, xml)
    try:
        async with asyncio.timeout(limits.total_s):
            while await _on(connection, source, _runs, "follow the copy of"):  # noqa: ASYNC110 - see above
                await asyncio.sleep(LOOK_EVERY_S)
        await _on(connection, source, _must_have_ended_well, "end the copy of")
    except BaseException as error:
        await _give_up(connection, source)
        if isinstance(error, TimeoutError):
            raise TimedOut(
                f"copying {source.name} took longer than {limits.total_s:g} s", remedy="shut it off first"
            ) from error
        raise
    return Backup(unquiesced, round(frozen_s, 3), round(time.monotonic() - started, 3))


async def thaw(connection: Connection, name: str) -> None:
    """Thaw the file systems of a running guest, frozen or not."""

    def work(conn: libvirt.virConnect) -> None:
        domain = conn.lookupByName(name)
        if domain.isActive():
            domain.fsThaw()

    await connection.call(work, what=f"thaw the file systems of {name}", limit_s=THAW_S)


async def _on(
    connection: Connection, source: SourceDomain, function: Callable[[libvirt.virDomain], T], what: str
) -> T:
    """``function`` with just that domain, under whatever name it has by now."""
    return await connection.call(
        lambda conn: function(conn.lookupByUUIDString(source.uuid)), what=f"{what} {source.name}"
    )


def _told(domain: libvirt.virDomain) -> SourceDomain:
    state, _ = state_of(domain)
    return source_domain(domain.XMLDesc(0), state, role_of(domain))


async def _must_fit(connection: Connection, source: SourceDomain, target: str, limits: BackupLimits) -> None:
    capacity, allocated, _ = await _on(
        connection, source, lambda domain: tuple(domain.blockInfo(target)), "look at the disk of"
    )
    if capacity > limits.bytes:
        raise TooLarge(
            f"{source.name} has a disk of {capacity >> 20} MB, at most {limits.bytes >> 20} MB are taken",
            remedy="raise limits.image_gb",
        )
    if allocated > limits.room_bytes:
        raise NoSpace(
            f"copying {source.name} needs up to {allocated >> 20} MB, {limits.room_bytes >> 20} are left",
            remedy="free space where the images lie, or lower limits.disk_reserve_mb",
        )


async def _begin_at_one_point(connection: Connection, source: SourceDomain, xml: str) -> tuple[str, float]:
    """Freeze, begin, thaw; why the guest was not frozen, and how long it was."""
    began, refused, started = False, "it was not asked", time.monotonic()
    try:
        refused = await _freeze(connection, source)
        await _begin(connection, source, xml)
        began = True
    finally:
        if source.can_freeze:
            # A freeze that was given up may still come true: who was asked is thawed, whatever it said.
            try:
                await asyncio.shield(thaw(connection, source.name))
            except FluidError:
                if not refused:
                    if began:
                        await _give_up(connection, source)
                    raise
    return refused, 0.0 if refused else time.monotonic() - started


async def _give_up(connection: Connection, source: SourceDomain) -> None:
    """End the copy that we began; there is one at a time."""
    with contextlib.suppress(FluidError):
        await asyncio.shield(_on(connection, source, _abort, "abort the copy of"))


async def _freeze(connection: Connection, source: SourceDomain) -> str:
    """Why the guest's file systems are not frozen; empty when they are. TimedOut: they may be soon."""
    if source.state != "running":
        return f"it is {source.state}"
    if source.agent != "connected":
        return "QEMU's agent does not answer in it" if source.agent else "it has no channel to QEMU's agent"
    try:
        await connection.call(
            lambda conn: conn.lookupByUUIDString(source.uuid).fsFreeze(),
            what=f"freeze the file systems of {source.name}",
            limit_s=FREEZE_S,
        )
    except HypervisorFailed as error:
        log.warning("%s is copied without being quiesced: %s", source.name, error.message)
        return error.message
    return ""


async def _begin(connection: Connection, source: SourceDomain, xml: str) -> None:
    def work(domain: libvirt.virDomain) -> None:
        try:
            domain.backupBegin(xml, None, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in UNSUPPORTED:
                raise
            raise WrongState(
                f"{source.name} cannot be copied while it runs: {error.get_error_message()}",
                remedy="shut it off, and try again",
            ) from error

    await _on(connection, source, work, "begin to copy")


def _runs(domain: libvirt.virDomain) -> bool:
    return bool(domain.isActive()) and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE


def _must_have_ended_well(domain: libvirt.virDomain) -> None:
    """virDomainGetJobStats of the job that ended last. It is kept there for whoever else asks."""
    if not domain.isActive():
        raise WrongState("the domain went off while it was copied", remedy="try again")
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    stats = domain.jobStats(flags)
    if stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP or not stats.get("success"):
        why = stats.get("errmsg") or "the job ended and is not whole"
        raise HypervisorFailed(f"the domain was not copied: {why}", remedy="read the host's libvirt log")


def _abort(domain: libvirt.virDomain) -> None:
    """Nothing but a copy is ended."""
    if domain.isActive():
        stats = domain.jobStats(0)
        if stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
            domain.abortJob()
