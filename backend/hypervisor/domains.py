"""Our domains on one host: found by our metadata and our prefix, and no other is ever altered."""

from __future__ import annotations

import base64
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import libvirt

from backend.errors import Conflict, InvalidName, NotFound, WrongState
from backend.hypervisor import channel
from backend.hypervisor.connection import Connection, looked_up
from backend.hypervisor.domain_xml import NAMESPACE, disk_of, parse_metadata
from backend.hypervisor.machines import machine_for
from backend.hypervisor.nouns import DomainInfo, Machine
from backend.hypervisor.states import state_of
from backend.hypervisor.storage import HostFiles
from backend.models.base import check_name
from backend.steps import reached

T = TypeVar("T")

BOOT_TIMEOUT_S = 240.0  # under emulation, with other guests beside it
ANSWER_TIMEOUT_S = 15.0
START_TIMEOUT_S = 60.0
SAVE_TIMEOUT_S = 120.0
MEMORY_RATE_MIN_BYTES_S = 16 << 20  # a slower disk is given up
SEED_BYTES = 32
SECURE_XML = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


def fresh_moment() -> dict[str, Any]:
    """Random bytes and the time, for a guest whose memory is older than now."""
    return {"seed": base64.b64encode(secrets.token_bytes(SEED_BYTES)).decode(), "epoch": time.time()}


def memory_limit_s(least_s: float, memory_mb: int) -> float:
    """How long a call may take that writes or reads so much of a guest's memory."""
    return least_s + (memory_mb << 20) / MEMORY_RATE_MIN_BYTES_S


