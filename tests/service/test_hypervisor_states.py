"""Why a domain is in its state, as a real libvirtd and QEMU show it: guests of one sector, without an OS."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import pytest

from backend.fleet.states import DIED, judge
from backend.hypervisor import DomainEvent, DomainInfo, Hypervisor, PrivateLibvirt
from backend.hypervisor.domain_xml import DomainSpec, domain_xml, loose_nic
from backend.hypervisor.nouns import GuestImage, Machine
from backend.models import Phase, Sandbox, now
from tests.processes import qemu_of

PREFIX = "fluid-states"
NAME = f"{PREFIX}-sbx-{secrets.token_hex(4)}"  # the kernel's log remembers those of earlier runs
UUID = "00000000-0000-0000-0000-00000000c0de"
LIMIT_S = 60
SMALL, LARGE = "4M", "96M"
SIGNATURE = b"\x55\xaa"
SLEEPS = bytes.fromhex("f4ebfd")  # hlt; jmp to it
# Write one sector each 64 KiB, for ever: mov si, packet; int 13h, ah=43h; add dword [packet+8], 128; again.
WRITES = bytes.fromhex(
    "31c08ed8 be187c b80043 cd13 66810620 7c80000000 ebed 00 10000100007e0000 8000000000000000"
)
# Touch each page from 1 MiB on, for ever. With 32-bit addresses: lgdt; set cr0.PE; mov ds, 8; mov edi, 1 MiB;
# mov [edi], edi; add edi, 4096; again. Then the table: its null entry, which holds its own place, and a flat
# data segment.
GROWS = bytes.fromhex(
    "fa31c08ed8 0f01162a7c 0f20c00c010f22c0 b808008ed8 66bf00001000 6766893f 6681c700100000 ebf3"
    "0f002a7c00000000 ffff00000092cf00"
)
GROWN_MB, ALLOWED_MB = 512, 256


@dataclass(frozen=True)
class Lab:
    """A host of our own; ``small`` is a file system that is soon full."""

    host: Hypervisor
    daemon: PrivateLibvirt
    small: Path
    hands: libvirt.virConnect

    def start(self, program: bytes, memory_mb: int = 32) -> libvirt.virDomain:
        """A guest of ours whose disk's first sector this is, and whose writes go to the small file system."""
        domain = self.define(program, memory_mb)
        domain.create()
        return domain

    def define(self, program: bytes, memory_mb: int) -> libvirt.virDomain:
        base, disk = self.small.parent / "base.raw", self.small / "disk.qcow2"
        base.write_bytes(program.ljust(510, b"\0") + SIGNATURE)
        os.truncate(base, 64 << 20)
        make = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, disk)
        subprocess.run(make, check=True)
        spec = DomainSpec(
            name=NAME,
            uuid=UUID,
            machine=Machine("qemu"),
            cpu=1,
            memory_mb=memory_mb,
            disk=disk,
            console=self.small.parent / "console.log",
            metadata={"role": "sandbox", "sandbox": "SBX-1"},
            nic=loose_nic("52:54:00:00:00:01"),
        )
        image = GuestImage("one-sector", "0" * 64, base, None, None, "")
        return self.hands.defineXML(domain_xml(spec, image))

    async def shown(self, kind: str, events: AsyncIterator[DomainEvent]) -> DomainInfo:
        """How it is after the next event of that kind."""
        async with asyncio.timeout(LIMIT_S):
            while (await anext(events)).kind != kind:
                pass
        return await self.host.info(NAME)

    def qemu(self) -> int:
        """The pid of its QEMU."""
        (pid,) = qemu_of(NAME)
        return pid


