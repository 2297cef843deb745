"""Other people's domains as sources: looked at, and copied while they run. Nothing of them is ever changed.

A copy is libvirt's full backup in push mode: one consistent point, written by the domain's own QEMU into a
file of ours, while its disks and its chain stay as they are. Where QEMU's agent answers, the guest's file
systems are frozen at that point, and thawed. What was asked for may come true when nobody waits any more, and
outlives us: :class:`Copying` says so, and who keeps it calls :func:`thaw` and :func:`end` until they succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import libvirt

from backend.errors import FluidError, HypervisorFailed, NoSpace, NotFound, TimedOut, TooLarge, WrongState
from backend.hypervisor.connection import CALL_TIMEOUT_S, Connection, looked_up
from backend.hypervisor.domains import role_of
from backend.hypervisor.source_xml import SourceDomain, backup_files, backup_xml, source_domain
from backend.hypervisor.states import state_of

log = logging.getLogger(__name__)
T = TypeVar("T")

SOURCE_ROLE = "source"
FREEZE_S = 10.0  # a healthy agent needs a tenth of a second
THAW_S = 40.0  # libvirt itself waits 30 s for whoever asks the domain something else
LOOK_EVERY_S = 0.5  # the job's end is told by no event to a connection that was lost meanwhile
LATE_S = 45.0  # what nobody waits for any more may begin so late: libvirt waits 30 s for a busy domain
UNSUPPORTED = {
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    libvirt.VIR_ERR_NO_SUPPORT,
    libvirt.VIR_ERR_OPERATION_INVALID,
}
BACKUP = libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP
AGENT_SILENT = {libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED}
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


@dataclass
class Copying:
    """A copy into the new file ``file`` of that host. Whatever :func:`back_up` raises: ``frozen`` if the
    guest's file systems may stand still, ``writing`` if QEMU may write the file; now, or later."""

    file: Path
    frozen: bool = False
    writing: bool = False


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
    connection: Connection, source: SourceDomain, target: str, copying: Copying, limits: BackupLimits
) -> Backup:
    """Copy the disk ``target`` of a running domain. What it raises may leave something going on there: see
    :class:`Copying`.

    Raises:
        WrongState: libvirt cannot, there; it is off; or something else is under way with the domain.
        NoSpace, TooLarge: before anything was begun. HypervisorDown, HypervisorFailed, TimedOut.
    """
    started = time.monotonic()
    await _must_fit(connection, source, target, limits)
    others = [disk.target for disk in source.disks if disk.target != target]
    xml = backup_xml(target, others, copying.file)
    unquiesced, frozen_s = await _begin_at_one_point(connection, source, xml, copying)
    try:
        async with asyncio.timeout(limits.total_s):
            while await _on(connection, source, _runs, "follow the copy of"):  # noqa: ASYNC110 - see above
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError as error:
        raise TimedOut(
            f"copying {source.name} took longer than {limits.total_s:g} s", remedy="shut it off first"
        ) from error
    copying.writing = False
    await _on(connection, source, _must_have_ended_well, "end the copy of")
    return Backup(unquiesced, round(frozen_s, 3), round(time.monotonic() - started, 3))


async def end(connection: Connection, name: str, file: Path, late_s: float) -> bool:
    """End the copy into ``file``, and no other job of the domain; whether there was one. When it returns
    nothing writes there. A copy that is not there may begin yet: for ``late_s`` it is looked for again."""
    found, until = False, time.monotonic() + late_s
    with contextlib.suppress(NotFound):  # a copy goes with its domain
        while True:
            if await connection.call(
                lambda conn: _abort(conn.lookupByName(name), file), what=f"end the copy of {name}"
            ):
                found = True
            elif found or time.monotonic() >= until:
                break
            await asyncio.sleep(LOOK_EVERY_S)
    return found


async def thaw(connection: Connection, name: str) -> None:
    """Thaw the file systems of a running guest, frozen or not."""

    def work(conn: libvirt.virConnect) -> None:
        domain = conn.lookupByName(name)
        if domain.isActive():
            domain.fsThaw()

    await connection.call(work, what=f"thaw the file systems of {name}", limit_s=THAW_S)


