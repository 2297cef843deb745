"""A sandbox goes whole, whatever was done to it: real libvirtds, machines without a system."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import libvirt
import pytest

from backend.hypervisor import PrivateLibvirt
from backend.models import Phase, Sandbox
from backend.store import EventBus, Store
from tests.fix_machines import FAR, OPERATOR, Machines, machines

DISK_ONLY = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC


@pytest.fixture
async def both(
    daemons: list[PrivateLibvirt], store: Store, bus: EventBus, open_folder: Path
) -> AsyncIterator[Machines]:
    async with machines(store, bus, open_folder, [daemon.uri for daemon in daemons]) as made:
        yield made


@pytest.fixture
def small(open_folder: Path) -> Iterator[Path]:
    """A file system of its own for the files of domains."""
    place = open_folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m,mode=711", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def internal(domain: libvirt.virDomain) -> None:
    """``virsh snapshot-create``: with its memory, in its disk."""
    domain.snapshotCreateXML("<domainsnapshot/>", 0)


def internal_and_off(domain: libvirt.virDomain) -> None:
    internal(domain)
    domain.destroy()


def external(domain: libvirt.virDomain) -> None:
    """``virsh snapshot-create-as --disk-only``, twice: the machine writes to a file that we never named."""
    for name in ("one", "two"):
        domain.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>", DISK_ONLY)


def mixed(domain: libvirt.virDomain) -> None:
    internal(domain)
    external(domain)


def with_checkpoint(domain: libvirt.virDomain) -> None:
    """``virsh checkpoint-create``, as a backup program does."""
    domain.checkpointCreateXML("<domaincheckpoint><name>nightly</name></domaincheckpoint>")


def saved(domain: libvirt.virDomain) -> None:
    """``virsh managedsave``: its memory lies in libvirt's own folder."""
    domain.managedSave()


def paused(domain: libvirt.virDomain) -> None:
    domain.suspend()


def undefined(domain: libvirt.virDomain) -> None:
    """It runs on and libvirt forgets it at its end."""
    domain.undefine()


HANDS = [internal, internal_and_off, external, mixed, with_checkpoint, saved, paused, undefined]


async def touched(both: Machines, box: Sandbox, hand: Callable[[libvirt.virDomain], None]) -> None:
    """Done by somebody beside us, who is root there."""
    connection = both.connect(box.host_name)
    try:
        await asyncio.to_thread(hand, connection.lookupByName(box.domain))
    finally:
        connection.close()


async def destroyed(both: Machines, box: Sandbox) -> None:
    """Nothing of it is left but its record."""
    await both.fleet.destroy(OPERATOR, box.id)
    host, connection = both.hosts.named(box.host_name), both.connect(box.host_name)
    try:
        assert connection.listAllDomains(0) == []
    finally:
        connection.close()
    assert await both.files(box.host_name).claimed() == []
    assert list((both.local.folder / "domains").iterdir()) == []
    assert await host.take_address(set()) == box.ip_address, "its address is free again"
    assert await both.fleet.all_live() == []
    assert (await both.store.snapshots.list({"sandbox_id": box.id}))[0] == []
    gone = await both.fleet.load(box.id)
    assert gone.phase is Phase.DESTROYED and gone.deleted_at and gone.doing == ""
    report = await both.fleet.leftovers(OPERATOR)
    assert [one for one in report.found if one.kind != "image"] == [] and report.silent == []


@pytest.mark.parametrize("hand", HANDS, ids=lambda hand: str(hand.__name__))
async def test_whatever_a_hand_did_to_it(both: Machines, hand: Callable[[libvirt.virDomain], None]) -> None:
    box = await both.runs(both.build())
    await touched(both, box, hand)
    await destroyed(both, box)


@pytest.mark.parametrize("hand", [internal, external, mixed], ids=lambda hand: str(hand.__name__))
async def test_the_same_in_a_pool_of_another_host(
    both: Machines, hand: Callable[[libvirt.virDomain], None]
) -> None:
    box = await both.runs(both.build(), host=FAR)
    await touched(both, box, hand)
    await destroyed(both, box)
    volumes = await both.files(FAR)._volumes.names()  # type: ignore[attr-defined]
    assert {name.partition(".")[0] for name in volumes} == {"image"}


@pytest.mark.full
async def test_with_a_full_disk_of_its_host(
    store: Store, bus: EventBus, open_folder: Path, small: Path
) -> None:
    daemon = PrivateLibvirt(open_folder / "lv", hide_kvm=True)  # one that sees what is mounted
    async with AsyncExitStack() as stack:
        uri = await daemon.start()
        stack.push_async_callback(daemon.stop)
        here = await stack.enter_async_context(machines(store, bus, open_folder, [uri], domains=small))
        box = await here.runs(here.build())
        await touched(here, box, external)
        with (small / "filler").open("wb", buffering=0) as filler:
            while room := os.statvfs(small).f_bavail * os.statvfs(small).f_frsize:
                with suppress(OSError):  # the machine's own files grew meanwhile
                    os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), room)
            with pytest.raises(OSError, match="space"):
                (small / "more").write_bytes(bytes(1 << 20))
        await destroyed(here, box)


async def test_with_a_source_that_was_built_anew_since(both: Machines) -> None:
    former = both.build()
    box = await both.runs(former)
    both.build()
    await destroyed(both, box)
    assert len((await both.fleet.clear(OPERATOR)).found) == 1 and not former.disk.exists()


async def test_a_machine_that_is_gone_already_and_one_whose_files_are(both: Machines) -> None:
    box = await both.runs(both.build())

    def rid(domain: libvirt.virDomain) -> None:
        domain.destroy()
        domain.undefine()

    await touched(both, box, rid)
    await destroyed(both, box)
    other = await both.runs(both.images.get("base"), 2)
    await both.files().drop(other.domain)
    await destroyed(both, other)