@pytest.fixture(scope="module")
def small() -> Iterator[Path]:
    """Mounted before libvirtd starts, which has mounts of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fluid-states-"))
    folder.chmod(0o755)
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=0777", "none", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
async def made(small: Path) -> AsyncIterator[Lab]:
    daemon = PrivateLibvirt(small.parent / "lv", hide_kvm=True)
    uri = await daemon.start()
    host = Hypervisor(uri, folder=small.parent / "host", virt_type="qemu", prefix=PREFIX)
    await host.open()
    hands = libvirt.open(uri)
    yield Lab(host, daemon, small, hands)
    hands.close()
    await host.close()
    await daemon.stop()


@pytest.fixture
async def lab(made: Lab) -> AsyncIterator[Lab]:
    """Nothing of a guest is left after a test."""
    yield made
    await made.host.destroy(NAME, uuid=UUID)
    (made.small / "disk.qcow2").unlink()


async def test_one_whose_host_has_no_room_for_its_writes_says_so_and_goes_on_with_room(lab: Lab) -> None:
    async with lab.host.listening() as events:
        domain = lab.start(WRITES)
        info = await lab.shown("paused", events)
        assert (info.state, info.why) == ("paused", "disk full")
        (listed,) = await lab.host.list_ours()
        assert listed == info
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", lab.small], check=True)
        domain.resume()
        assert (await lab.shown("resumed", events)).state == "running"
        subprocess.run(["mount", "-o", f"remount,size={SMALL}", lab.small], check=False)


async def test_what_hands_do_to_one_is_told_apart_from_a_death(lab: Lab) -> None:
    async with lab.host.listening() as events:
        domain = lab.start(SLEEPS)
        assert (await lab.shown("resumed", events)).why == ""
        domain.suspend()
        assert (await lab.shown("paused", events)).why == "asked"
        domain.resume()
        domain.destroy()
        assert (await lab.shown("stopped", events)).why == "switched off"
        domain.create()
        os.kill(lab.qemu(), signal.SIGKILL)
        info = await lab.shown("crashed", events)
        assert (info.state, info.why) == ("shutoff", "died")
        assert await lab.host.why_died(NAME, now()) in ("not memory", "unknown")


@pytest.mark.full
async def test_one_that_the_kernel_kills_for_want_of_memory_says_so(lab: Lab) -> None:
    """By its control group's limit: for the kernel and its log that is the same as a host without memory."""
    async with lab.host.listening() as events:
        domain = lab.define(GROWS, GROWN_MB)
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        try:
            domain.setMemoryParameters({libvirt.VIR_DOMAIN_MEMORY_HARD_LIMIT: ALLOWED_MB << 10})
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
            pytest.skip(f"no control group here limits memory: {error}")
        ran_at = now()
        domain.resume()
        info = await lab.shown("crashed", events)
    died_of = await lab.host.why_died(NAME, ran_at)
    assert (info.state, info.why, died_of) == ("shutoff", "died", "memory")
    found = judge(row(), info, died_of=died_of)
    assert found.phase is Phase.ERROR
    assert found.reason.startswith(DIED) and "killed it for want of memory; give guests less" in found.reason


def row() -> Sandbox:
    """The guest's, which ran."""
    return Sandbox(
        id="SBX-1",
        sandbox_name="one",
        base_image="one-sector",
        domain=NAME,
        phase=Phase.RUNNING,
        created_at=now(),
        updated_at=now(),
    )


async def test_one_that_lost_its_definition_or_its_name_is_taken_back(lab: Lab) -> None:
    domain = lab.start(SLEEPS)
    domain.undefine()
    assert not (await lab.host.info(NAME)).persistent
    taken = await lab.host.take_back(NAME, UUID)
    assert taken is not None and taken.persistent and taken.state == "running"
    domain.destroy()
    domain.rename("web")
    taken = await lab.host.take_back(NAME, UUID)
    assert taken is not None and taken.name == NAME
    assert await lab.host.take_back(NAME, "00000000-0000-0000-0000-00000000dead") is None


async def test_one_that_died_while_libvirtd_was_away_died(lab: Lab) -> None:
    lab.start(SLEEPS)
    pid = lab.qemu()
    async with lab.host.listening() as events:
        kill(lab.daemon.pids()["libvirtd"])  # a next one does not start beside it
        kill(pid)
        await lab.daemon.start()
        async with asyncio.timeout(LIMIT_S):
            while (await anext(events)).kind != "connected":
                pass
        info = await lab.host.info(NAME)
    assert (info.state, info.why) == ("shutoff", "died")


def kill(pid: int) -> None:
    """With -9, and wait until it has ended."""
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([handle], [], [], LIMIT_S)[0]
    finally:
        os.close(handle)
