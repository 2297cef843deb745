"""Somebody else's running domain is copied by libvirt: the same bytes, and nothing of it is changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from backend.errors import HypervisorDown, HypervisorFailed, NoSpace, NotFound, TimedOut, TooLarge, WrongState
from backend.hypervisor import Backup, BackupLimits, Copying, Hypervisor, PrivateLibvirt, SourceDomain
from backend.hypervisor import sources as module
from tests.fix_foreign import (
    DISK_BYTES,
    counter,
    endless_backup,
    flat,
    foreign_xml,
    pattern,
    qcow2_disk,
    raw_disk,
    without_counter,
)

LIMITS = BackupLimits(bytes=1 << 30, room_bytes=1 << 30, total_s=60)
LIMIT_S = 60.0


@dataclass(frozen=True)
class Lab:
    """A libvirtd with our hypervisor on it, a connection beside it, and a folder that QEMU reaches."""

    hypervisor: Hypervisor
    connection: libvirt.virConnect
    folder: Path

    async def copy(self, source: SourceDomain, into: Path, limits: BackupLimits) -> Backup:
        copying = Copying(self.folder / ".copy.1")
        try:
            return await self.hypervisor.back_up_source(source, "vda", copying, into, limits)
        finally:
            assert not copying.frozen and not copying.writing
            assert not await self.hypervisor.end_source_copy(source.name, copying.file, 0)
            assert not copying.file.exists()

    def start(
        self,
        disks: list[tuple[Path, str]],
        *,
        name: str = "web",
        transient: bool = False,
        paused: bool = False,
    ) -> libvirt.virDomain:
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        xml = foreign_xml(name, disks)
        if transient:
            return self.connection.createXML(xml, flags)
        domain = self.connection.defineXML(xml)
        domain.createWithFlags(flags)
        return domain


@pytest.fixture(scope="module")
async def daemon() -> AsyncIterator[PrivateLibvirt]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fluid-") as folder:
        Path(folder).chmod(0o711)
        daemon = PrivateLibvirt(Path(folder) / "lv", hide_kvm=True)
        await daemon.start()
        yield daemon
        await daemon.stop()


@pytest.fixture
async def lab(daemon: PrivateLibvirt, open_folder: Path) -> AsyncIterator[Lab]:
    hypervisor = Hypervisor(daemon.uri, folder=open_folder / "ours", virt_type="qemu", prefix="fluid-0a0a0a")
    await hypervisor.open()
    connection = libvirt.open(daemon.uri)
    yield Lab(hypervisor, connection, open_folder)
    for domain in connection.listAllDomains(0):
        if domain.isActive():
            domain.destroy()
    for domain in connection.listAllDomains(0):
        domain.undefine()
    connection.close()
    await hypervisor.close()


def state_of(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mtime_ns, found.st_ino


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await condition():
            await asyncio.sleep(0.1)


async def counting(disk: Path, format: str, beyond: int = 0) -> int:
    """The guest's counter as it stands on its disk, once it is larger than ``beyond``."""
    seen = [0]

    async def grown() -> bool:
        seen[0] = counter(await asyncio.to_thread(flat, disk, format))
        return seen[0] > beyond

    await until(grown)
    return seen[0]


