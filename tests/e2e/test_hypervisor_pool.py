"""A host whose folders are not ours: all that a guest needs goes through the storage API of its libvirtd."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from backend.disks import DiskReader
from backend.errors import NotFound, SnapshotNotFound
from backend.fleet.host import guest_image
from backend.hypervisor import (
    ForkWay,
    GuestImage,
    Hypervisor,
    Pool,
    PrivateLibvirt,
    host_probe,
)
from backend.hypervisor.nouns import WayName
from backend.images import Images
from backend.paths import Paths
from tests.fix_foreign import SECTOR, flat
from tests.fix_guests import GuestHost, opened, own_network

PREFIX = "fluid-far"
PATH = Path("/var/lib/libvirt/images") / PREFIX  # in the daemon's eyes only
NETWORK = own_network(PREFIX, "flfar", "10.234.0.0/16")
BOOT_LIMIT_S = 60
DISK_BYTES, MEMORY_MB = 64 << 20, 128
# int 0x13 writes the sector behind itself; then to the serial line; then off through QEMU's ACPI port.
SAYS = b"written there\r\n"
WRITING_SECTOR = (
    bytes.fromhex("31c0 8ec0 b80103 bb007c b90200 b600 cd13")
    + b"".join(b"\xba\xf8\x03\xb0" + bytes([byte]) + b"\xee" for byte in SAYS)
    + bytes.fromhex("ba0406 b80020 ef f4")
).ljust(510, b"\0") + b"\x55\xaa"
HANGING_SECTOR = b"\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"


@dataclass(frozen=True)
class Far(GuestHost):
    """And where its pool really is."""

    pool: Pool
    real: Path

    def files(self) -> set[str]:
        return {path.name for path in self.real.iterdir()}


@pytest.fixture(scope="module")
async def image() -> GuestImage:
    return guest_image(await Images(Paths.default().images).build(progress=print))


@pytest.fixture(scope="module")
async def far(image: GuestImage) -> AsyncIterator[Far]:
    folder = Path(tempfile.mkdtemp(prefix="fluid-far-"))
    folder.chmod(0o711)  # QEMU runs there as a user of its own, as on any host
    daemon = PrivateLibvirt(folder / "lv", hide_kvm=True)
    pool = Pool(PREFIX, PATH, folder / "cache", image.disk.parent)
    host = Hypervisor(await daemon.start(), pool=pool, prefix=PREFIX)
    async with opened(host, daemon, NETWORK, PREFIX, folder) as there:
        yield Far(**vars(there), pool=pool, real=daemon.folder / "lib" / "images" / PREFIX)


async def test_kvm_is_decided_there(far: Far) -> None:
    """This libvirtd sees none and says so at once; the probe itself executes under emulation, and one that
    does not switch itself off is not taken for one that did."""
    assert far.host.virt_type == "qemu" and far.host.kvm is not None
    assert "offers no KVM" in far.host.kvm.reason
    took_s, executed = await host_probe.boot(far.host._domains, "x86_64", "qemu", 30)
    print(f"the probe switched itself off after {took_s:.2f} s, emulated")
    assert executed.works, executed.reason
    _, hung = await host_probe.boot(far.host._domains, "x86_64", "qemu", 5, HANGING_SECTOR)
    assert not hung.works and "within 5 s" in hung.reason
    assert await far.host.list_ours() == [] and far.files() == set()


async def test_a_disk_of_this_machine_is_booted_there_and_comes_back_as_its_guest_left_it(
    far: Far, tmp_path: Path
) -> None:
    """As the import of an image does where no host's folders are ours."""
    raw, disk = tmp_path / "raw", tmp_path / "disk.qcow2"
    raw.write_bytes(WRITING_SECTOR.ljust(DISK_BYTES, b"\0"))
    subprocess.run(("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk), check=True)
    before, heard = far.files(), bytearray()
    await far.host.boot_once(
        GuestImage("lent", "", disk, None, None, "", platform.machine()),
        bytes(SECTOR),
        cpu=1,
        memory_mb=MEMORY_MB,
        limit_s=BOOT_LIMIT_S,
        on_console=heard.extend,
    )
    assert SAYS in heard
    assert flat(disk, "qcow2")[SECTOR : 2 * SECTOR] == WRITING_SECTOR
    assert far.files() == before and await far.host.list_ours() == []


@pytest.mark.full
async def test_a_sandbox_there_does_all_that_one_here_does(far: Far, image: GuestImage) -> None:
    host = far.host
    template = await host.ensure_template(image, cpu=2, memory_mb=512)
    assert not PATH.exists() and template.disk.parent == PATH  # nothing here is there
    shared = far.files()
    assert await host.ensure_template(image, cpu=2, memory_mb=512) == template
    assert await host.leftovers() == []

    first = await far.identity("first", 11)
    for _ in range(3):  # the last one stays
        await host.destroy(first.name)
        began = time.monotonic()
        await host.fork(
            template,
            first,
            NETWORK.name,
            metadata={"role": "sandbox"},
            login=partial(far.ssh, first, "true", again=True),
        )
        print(f"fork in a pool to root's first command: {time.monotonic() - began:.2f} s")
    said = await far.ssh(first, "hostname; cat /etc/machine-id; hostname -I")
    assert said.split() == [first.hostname, first.machine_id, first.address]
    told = os.statvfs(far.real)
    assert abs((await host.facts()).disk_free_mb - (told.f_bfree * told.f_frsize >> 20)) < 1024

    await far.ssh(
        first, "echo old > /root/mark; sleep 100000 </dev/null >/dev/null 2>&1 & echo $! > /root/pid"
    )
    point = await host.snapshot(first.name, "point")
    assert point.quiesced and point.memory_file is not None
    await assert_the_disk_reads_the_same_here(far, point.disk_layers)
    await far.ssh(first, "echo new > /root/mark; kill $(cat /root/pid); sync")

    branch = await far.identity("branch", 12)
    await host.branch(point, branch, NETWORK.name, metadata={"role": "sandbox"})
    alive = "cat /root/mark; kill -0 $(cat /root/pid) && echo alive; hostname -I"
    assert (await far.ssh(branch, alive)).split() == ["old", "alive", branch.address]
    assert (await far.ssh(first, "cat /root/mark")).strip() == "new"
    began = time.monotonic()
    await host.restore(first.name, point)
    assert (await far.ssh(first, alive, again=True)).split() == ["old", "alive", first.address]
    print(f"restore in a pool to root's first command: {time.monotonic() - began:.2f} s")

    freed = await host.delete_snapshot(first.name, "point")
    assert freed > 10 << 20
    with pytest.raises(SnapshotNotFound):
        await host.restore(first.name, point)
    await host.destroy(first.name)
    with pytest.raises(NotFound):
        await host.info(first.name)
    assert await host.leftovers() == []
    # The branch stands on the first one's layer, which is all that is left of it.
    assert {name for name in far.files() - shared if not name.startswith(f"{branch.name}.")} == {
        point.disk_layers[0].name
    }
    assert await host.stop(branch.name)
    assert (await host.start(branch.name)).state == "running"
    assert (await far.ssh(branch, "cat /root/mark", again=True)).strip() == "old"
    await host.destroy(branch.name)
    assert far.files() == shared and await host.leftovers() == []


async def assert_the_disk_reads_the_same_here(far: Far, layers: tuple[Path, ...]) -> None:
    """Its layers as files of this machine against the very files of that host."""
    here = await far.host.local_layers(layers[::-1])
    assert all(path.is_file() and path.parent != PATH for path in here)
    there = [far.real / layer.name for layer in reversed(layers)]
    assert here[0] != there[0]  # the image is known here
    reader = DiskReader()
    read, expected = await reader.manifest(here), await reader.manifest(there)
    assert read.digest == expected.digest and len(read.entries) > 1000


@pytest.mark.full
async def test_a_create_that_is_cancelled_leaves_nothing(far: Far, image: GuestImage) -> None:
    """At moments over the whole of a fork, that of the copy of the memory among them."""
    template = await far.host.ensure_template(image, cpu=2, memory_mb=512)
    before = far.files()
    for delay_s in (0.02, 0.1, 0.2, 0.4, 0.8):
        identity = await far.identity("half", 13)
        making = asyncio.create_task(
            far.host.fork(template, identity, NETWORK.name, metadata={"role": "sandbox"})
        )
        await asyncio.wait([making], timeout=delay_s)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert far.files() == before and await far.host.list_ours() == []


@pytest.mark.full
@pytest.mark.parametrize("way", ["snapshot copy", "cold boot"])
async def test_a_far_host_forks_by_another_way(far: Far, image: GuestImage, way: WayName) -> None:
    template = await far.host.ensure_template(image, cpu=2, memory_mb=512)
    pool = replace(far.pool, cache=far.pool.cache.with_name(f"cache {way}"))
    slower = Hypervisor(far.host.uri, pool=pool, virt_type="qemu", prefix=PREFIX, fork_way=way)
    await slower.open()
    identity = await far.identity("slower", 14)
    try:
        began = time.monotonic()
        login = partial(far.ssh, identity, "true")
        await slower.fork(template, identity, NETWORK.name, metadata={"role": "sandbox"}, login=login)
        print(f"fork in a pool by {way} to root's first command: {time.monotonic() - began:.2f} s")
        assert (await far.ssh(identity, "hostname")).strip() == identity.hostname
    finally:
        await slower.destroy(identity.name)
        await slower.close()
    assert await far.host.leftovers() == [] and slower.fork_way == ForkWay(way, "asked for")