async def _on(
    connection: Connection,
    source: SourceDomain,
    function: Callable[[libvirt.virDomain], T],
    what: str,
    limit_s: float = CALL_TIMEOUT_S,
) -> T:
    """``function`` with just that domain, under whatever name it has by now; not begun once nobody waits."""
    given_up = threading.Event()

    def work(conn: libvirt.virConnect) -> T:
        domain = conn.lookupByUUIDString(source.uuid)
        if given_up.is_set():
            raise TimeoutError
        return function(domain)

    try:
        return await connection.call(work, what=f"{what} {source.name}", limit_s=limit_s)
    finally:
        given_up.set()


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


async def _begin_at_one_point(
    connection: Connection, source: SourceDomain, xml: str, copying: Copying
) -> tuple[str, float]:
    """Freeze, begin, thaw; why the guest was not frozen, and how long it was."""
    refused: str | None = None  # no answer yet
    started = time.monotonic()
    copying.frozen = copying.frozen or source.can_freeze
    try:
        refused = await _freeze(connection, source)
        await _begin(connection, source, xml, copying)
    finally:
        if source.can_freeze:
            # A freeze that was given up may still come true: who was asked is thawed, whatever it said.
            try:
                await asyncio.shield(thaw(connection, source.name))
            except FluidError as error:
                if refused == "":
                    raise
                copying.frozen = refused is None or not _is_refusal(error)
            else:
                copying.frozen = refused is None
    return refused, 0.0 if refused else time.monotonic() - started


def _is_refusal(error: FluidError) -> bool:
    """Whether the agent itself said no: it did nothing, and does nothing later."""
    cause = error.__cause__
    silent = isinstance(cause, libvirt.libvirtError) and cause.get_error_code() in AGENT_SILENT
    return isinstance(error, HypervisorFailed) and not silent


async def _freeze(connection: Connection, source: SourceDomain) -> str:
    """Why the guest's file systems are not frozen; empty when they are. TimedOut: they may be soon."""
    if source.state != "running":
        return f"it is {source.state}"
    if source.agent != "connected":
        return "QEMU's agent does not answer in it" if source.agent else "it has no channel to QEMU's agent"
    try:
        await _on(
            connection, source, lambda domain: domain.fsFreeze(), "freeze the file systems of", FREEZE_S
        )
    except HypervisorFailed as error:
        log.warning("%s is copied without being quiesced: %s", source.name, error.message)
        return error.message
    return ""


async def _begin(connection: Connection, source: SourceDomain, xml: str, copying: Copying) -> None:
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

    copying.writing = True
    try:
        await _on(connection, source, work, "begin to copy")
    except (HypervisorFailed, WrongState):  # libvirt's own answer: it begins nothing later
        copying.writing = False
        raise


def _runs(domain: libvirt.virDomain) -> bool:
    return bool(domain.isActive()) and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE


def _must_have_ended_well(domain: libvirt.virDomain) -> None:
    """virDomainGetJobStats of the job that ended last. It is kept there for whoever else asks."""
    if not domain.isActive():
        raise WrongState("the domain went off while it was copied", remedy="try again")
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    stats = domain.jobStats(flags)
    if stats.get("operation") != BACKUP or not stats.get("success"):
        why = stats.get("errmsg") or "the job ended and is not whole"
        raise HypervisorFailed(f"the domain was not copied: {why}", remedy="read the host's libvirt log")


def _abort(domain: libvirt.virDomain, file: Path) -> bool:
    """Whether the copy into ``file`` is under way there, which is being ended then. HypervisorFailed: nobody
    can tell whose the copy is that is being prepared."""
    xml = looked_up(lambda: domain.backupGetXMLDesc(0), libvirt.VIR_ERR_NO_DOMAIN_BACKUP)
    if xml is None:
        # One of which it does not say yet which files it writes: libvirt itself fails here then.
        if domain.isActive() and domain.jobStats(0).get("operation") == BACKUP:
            raise HypervisorFailed("a copy of it is being prepared", remedy="it is looked at again")
        return False
    if str(file) not in backup_files(xml):
        return False
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # it has ended by itself
            raise
    return True