@pytest.mark.parametrize("transient", [False, True], ids=["persistent", "transient"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
async def test_a_running_domain_is_copied_at_one_point_and_goes_on(
    lab: Lab, format: str, transient: bool
) -> None:
    make = raw_disk if format == "raw" else qcow2_disk
    disk, copy = make(lab.folder / "web.disk"), lab.folder / "copy.qcow2"
    domain = lab.start([(disk, format)], transient=transient)
    before = await counting(disk, format)
    xml, chain = domain.XMLDesc(0), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    source = await lab.hypervisor.source("web")
    done = await lab.copy(source, copy, LIMITS)
    after = await counting(disk, format)
    copied = flat(copy, "qcow2")
    assert without_counter(copied) == without_counter(pattern())
    assert before <= counter(copied) <= after
    assert await counting(disk, format, after) > after, "the guest writes on"
    assert (domain.XMLDesc(0), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) == (xml, chain)
    assert domain.info()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert done.unquiesced == "it has no channel to QEMU's agent"


async def test_a_paused_domain_s_disk_is_not_touched_at_all(lab: Lab) -> None:
    disk, copy = qcow2_disk(lab.folder / "web.disk"), lab.folder / "copy.qcow2"
    domain = lab.start([(disk, "qcow2")], paused=True)
    files = [disk, disk.with_suffix(".base")]
    before, xml = [state_of(file) for file in files], domain.XMLDesc(0)
    source = await lab.hypervisor.source("web")
    assert (source.state, source.role, source.is_off, source.agent) == ("paused", None, False, "")
    done = await lab.copy(source, copy, LIMITS)
    assert done.unquiesced == "it is paused"
    assert flat(copy, "qcow2") == pattern()
    assert [state_of(file) for file in files] == before
    assert domain.XMLDesc(0) == xml
    assert domain.info()[0] == libvirt.VIR_DOMAIN_PAUSED


def endless(_target: str, _others: list[str], into: Path) -> str:
    return endless_backup(into, into.parent)


async def test_a_copy_that_takes_too_long_is_ended_there_and_the_domain_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, copying = raw_disk(lab.folder / "web.disk"), Copying(lab.folder / "copy")
    domain = lab.start([(disk, "raw")])
    monkeypatch.setattr(module, "backup_xml", endless)
    source, limits = await lab.hypervisor.source("web"), BackupLimits(1 << 30, 1 << 30, total_s=1)
    with pytest.raises(TimedOut, match="copying web took longer than 1 s"):
        await lab.hypervisor.back_up_source(source, "vda", copying, lab.folder / "copy.qcow2", limits)
    assert copying.writing and copying.file.exists()
    assert await lab.hypervisor.end_source_copy("web", copying.file, 0)
    assert domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE and not copying.file.exists()
    seen = await counting(disk, "raw")
    assert await counting(disk, "raw", seen) > seen


async def test_nobody_else_s_backup_is_ended(lab: Lab) -> None:
    domain = lab.start([(raw_disk(lab.folder / "web.disk"), "raw")])
    theirs, ours = lab.folder / "theirs", lab.folder / "copy"
    domain.backupBegin(endless_backup(theirs, lab.folder), None, 0)
    ours.write_bytes(b"left")
    assert not await lab.hypervisor.end_source_copy("web", ours, 2)
    assert str(theirs) in domain.backupGetXMLDesc(0) and not ours.exists()
    domain.abortJob()


async def test_a_copy_that_begins_when_nobody_waits_any_more_is_ended(lab: Lab) -> None:
    domain, copy = lab.start([(raw_disk(lab.folder / "web.disk"), "raw")]), lab.folder / "copy"
    ending = asyncio.create_task(lab.hypervisor.end_source_copy("web", copy, LIMIT_S))
    await asyncio.sleep(1)  # it has looked, and there was none
    domain.backupBegin(endless_backup(copy, lab.folder), None, 0)
    assert await asyncio.wait_for(ending, LIMIT_S / 2), "it is not waited for longer than it takes"
    assert domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE and not copy.exists()
    domain.destroy()
    domain.undefine()
    assert not await lab.hypervisor.end_source_copy("web", copy, LIMIT_S), "it went with its domain"


async def test_a_copy_outlives_its_libvirtd_and_is_ended_by_the_next(open_folder: Path) -> None:
    daemon = PrivateLibvirt(open_folder / "lv", hide_kvm=True)
    await daemon.start()
    hypervisor = Hypervisor(daemon.uri, folder=open_folder / "ours", virt_type="qemu", prefix="fluid-0a0a0a")
    await hypervisor.open()
    lab, copy = Lab(hypervisor, libvirt.open(daemon.uri), open_folder), open_folder / "copy"
    domain = lab.start([(raw_disk(open_folder / "web.disk"), "raw")], transient=True)
    domain.backupBegin(endless_backup(copy, open_folder), None, 0)
    os.kill(daemon.pids()["libvirtd"], signal.SIGKILL)

    async def is_ended() -> bool:
        try:
            return await hypervisor.end_source_copy("web", copy, 0)
        except HypervisorDown:
            assert copy.exists()
            return False

    assert not await is_ended()
    await daemon.start()
    await until(is_ended)
    domain = libvirt.open(daemon.uri).lookupByName("web")
    assert domain.isActive() and domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE and not copy.exists()
    domain.destroy()
    await hypervisor.close()
    await daemon.stop()


async def test_what_a_slow_libvirt_comes_to_when_nobody_waits_is_not_begun(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = lab.start([(raw_disk(lab.folder / "web.disk"), "raw")], paused=True)
    source, copying = await lab.hypervisor.source("web"), Copying(lab.folder / "copy")
    look, given_up, looking = libvirt.virConnect.lookupByUUIDString, threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: libvirt.virConnect, uuid: str) -> libvirt.virDomain:
        if copying.writing:
            loop.call_soon_threadsafe(looking.set)
            given_up.wait(LIMIT_S)
        return look(connection, uuid)

    monkeypatch.setattr(libvirt.virConnect, "lookupByUUIDString", slow)
    monkeypatch.setattr(module, "backup_xml", endless)
    work = lab.hypervisor.back_up_source(source, "vda", copying, lab.folder / "copy.qcow2", LIMITS)
    waiting = asyncio.create_task(work)
    await asyncio.wait_for(looking.wait(), LIMIT_S)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert copying.writing, "nobody knows"
    given_up.set()
    assert not await lab.hypervisor.end_source_copy("web", copying.file, 1)
    assert domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE


async def test_what_cannot_be_copied_is_told_before_anything_is_begun(lab: Lab) -> None:
    disk, copy = raw_disk(lab.folder / "web.disk"), lab.folder / "copy.qcow2"
    domain = lab.start([(disk, "raw")])
    source = await lab.hypervisor.source("web")
    with pytest.raises(TooLarge, match="a disk of 8 MB, at most 4 MB are taken"):
        await lab.copy(source, copy, BackupLimits(DISK_BYTES // 2, 1 << 30))
    with pytest.raises(NoSpace, match="needs up to"):
        await lab.copy(source, copy, BackupLimits(1 << 30, 1 << 20))
    nowhere = Copying(lab.folder / "none/copy")
    with pytest.raises(HypervisorFailed):
        await lab.hypervisor.back_up_source(source, "vda", nowhere, copy, LIMITS)
    assert not nowhere.writing
    domain.destroy()
    with pytest.raises(WrongState, match="cannot be copied while it runs"):
        await lab.copy(source, copy, LIMITS)
    assert not copy.exists()
    with pytest.raises(NotFound):
        await lab.hypervisor.source("nobody")


async def test_marked_domains_are_found_and_ours_are_not_among_them(lab: Lab) -> None:
    disk = raw_disk(lab.folder / "web.disk")
    for name, role in (
        ("golden", "source"),
        ("plain", ""),
        ("twin", "sandbox"),
        ("fluid-0a0a0a-sbx-00000001", "source"),
    ):
        lab.connection.defineXML(foreign_xml(name, [(disk, "raw")], role))
    assert await lab.hypervisor.marked_sources() == ["golden"]
    golden = await lab.hypervisor.source("golden")
    assert (golden.role, golden.state, golden.is_off, golden.arch) == ("source", "shutoff", True, "x86_64")
    assert (await lab.hypervisor.source("twin")).role == "sandbox"
    assert await lab.hypervisor.source_addresses(golden) == set()
