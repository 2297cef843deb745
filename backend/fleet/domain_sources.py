"""Existing libvirt domains as sources: those that the config lists, or that carry our mark, and no other.

The machine's disk is copied once, when an operator says so, into an image of ours; sandboxes are forks of
that. The machine itself is never changed. It is never a sandbox, stock, a template or a target of production.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from backend.audit import Audit, Step
from backend.background import Background
from backend.config import Config, SourceConfig
from backend.disks import DiskReader, Survey
from backend.errors import (
    Conflict,
    DiskUnreadable,
    FluidError,
    ImageRefused,
    NotFound,
    SourceNotFound,
    WrongState,
)
from backend.fleet import preflight
from backend.fleet.core import undone
from backend.fleet.far_disk import FarDisk
from backend.fleet.host import Host
from backend.fleet.hosts import Hosts
from backend.fleet.sources import Sources, say
from backend.fleet.stock import Stock
from backend.hypervisor import LATE_S, SOURCE_ROLE, BackupLimits, Copying, Hypervisor, SourceDomain
from backend.images import (
    WORK_PREFIX,
    Brought,
    FileLayer,
    Images,
    Layer,
    chain_of,
    clone_image,
    copy_layers,
    fetch_layers,
    workspace,
)
from backend.models import (
    Identity,
    ImageView,
    Role,
    SourceCheck,
    SourceFinding,
    SourceSecret,
    SourceView,
    wire_path,
)
from backend.models.base import NAME
from backend.whole_files import write_lasting

log = logging.getLogger(__name__)
OURS = re.compile(r"fluid-[0-9a-f]{6}-.*")  # as every installation names what it makes
COPY = "copy.qcow2"
RESOLVE_S = 3.0
FAR_BYTES = 1 << 30  # what a check reads of a disk on another host
FAR_READ_S = 600.0


class DomainSources:
    """Listed, checked, prepared. ``production`` gives every name and address of a target."""

    def __init__(
        self,
        config: Config,
        state: Path,
        images: Images,
        audit: Audit,
        fleet: Stock,
        sources: Sources,
        hosts: Hosts,
        production: Callable[[], frozenset[str]],
        background: Background,
    ) -> None:
        self._listed = {entry.name: entry for entry in config.sources}
        self._frozen = state / "frozen"
        self._copies = state / "copies"
        self._images = images
        self._audit = audit
        self._fleet = fleet
        self._sources = sources
        self._hosts = hosts
        self._production = production
        self._background = background
        self._reader = DiskReader()
        self._far_reader = DiskReader(timeout_s=FAR_READ_S)
        self._one: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def recover(self) -> None:
        """At a start: a guest that stood still for a copy when the backend died goes on, and the copy
        ends, as soon as the host answers."""
        for note in self._frozen.glob("*.json"):
            self._thaw_soon(note)
        for note in self._copies.glob("*.json"):
            self._end_soon(note)

    async def list(self, actor: Identity) -> Sequence[SourceView]:
        """What may be forked; operators also see the domains that are no source yet, and why."""
        usable = await self._fleet.sources(actor)
        if actor.role is Role.AGENT:
            return usable
        names = {view.name for view in usable}
        entries = [entry for entry in await self._entries() if entry.name not in names]
        return [*usable, *await asyncio.gather(*map(self._pending, entries))]

    async def check(self, actor: Identity, name: str) -> SourceCheck:
        """The pre-flight: what is wrong, with what mends it, and which secrets a clone would carry.

        Raises:
            SourceNotFound: neither listed nor marked. Conflict: it may never be a source.
        """
        entry = await self._entry(name)
        async with self._audit.step(actor, "source.check", "source", name, domain=entry.called) as step:
            source = await self._source(entry)
            told = await self._checked(entry, source)
            step.data.update(can_prepare=told.can_prepare, secrets=len(told.secrets))
        return told

    async def prepare(self, actor: Identity, name: str, as_it_is: bool) -> ImageView:
        """Copy the machine's disk and make it a source; minutes. ``as_it_is``: without preparing the copy,
        which the config must allow.

        Raises:
            SourceNotFound, Conflict, WrongState: before anything was begun.
            ImageRefused, PreparationFailed: nothing is left of the copy.
        """
        entry = await self._entry(name)
        audited = self._audit.step(
            actor, "source.prepare", "source", name, domain=entry.called, host=entry.host, as_it_is=as_it_is
        )
        async with self._one[name], audited as step:
            if as_it_is and not entry.acknowledge_unprepared:
                raise WrongState(
                    f"{name} would be cloned with all that is on its disk, which the config does not allow",
                    remedy=f"fluid sources prepare {name}, or set its acknowledge_unprepared in config.yaml",
                )
            source = await self._source(entry)
            _must_be_possible(preflight.of_domain(entry, source))
            image = await clone_image(
                self._images,
                name,
                partial(self._bring, entry, source),
                self._sources.preparation,
                self._sources.limits,
                partial(say, "clone"),
                partial(self._look, entry, as_it_is, step),
                as_it_is=as_it_is,
            )
            step.data.update(sha256=image.sha256, origin=image.origin)
        return self._sources.welcome(image)

    # --- which domain --------------------------------------------------------------------------------

    async def _entries(self) -> Sequence[SourceConfig]:
        """Those that the config lists, and those that carry our mark."""
        found = dict(self._listed)
        taken = {(entry.host, entry.called) for entry in found.values()}
        hosts = list(self._hosts)
        for host, names in zip(hosts, await asyncio.gather(*map(self._marked, hosts)), strict=True):
            for name in names:
                if NAME.fullmatch(name) and (host.name, name) not in taken:
                    found.setdefault(name, SourceConfig(name=name, host=host.name))
        return [*found.values()]

    async def _marked(self, host: Host) -> Sequence[str]:
        with suppress(FluidError):
            return await host.told(lambda machine: machine.marked_sources())
        return ()

    async def _entry(self, name: str) -> SourceConfig:
        entry = self._listed.get(name)
        if entry is None:
            entry = next((one for one in await self._entries() if one.name == name), None)
        if entry is None:
            raise SourceNotFound(
                f"no source {name!a}", remedy="list it under sources: in config.yaml, and start again"
            )
        return entry

    async def _source(self, entry: SourceConfig) -> SourceDomain:
        """The domain, which may be a source."""
        machine = self._machine(entry.host)
        try:
            source = await machine.source(entry.called)
        except NotFound as error:
            raise SourceNotFound(
                f"{entry.host} has no domain {entry.called!a}", remedy="virsh list --all, on that host"
            ) from error
        if why := await self._forbidden(machine, entry, source):
            raise Conflict(f"{entry.name} {why}, and is never a source", remedy="clone another machine")
        return source

    async def _forbidden(self, machine: Hypervisor, entry: SourceConfig, source: SourceDomain) -> str:
        if OURS.fullmatch(source.name):
            return "is a machine that Fluid made"
        if source.role not in (None, SOURCE_ROLE):
            return f"is marked as a {source.role} of Fluid"
        production = self._production()
        if entry.name in production or source.name in production:
            return "is a target of production"
        if production and await machine.source_addresses(source) & await _addresses(production):
            return "has the address of a target of production"
        return ""

    def _machine(self, host: str) -> Hypervisor:
        return self._hosts.named(host).require()

    async def _pending(self, entry: SourceConfig) -> SourceView:
        view = SourceView(name=entry.name, kind="domain", ready=False, host=entry.host)
        try:
            source = await self._hosts.named(entry.host).told(lambda _: self._source(entry))
        except FluidError as error:
            view.problem = error.message
        else:
            view.state, view.arch = source.state, source.arch
            bad = preflight.bad(preflight.of_domain(entry, source))
            view.problem = "; ".join(one.message for one in bad)
        return view

    # --- looking -------------------------------------------------------------------------------------

    async def _checked(self, entry: SourceConfig, source: SourceDomain) -> SourceCheck:
        findings, on_disk = preflight.of_domain(entry, source), []
        survey: Survey | None = None
        disk = preflight.disk_to_copy(source)
        if disk and disk.path and not disk.problem:
            machine, running = self._machine(entry.host), "" if source.is_off else " while it runs"
            top = FileLayer(disk.path, disk.format)
            try:
                looked = self._survey(top) if machine.is_local else self._far_survey(machine, top)
                survey, called = await looked
            except DiskUnreadable as error:
                findings.append(preflight.unread(f"{error.message}{running and ' (while it runs)'}"))
            except ImageRefused as error:
                by_libvirt = not machine.is_local and not source.is_off  # that copies it, and needs no pool
                findings.append(
                    preflight.unread(error.message, error.remedy) if by_libvirt else preflight.of_file(error)
                )
            except FluidError as error:
                findings.append(preflight.unread(error.message, error.remedy))
            else:
                findings += preflight.host_name(called, self._production())
                on_disk = preflight.of_disk(entry, survey, running)
        return SourceCheck(
            name=entry.name,
            domain=entry.called,
            host=entry.host,
            state=source.state,
            can_prepare=not preflight.bad([*findings, *on_disk]),
            can_clone=not preflight.bad(findings) and entry.acknowledge_unprepared,
            findings=[*findings, *on_disk],
            changes=[*preflight.CHANGES],
            secrets=[
                SourceSecret(path=wire_path(path), kind=kind)
                for path, kind in (survey.secrets if survey else ())
            ],
            secrets_known=survey is not None,
            secrets_cut=survey is not None and survey.cut,
        )

    async def _survey(self, top: FileLayer) -> tuple[Survey, bytes | None]:
        """The reader tells a layer's format by its name: links of ours name the formats that are known."""
        chain = await asyncio.to_thread(chain_of, top)
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="fluid-check-"))
        try:
            links = []
            for number, layer in enumerate(reversed(chain)):
                link = folder / f"{number}.{layer.format}"
                link.symlink_to(layer.path)
                links.append(link)
            return await self._seen(links)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _far_survey(self, machine: Hypervisor, top: FileLayer) -> tuple[Survey, bytes | None]:
        """Of what lies on another host: its blocks are brought as they are read."""
        self._images.folder.mkdir(parents=True, exist_ok=True)
        async with workspace(self._images.folder, WORK_PREFIX) as work:
            free = shutil.disk_usage(work).free - self._sources.limits.reserve_bytes
            far = FarDisk(machine, min(FAR_BYTES, max(0, free)))
            layers = await fetch_layers(top, far.stand_for, work)
            return await self._seen([work / layer.name for layer in reversed(layers)], far)

    async def _look(self, entry: SourceConfig, as_it_is: bool, step: Step, copy: Path) -> None:
        """What would fail in the boot of the copy, minutes later, is told before it. How many secrets it
        holds is on the record, also where the check could not look."""
        try:
            survey, called = await self._seen([copy])
        except DiskUnreadable as error:
            raise ImageRefused(
                f"the disk of {entry.name} cannot be read: {error.message}", remedy=preflight.READABLE
            ) from error
        step.data.update(secrets=len(survey.secrets))
        _must_be_possible(preflight.host_name(called, self._production()))
        if not as_it_is:
            _must_be_possible(preflight.of_disk(entry, survey))

    async def _seen(self, layers: Sequence[Path], far: FarDisk | None = None) -> tuple[Survey, bytes | None]:
        """What is on the disk, and the file with its host's name: that first, while a limit leaves room."""
        reader = self._far_reader if far else self._reader
        names = [preflight.HOST_NAME]
        told = await reader.read(layers, names, preflight.HOST_NAME_BYTES, far)
        survey = await reader.survey(layers, preflight.LOOKED_FOR, far)
        return survey, told[preflight.HOST_NAME]

    # --- copying -------------------------------------------------------------------------------------

    async def _bring(self, entry: SourceConfig, source: SourceDomain, work: Path) -> Brought:
        machine, disk = self._machine(entry.host), preflight.disk_to_copy(source)
        if disk is None or disk.path is None:
            raise ImageRefused(f"{entry.name} has not one disk", remedy=f"fluid sources check {entry.name}")
        where = f"domain {entry.called} of {entry.host}"
        if not source.is_off:
            return Brought([Layer(COPY, "qcow2")], f"{where}, {await self._back_up(entry, source, work)}")
        top, limits = FileLayer(disk.path, disk.format), self._sources.limits
        if machine.is_local:
            chain = await asyncio.to_thread(chain_of, top)
            layers = await copy_layers(chain, work, limits)
        else:

            async def fetch(path: Path, into: Path) -> None:
                await machine.fetch_source_file(path, into, await self._room(entry.host, work))

            layers = await fetch_layers(top, fetch, work)
        if not (await machine.source(entry.called)).is_off:
            raise WrongState(f"{entry.name} was started while it was copied", remedy="try again")
        return Brought(layers, f"{where}, off")

    async def _back_up(self, entry: SourceConfig, source: SourceDomain, work: Path) -> str:
        """A copy of the running machine in ``work``; how it was made."""
        disk, machine = preflight.disk_to_copy(source), self._machine(entry.host)
        limits = await self._room(entry.host, work)
        # Not in the folder of the work, which goes when we do: QEMU may write on.
        place = machine.copy_place(self._images.folder / f".copy.{secrets.token_hex(4)}")
        async with self._noted(entry, source, place) as copying:
            target = disk.target if disk else ""
            done = await machine.back_up_source(source, target, copying, work / COPY, limits)
        if not os.access(work / COPY, os.R_OK):
            raise ImageRefused(
                f"libvirt wrote the copy of {entry.name} as a file of root's alone",
                remedy="run the backend as root, or shut it off and let the backend's user read its disk",
            )
        how = f"not quiesced ({done.unquiesced})" if done.unquiesced else "quiesced"
        return f"{source.state}, {how}"

    async def _room(self, host: str, work: Path) -> BackupLimits:
        """What may be copied from there; the copy of a machine that runs lies there first."""
        limits, machine = self._sources.limits, self._hosts.named(host)
        free = shutil.disk_usage(work).free
        if not machine.require().is_local:
            free = min(free, (await machine.look(max_age_s=0)).disk_free_mb << 20)
        return BackupLimits(limits.bytes, max(0, free - limits.reserve_bytes))

    @asynccontextmanager
    async def _noted(self, entry: SourceConfig, source: SourceDomain, place: Path) -> AsyncIterator[Copying]:
        """What the block asks of the domain is noted first, and undone by itself until that is sure."""
        frozen, copy = (folder / f"{entry.name}.json" for folder in (self._frozen, self._copies))
        if copy.exists():
            self._end_soon(copy)
            raise WrongState(
                f"an earlier copy of {entry.name} is not ended yet on {entry.host}",
                remedy="it is tried again by itself: wait a minute; see that libvirt answers there",
            )
        told = {"host": entry.host, "domain": source.name, "file": str(place)}
        copying = Copying(place, frozen=frozen.exists())
        try:
            await asyncio.to_thread(_write, copy, told)
            if source.can_freeze:
                await self._background.stop(_thawing(frozen))
                await asyncio.to_thread(_write, frozen, told)
            yield copying
        finally:
            if not copying.frozen:
                frozen.unlink(missing_ok=True)
            if frozen.exists():
                self._thaw_soon(frozen)
            try:
                if not copying.writing:
                    await undone(self._end(copy))
            finally:
                if copy.exists():
                    self._end_soon(copy)

    def _thaw_soon(self, note: Path) -> None:
        self._background.keep(_thawing(note), partial(self._thaw, note))

    async def _thaw(self, note: Path) -> None:
        """Of one that may stand still. A freeze that was on its way may come after the first thaw."""
        if not (told := await asyncio.to_thread(_read, note)):
            return
        machine = self._machine(told["host"])
        try:
            await machine.thaw_source(told["domain"])
            log.info("%s goes on, which may have stood still for a copy", told["domain"])
            await self._audit.note(Identity.system(), "source.thaw", "source", told["domain"])
            await asyncio.sleep(LATE_S)
            await machine.thaw_source(told["domain"])
        except NotFound:
            log.info("%s, which a copy was cut off of, is gone", told["domain"])
        await asyncio.to_thread(note.unlink, missing_ok=True)

    def _end_soon(self, note: Path) -> None:
        self._background.keep(f"end the copy of {note.stem}", partial(self._end, note, LATE_S))

    async def _end(self, note: Path, late_s: float = 0.0) -> None:
        """Of a copy that may be under way; its file goes when nothing writes it any more."""
        if not (told := await asyncio.to_thread(_read, note)):
            return
        machine = self._machine(told["host"])
        if await machine.end_source_copy(told["domain"], Path(told["file"]), late_s):
            log.info("the copy of %s, which nobody waits for, is ended", told["domain"])
            await self._audit.note(Identity.system(), "source.abort", "source", told["domain"])
        await asyncio.to_thread(note.unlink, missing_ok=True)


def _thawing(note: Path) -> str:
    return f"thaw {note.stem}"


def _read(note: Path) -> dict[str, str]:
    """Empty: it is done, and the note is gone."""
    return dict(json.loads(note.read_text())) if note.exists() else {}


def _write(note: Path, data: dict[str, str]) -> None:
    note.parent.mkdir(exist_ok=True)
    write_lasting(note, json.dumps(data).encode())


def _must_be_possible(findings: Sequence[SourceFinding]) -> None:
    if bad := preflight.bad(findings):
        raise ImageRefused("; ".join(one.message for one in bad), remedy=bad[0].remedy)


async def _addresses(production: frozenset[str]) -> set[str]:
    """The addresses among them, and those of the names, as far as they are known in time."""
    loop, found = asyncio.get_running_loop(), set(production)

    async def resolve(name: str) -> None:
        with suppress(OSError):
            found.update(
                str(told[4][0]) for told in await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            )

    try:
        async with asyncio.timeout(RESOLVE_S):
            await asyncio.gather(*map(resolve, production))
    except TimeoutError:
        log.warning("not every target's name could be resolved in time")
    return found