class Domains:
    """Look up, list, start, stop and remove. ``files`` are theirs on that host."""

    def __init__(self, connection: Connection, files: HostFiles, virt_type: str, prefix: str) -> None:
        self.connection = connection
        self.files = files
        self.virt_type = virt_type
        self.prefix = prefix
        self.unnamed: set[str] = set()  # domains that we are at work on and that no row names
        self._machines: dict[str, Machine] = {}
        # Each for as long as a call of it waits or runs.
        self._taking: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    @contextlib.contextmanager
    def at_work_on(self, *names: str) -> Iterator[None]:
        """Nobody takes these domains and their files for leftovers in the block."""
        self.unnamed.update(names)
        try:
            yield
        finally:
            self.unnamed.difference_update(names)

    def taking(self, name: str) -> threading.Lock:
        """Held on a call's thread, where to look at a domain and to take it are one step. It is the domain's
        own: a guest or a host that hangs holds up no other."""
        return self._taking.setdefault(name, threading.Lock())

    def check_name(self, name: str) -> str:
        if not check_name(name, "domain name").startswith(f"{self.prefix}-"):
            raise InvalidName(
                f"{name!r} is not a domain of ours", remedy=f"our names begin with '{self.prefix}-'"
            )
        return name

    async def machine_for(self, arch: str) -> Machine:
        """How guests of an architecture run on this host; see :func:`machines.machine_for`."""
        if arch not in self._machines:
            self._machines[arch] = await machine_for(self.connection, arch, self.virt_type)
        return self._machines[arch]

    def console(self, name: str) -> Path:
        """Where the domain's serial port is written to."""
        return self.files.path(name, "console.log")

    # --- asking --------------------------------------------------------------------------------------

    async def call(
        self, name: str, function: Callable[[libvirt.virDomain], T], *, what: str, limit_s: float = 30.0
    ) -> T:
        """``function`` with a domain that is ours; Conflict for anybody else's, NotFound for none."""
        self.check_name(name)

        def work(connection: libvirt.virConnect) -> T:
            domain = connection.lookupByName(name)
            if _metadata(domain) is None:
                raise Conflict(
                    f"domain {name!r} carries no mark of ours and is left alone", remedy="use another name"
                )
            return function(domain)

        return await self.connection.call(work, what=f"{what} {name}", limit_s=limit_s)

    async def info(self, name: str) -> DomainInfo:
        return await self.call(name, info_of, what="look at")

    async def list_ours(self, kind: str = "") -> list[DomainInfo]:
        """All domains with our mark and prefix, running or not; ``kind``: what their names go on with."""
        start = f"{self.prefix}-{kind}"

        def work(connection: libvirt.virConnect) -> list[DomainInfo]:
            found = []
            fleeting = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
            transient = {domain.UUIDString() for domain in fleeting}
            for domain in connection.listAllDomains(0):
                # A domain may vanish between the list and the look.
                with contextlib.suppress(libvirt.libvirtError):
                    if domain.name().startswith(start) and (marks := _metadata(domain)) is not None:
                        found.append(_info(domain, marks, domain.UUIDString() not in transient))
            return found

        return await self.connection.call(work, what="list domains")

    async def take_back(self, name: str, uuid: str) -> DomainInfo | None:
        """The domain of ours with this UUID, whatever somebody called it; None when there is none.

        One that is off gets its name again, and one that runs without a definition is defined again. One that
        runs under another name keeps that: libvirt renames none that runs.
        """
        self.check_name(name)

        def work(connection: libvirt.virConnect) -> DomainInfo | None:
            if (domain := _by_uuid(connection, uuid)) is None:
                return None
            if domain.isActive() and not domain.isPersistent():
                connection.defineXML(domain.XMLDesc(SECURE_XML))
            if domain.name() != name and not domain.isActive():
                with contextlib.suppress(libvirt.libvirtError):  # somebody else's has the name now
                    domain.rename(name)
                domain = connection.lookupByUUIDString(uuid)
            return info_of(domain)

        return await self.connection.call(work, what=f"take back {name}", limit_s=START_TIMEOUT_S)

    async def leftovers(self) -> list[str]:
        """Names of domains that have files and do not exist: what a crash in the middle leaves."""

        def names(connection: libvirt.virConnect) -> set[str]:
            return {domain.name() for domain in connection.listAllDomains(0)}

        known = await self.connection.call(names, what="list domains")
        return [name for name in await self.files.claimed() if name not in known]

    async def disk(self, name: str) -> Path:
        """The top layer of the domain's disk."""
        return disk_of(await self.call(name, lambda domain: str(domain.XMLDesc(0)), what="read"))

    async def disks(self, name: str) -> list[Path]:
        """The top layer it runs on, and the one that its next start takes."""

        def work(domain: libvirt.virDomain) -> list[Path]:
            return [disk_of(domain.XMLDesc(flags)) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)]

        return await self.call(name, work, what="read")

    async def ask(self, name: str, operation: str, **values: Any) -> dict[str, Any]:
        """Ask the daemon inside; see :func:`backend.hypervisor.channel.ask`."""
        values.setdefault("limit_s", ANSWER_TIMEOUT_S)
        return await channel.ask(self.connection, name, operation, **values)

    async def memory_limit_s(self, name: str, least_s: float) -> float:
        """See :func:`memory_limit_s`, for all of the domain's memory."""
        memory_kib = await self.call(name, lambda domain: int(domain.maxMemory()), what="ask the memory of")
        return memory_limit_s(least_s, memory_kib >> 10)

    # --- changing ------------------------------------------------------------------------------------

    async def start(self, name: str, ca_public: str = "") -> DomainInfo:
        """Boot a domain that is off and wait for its sshd; for one that runs, set its clock."""
        info = await self.info(name)
        if info.state == "paused":
            raise WrongState(f"domain {name!r} is paused", remedy="resume it")
        if info.state != "running":
            limit_s = await self.memory_limit_s(name, START_TIMEOUT_S)  # an admin may have saved its memory
            await self.call(name, lambda domain: domain.create(), what="start", limit_s=limit_s)
        await self.ask(name, "ping", limit_s=BOOT_TIMEOUT_S, resend=True)
        await self.wake(name, ca_public)
        await self.ask(name, "ready", limit_s=BOOT_TIMEOUT_S)
        return await self.info(name)

    async def power_off(self, name: str) -> None:
        """Pull the plug; nothing to do for a domain that is off."""

        def work(domain: libvirt.virDomain) -> None:
            if domain.isActive():
                domain.destroy()

        await self.call(name, work, what="power off", limit_s=START_TIMEOUT_S)

    async def save(self, name: str, memory: Path) -> None:
        """Move its memory to a file of its own; it is off then."""
        limit_s = await self.memory_limit_s(name, SAVE_TIMEOUT_S)
        await self.files.make_memory(memory)
        await self.call(name, lambda domain: domain.save(str(memory)), what="save", limit_s=limit_s)

    async def pause(self, name: str) -> None:
        await self.call(name, lambda domain: domain.suspend(), what="pause")

    async def resume(self, name: str, ca_public: str = "") -> None:
        """Go on, with the time of now."""
        await self.call(name, lambda domain: domain.resume(), what="resume")
        await self.wake(name, ca_public)

    async def wake(self, name: str, ca_public: str = "", **values: str) -> None:
        """After standing still: thaw what a snapshot froze, set the clock, seed the random generator, trust
        the CA keys of now (as a guest's identity has them; none: those that it has)."""
        await self.ask(name, "wake", **fresh_moment(), ca_public=ca_public, **values)

    async def destroy(self, name: str, uuid: str = "") -> None:
        """Remove the domain and every file of it, also of one that was half made or is gone already. With a
        ``uuid`` it goes also if somebody gave it another name."""

        def under_any_name(connection: libvirt.virConnect) -> None:
            if domain := _by_uuid(connection, uuid):
                _remove(domain)

        with contextlib.suppress(NotFound):
            await self.call(name, _remove, what="destroy", limit_s=START_TIMEOUT_S)
        if uuid:
            with contextlib.suppress(NotFound):
                await self.connection.call(under_any_name, what=f"destroy {name}", limit_s=START_TIMEOUT_S)
        reached("domain gone")
        await self.files.drop(name)
        reached("files gone")


def _metadata(domain: libvirt.virDomain) -> dict[str, str] | None:
    text = looked_up(
        lambda: domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE),
        libvirt.VIR_ERR_NO_DOMAIN_METADATA,
    )
    return None if text is None else parse_metadata(text)


def role_of(domain: libvirt.virDomain) -> str | None:
    """What our mark on a domain says that it is; None without a mark."""
    marks = _metadata(domain)
    return None if marks is None else marks.get("role", "")


def info_of(domain: libvirt.virDomain) -> DomainInfo:
    """A domain of ours as a plain value."""
    return _info(domain, _metadata(domain) or {}, bool(domain.isPersistent()))


def _info(domain: libvirt.virDomain, marks: dict[str, str], persistent: bool) -> DomainInfo:
    state, why = state_of(domain)
    return DomainInfo(domain.name(), domain.UUIDString(), state, marks, why, persistent)


def _by_uuid(connection: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
    """None also for one without our mark: a UUID may be anybody's."""
    domain = looked_up(lambda: connection.lookupByUUIDString(uuid), libvirt.VIR_ERR_NO_DOMAIN)
    return None if domain is None or _metadata(domain) is None else domain


def _remove(domain: libvirt.virDomain) -> None:
    """With what an admin or a backup program left of it in libvirt: points, checkpoints, a saved memory."""
    persistent = domain.isPersistent()
    if domain.isActive():
        domain.destroy()
    if persistent:
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        if _has_checkpoints(domain):  # not every driver knows the flag
            flags |= libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        domain.undefineFlags(flags)


def _has_checkpoints(domain: libvirt.virDomain) -> bool:
    with contextlib.suppress(libvirt.libvirtError):
        return bool(domain.listAllCheckpoints(0))
    return False
