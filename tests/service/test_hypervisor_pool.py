"""Files in a pool of a real libvirtd whose folders are not this machine's: layers, images, cut uploads."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import pytest

from backend.errors import Conflict, DuplicateName, HypervisorFailed, NotFound, TimedOut
from backend.hypervisor import GuestImage, Pool, PrivateLibvirt
from backend.hypervisor.connection import MOVERS, Connection
from backend.hypervisor.pool_files import PoolFiles
from backend.hypervisor.save_image import HEADER, MAGIC, read_header
from backend.hypervisor.storage import TEMPLATE_DISK, TEMPLATE_MEMORY, TemplateFacts
from backend.hypervisor.volumes import Volumes, pool_xml

PREFIX = "fluid-pool"
PATH = Path("/var/lib/libvirt/images") / PREFIX  # in the daemon's eyes only
MEMORY_BYTES = 3 << 20


@dataclass(frozen=True)
class Lab:
    """A host, its pool, and where that really is."""

    connection: Connection
    files: PoolFiles
    pool: Pool
    real: Path

    def names(self) -> set[str]:
        return {path.name for path in self.real.iterdir()}

    def disk(self, number: int, domain: str = f"{PREFIX}-a") -> Path:
        return self.files.path(domain, f"disk-{number}.qcow2")


@pytest.fixture(scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrivateLibvirt]:
    daemon = PrivateLibvirt(tmp_path_factory.mktemp("pool") / "lv", hide_kvm=True)
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest.fixture
async def lab(daemon: PrivateLibvirt, tmp_path: Path) -> AsyncIterator[Lab]:
    connection = Connection(daemon.uri)
    await connection.open()
    images = tmp_path / "images"
    images.mkdir()
    pool = Pool(PREFIX, PATH, tmp_path / "cache", images)
    files = PoolFiles(connection, pool, PREFIX)
    await files.open()
    yield Lab(connection, files, pool, daemon.folder / "lib" / "images" / PREFIX)

    def remove(conn: libvirt.virConnect) -> None:
        found = conn.storagePoolLookupByName(PREFIX)
        for volume in found.listAllVolumes(0):
            volume.delete(0)
        found.destroy()
        found.undefine()

    await files.free_mb()
    await connection.call(remove, what="clean")
    await connection.close()
    assert lab_is_empty(daemon.folder / "lib" / "images" / PREFIX)


def lab_is_empty(folder: Path) -> bool:
    return list(folder.iterdir()) == []


@pytest.fixture
def image(lab: Lab) -> GuestImage:
    assert lab.pool.images is not None
    disk, kernel, initrd = (lab.pool.images / name for name in ("base-01.qcow2", "kernel-02", "initrd-03"))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True)
    kernel.write_bytes(os.urandom(3 << 20))
    initrd.write_bytes(os.urandom(12345))
    return GuestImage("base", "ab" * 32, disk, kernel, initrd, "root=/dev/vda", "x86_64")


@pytest.fixture
async def based(lab: Lab, image: GuestImage) -> Path:
    """The image's disk there, under a domain's first layer."""
    there = await lab.files.ensure_image(image)
    await lab.files.claim(f"{PREFIX}-a")
    await lab.files.create_overlay(lab.disk(0), there.disk)
    return there.disk


# --- the pool itself ----------------------------------------------------------------------------------


async def test_the_pool_is_made_found_again_and_started_again(lab: Lab) -> None:
    await lab.connection.call(lambda conn: conn.storagePoolLookupByName(PREFIX).destroy(), what="stop")
    await lab.files.open()
    told = os.statvfs(lab.real)
    assert abs(await lab.files.free_mb() - (told.f_bfree * told.f_frsize >> 20)) < 1024


async def test_a_foreign_pool_of_that_name_is_left_alone(lab: Lab, tmp_path: Path) -> None:
    xml = pool_xml(f"{PREFIX}-other", tmp_path)
    await lab.connection.call(lambda conn: conn.storagePoolDefineXML(xml).name(), what="define")
    other = replace(lab.pool, name=f"{PREFIX}-other", path=PATH.with_name("elsewhere"))
    with pytest.raises(Conflict, match="is not the folder"):
        await PoolFiles(lab.connection, other, PREFIX).open()

    def undefine(conn: libvirt.virConnect) -> bool:
        pool = conn.storagePoolLookupByName(f"{PREFIX}-other")
        active = bool(pool.isActive())
        pool.undefine()
        return active

    assert not await lab.connection.call(undefine, what="undefine")
    assert tmp_path.exists()


# --- bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, (1 << 18) + 1, 5 << 20])
async def test_what_is_sent_is_what_is_there_and_what_is_fetched(lab: Lab, tmp_path: Path, size: int) -> None:
    volumes, data = Volumes(lab.connection, PREFIX, PATH), random.Random(size).randbytes(size)
    (tmp_path / "here").write_bytes(data)
    await volumes.send("x", tmp_path / "here")
    assert (lab.real / "x").read_bytes() == data
    await volumes.fetch("x", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert await volumes.head("x", 1000) == data[:1000]
    await volumes.clone("x", "y")
    await volumes.overwrite("y", b"other"[: len(data)])
    assert (lab.real / "y").read_bytes() == b"other"[: len(data)] + data[5:]
    assert (lab.real / "x").read_bytes() == data
    assert await volumes.delete(["y", "never", "x"]) >= 2 * size


async def test_holes_stay_holes(lab: Lab, tmp_path: Path) -> None:
    volumes = Volumes(lab.connection, PREFIX, PATH)
    await volumes.create("x")
    with (lab.real / "x").open("r+b") as file:
        file.seek(64 << 20)
        file.write(b"data")
        file.truncate(128 << 20)
    await volumes.fetch("x", tmp_path / "back")
    assert (tmp_path / "back").stat().st_blocks < 2048
    assert subprocess.run(["cmp", tmp_path / "back", lab.real / "x"], check=False).returncode == 0


async def test_an_upload_that_nobody_waits_for_leaves_nothing_and_frees_its_thread(lab: Lab) -> None:
    """As many hang as there are threads for them: calls go on, and so does the next transfer afterwards."""
    volumes, hang = Volumes(lab.connection, PREFIX, PATH), threading.Event()
    begun = [threading.Event() for _ in range(MOVERS)]

    def stuck(number: int) -> asyncio.Task[None]:
        def read(_: int) -> bytes:
            begun[number].set()
            hang.wait()
            return b"x"

        return asyncio.create_task(volumes._upload(f"hung-{number}", 1 << 20, read))

    hanging = [stuck(number) for number in range(MOVERS)]
    await asyncio.gather(*(asyncio.to_thread(one.wait) for one in begun))
    assert {f"hung-{number}" for number in range(MOVERS)} <= await volumes.names()  # a call gets through
    with pytest.raises(TimedOut):
        await lab.connection.transfer(lambda *_: None, what="queue", limit_s=0.2)
    for one in hanging:
        one.cancel()
    asyncio.get_running_loop().call_later(0.2, hang.set)
    await asyncio.gather(*hanging, return_exceptions=True)
    assert all(one.cancelled() for one in hanging)
    assert await volumes.names() == set()
    await volumes.put("after", b"x")


# --- images -------------------------------------------------------------------------------------------


async def test_an_image_is_brought_once_and_a_cut_upload_is_not_taken_for_whole(
    lab: Lab, image: GuestImage
) -> None:
    there = await lab.files.ensure_image(image)
    assert there.disk == PATH / "image.base-01.qcow2" and there.sha256 == image.sha256
    for here, far in ((image.disk, there.disk), (image.kernel, there.kernel), (image.initrd, there.initrd)):
        assert (lab.real / far.name).read_bytes() == here.read_bytes()
    marked = (lab.real / there.kernel.name).stat().st_ino
    assert await lab.files.ensure_image(image) == there
    assert (lab.real / there.kernel.name).stat().st_ino == marked
    # What a kill in the middle leaves: a volume of the right size, without the word that it is whole.
    await Volumes(lab.connection, PREFIX, PATH).delete([f"{there.kernel.name}.ok"])
    (lab.real / there.kernel.name).write_bytes(bytes(3 << 20))
    await lab.files.ensure_image(image)
    assert (lab.real / there.kernel.name).read_bytes() == image.kernel.read_bytes()


async def test_an_image_that_is_whole_there_needs_no_file_here(lab: Lab, image: GuestImage) -> None:
    there = await lab.files.ensure_image(image)
    for file in (image.disk, image.kernel, image.initrd):
        file.unlink()
    assert await lab.files.ensure_image(image) == there


async def test_an_image_that_is_being_brought_is_left_alone_by_the_next_who_needs_it(
    lab: Lab, image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, held, send = list[str](), asyncio.Event(), Volumes.send

    async def send_slowly(volumes: Volumes, name: str, file: Path) -> None:
        sent.append(name)
        await held.wait()
        await send(volumes, name, file)

    monkeypatch.setattr(Volumes, "send", send_slowly)
    both = [asyncio.create_task(lab.files.ensure_image(image)) for _ in range(2)]
    await asyncio.sleep(0.5)
    held.set()
    there, same = await asyncio.gather(*both)
    assert there == same and len(sent) == len(set(sent)) == 3
    assert (lab.real / there.disk.name).read_bytes() == image.disk.read_bytes()


# --- layers -------------------------------------------------------------------------------------------


async def test_an_overlay_there_is_as_one_made_here(lab: Lab, based: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", str(lab.real / lab.disk(0).name)],
        capture_output=True,
        check=True,
    ).stdout
    assert str(based).encode() in told and str(1 << 30).encode() in told
    assert await lab.files.backing_chain(lab.disk(0)) == [lab.disk(0), based]
    fresh = PoolFiles(lab.connection, lab.pool, PREFIX)  # one that remembers nothing
    assert await fresh.backing_chain(lab.disk(0)) == [lab.disk(0), based]
    with pytest.raises(NotFound):
        await lab.files.create_overlay(lab.disk(1), lab.disk(9))


@pytest.mark.parametrize("seed", range(3))
async def test_what_stays_of_any_tree_is_what_is_stood_on(lab: Lab, based: Path, seed: int) -> None:
    draw = random.Random(seed)
    parent = {0: 0}
    for number in range(1, 9):
        assert await lab.files.next_disk(f"{PREFIX}-a") == lab.disk(number)
        parent[number] = draw.randrange(number)
        await lab.files.create_overlay(lab.disk(number), lab.disk(parent[number]))
    kept = draw.sample(range(9), 3)
    for number in kept[1:]:
        await lab.files.mark(f"{PREFIX}-a", f"s{number}", lab.disk(number))
    expected = {0}
    for number in kept:
        while number:
            expected.add(number)
            number = parent[number]
    files = PoolFiles(lab.connection, lab.pool, PREFIX)
    await files.sweep(f"{PREFIX}-a", [lab.disk(kept[0])])
    assert {n for n in range(9) if lab.disk(n).name in lab.names()} == expected


async def test_layers_that_may_become_one_are_the_domains_own_and_nothing_else_stands_on_them(
    lab: Lab, based: Path
) -> None:
    """0 to 9 on each other, 9 is the running disk. 2 is kept, 12 stands on 4 besides, another's disk on 7."""
    files, first, branch = lab.files, f"{PREFIX}-a", f"{PREFIX}-b"
    for number in range(1, 10):
        await files.create_overlay(lab.disk(number), lab.disk(number - 1))
    await files.create_overlay(lab.disk(12), lab.disk(4))
    await files.mark(first, "s", lab.disk(2))
    await files.mark(first, "other", lab.disk(12))
    await files.claim(branch)
    await files.create_overlay(lab.disk(0, branch), lab.disk(7))
    found = await files.loose_layers(first, await files.backing_chain(lab.disk(9)))
    assert found.keys() == {lab.disk(number) for number in (0, 1, 3, 5, 6, 8)}
    assert all(size > 0 for size in found.values())


async def test_what_libvirt_changed_is_read_again(lab: Lab, based: Path) -> None:
    """As a merge does: 2 stands on 0 then, and 0 holds more."""
    files = lab.files
    for number in (1, 2):
        await files.create_overlay(lab.disk(number), lab.disk(number - 1))
    (here,) = await files.local_layers([lab.disk(0)])
    assert await files.backing_chain(lab.disk(2)) == [*map(lab.disk, (2, 1, 0)), based]
    there = [lab.real / lab.disk(number).name for number in range(3)]
    there[2].write_bytes(there[2].read_bytes().replace(b".disk-1.qcow2", b".disk-0.qcow2"))
    with there[0].open("ab") as more:
        more.write(b"more")
    await files.forget_layers(f"{PREFIX}-a")
    assert await files.backing_chain(lab.disk(2)) == [*map(lab.disk, (2, 0)), based]
    (here,) = await files.local_layers([lab.disk(0)])
    assert here.read_bytes() == there[0].read_bytes()


async def test_a_layer_stays_for_the_branch_and_goes_with_it(lab: Lab, based: Path) -> None:
    files, first, branch = lab.files, f"{PREFIX}-a", f"{PREFIX}-b"
    await files.mark(first, "point", lab.disk(0))
    await files.make_memory(files.path(first, "point.memory"))
    await files.create_overlay(lab.disk(1), lab.disk(0))
    await files.claim(branch)
    frozen = await files.share_layers([lab.disk(0), based], branch)
    await files.create_overlay(lab.disk(0, branch), frozen)
    (lab.real / f"{first}.console.log").write_text("what virtlogd made")
    await files.drop(first)
    mine = {name for name in lab.names() if name.startswith(first)}
    assert mine == {lab.disk(0).name}
    assert await files.claimed() == [branch]
    assert await files.backing_chain(lab.disk(0, branch)) == [lab.disk(0, branch), lab.disk(0), based]
    await files.drop(first)
    await files.drop(branch)
    assert await files.claimed() == [] and {name.partition(".")[0] for name in lab.names()} == {"image"}


async def test_another_domains_fresh_disk_is_not_swept(lab: Lab, based: Path) -> None:
    """One that is being made: no domain in libvirt leads to its files yet."""
    await lab.files.claim(f"{PREFIX}-b")
    await lab.files.create_overlay(lab.disk(0, f"{PREFIX}-b"), based)
    await lab.files.drop(f"{PREFIX}-a")
    assert lab.disk(0, f"{PREFIX}-b").name in lab.names()


async def test_a_create_that_was_killed_is_found_and_removed(lab: Lab, based: Path) -> None:
    """Killed within the upload of its disk: the volume has its size and nothing in it."""
    await lab.files.claim(f"{PREFIX}-b")
    await Volumes(lab.connection, PREFIX, PATH).create(lab.disk(0, f"{PREFIX}-b").name)
    (lab.real / lab.disk(0, f"{PREFIX}-b").name).write_bytes(bytes(196 << 10))
    assert await lab.files.claimed() == [f"{PREFIX}-a", f"{PREFIX}-b"]
    await lab.files.drop(f"{PREFIX}-a")
    await lab.files.drop(f"{PREFIX}-b")
    assert await lab.files.claimed() == []
    with pytest.raises(DuplicateName):
        for _ in range(2):
            await lab.files.claim(f"{PREFIX}-b")
    await lab.files.drop(f"{PREFIX}-b")


async def test_a_snapshots_name_is_taken_once(lab: Lab, based: Path) -> None:
    files, name = lab.files, f"{PREFIX}-a"
    await files.mark(name, "s1", lab.disk(0))
    with pytest.raises(DuplicateName):
        await files.mark(name, "s1", lab.disk(0))
    assert not await files.is_marked(name, "s")
    await files.unmark(name, "s1")
    assert not await files.is_marked(name, "s1")


async def test_layers_are_fetched_once_and_forgotten_with_the_layer(lab: Lab, based: Path) -> None:
    here = await lab.files.local_layers([lab.disk(0), based])
    assert here == [lab.pool.cache / lab.disk(0).name, lab.pool.images / "base-01.qcow2"]
    assert here[0].read_bytes() == (lab.real / lab.disk(0).name).read_bytes()
    assert here[0].parent.stat().st_mode & 0o777 == 0o700
    first = here[0].stat().st_ino
    assert (await lab.files.local_layers([lab.disk(0)]))[0].stat().st_ino == first
    (lab.pool.cache / "left.part").touch()
    await lab.files.open()
    assert here[0].exists() and not (lab.pool.cache / "left.part").exists()
    await lab.files.drop(f"{PREFIX}-a")
    assert not here[0].exists()


# --- memories and templates ---------------------------------------------------------------------------


async def template(lab: Lab, based: Path) -> None:
    """Files as a build leaves them, with a memory as libvirtd writes it."""
    work = f"{PREFIX}-template-k"
    await lab.files.claim(work)
    await lab.files.create_overlay(lab.files.path(work, TEMPLATE_DISK), based)
    memory = lab.files.path(work, TEMPLATE_MEMORY)
    await lab.files.make_memory(memory)
    head = HEADER.pack(MAGIC, 2, 200_000, 1, 0, 0) + b"<domain/>".ljust(200_000, b"\0")
    (lab.real / memory.name).write_bytes(head + os.urandom(MEMORY_BYTES))
    (lab.real / f"{work}.console.log").write_text("booting")


async def test_a_template_outlives_the_domain_it_was_made_in(lab: Lab, based: Path) -> None:
    work = f"{PREFIX}-template-k"
    await template(lab, based)
    assert await lab.files.template("k") is None and work in await lab.files.claimed()
    kept = await lab.files.keep_template(work, "k", TemplateFacts(2, 512, 1.5, "ab"))
    await lab.files.drop(work)
    assert await lab.files.claimed() == [f"{PREFIX}-a"]
    assert await PoolFiles(lab.connection, lab.pool, PREFIX).template("k") == kept
    assert len([name for name in lab.names() if name.startswith(work)]) == 3
    (lab.real / kept.memory.name).unlink()
    await lab.files.free_mb()  # looks
    assert await lab.files.template("k") is None


async def test_a_template_that_was_not_finished_goes_with_its_domain(lab: Lab, based: Path) -> None:
    await template(lab, based)
    await lab.files.drop(f"{PREFIX}-template-k")
    assert [name for name in lab.names() if "template" in name] == []


async def test_a_memory_is_copied_on_the_host_with_another_xml(lab: Lab, based: Path) -> None:
    await template(lab, based)
    source = lab.files.path(f"{PREFIX}-template-k", TEMPLATE_MEMORY)
    target = lab.files.path(f"{PREFIX}-a", "restore.save")
    for _ in range(2):  # the second over what a kill left
        await lab.files.copy_memory(source, target, lambda xml: xml.replace(b"/", b" id='x'/"))
    there, before = lab.real / target.name, lab.real / source.name
    assert read_header(there).xml == b"<domain id='x'/>" and read_header(before).xml == b"<domain/>"
    assert there.read_bytes()[-MEMORY_BYTES:] == before.read_bytes()[-MEMORY_BYTES:]
    assert there.stat().st_size == before.stat().st_size


async def test_a_layer_that_does_not_fit_here_is_not_fetched(lab: Lab, based: Path) -> None:
    """How large it is, its guest decides."""
    files = PoolFiles(lab.connection, replace(lab.pool, reserve_mb=1 << 40), PREFIX)
    with pytest.raises(HypervisorFailed, match=r"disk-0.qcow2 takes 0 MB, and this machine has \d+ MB free"):
        await files.local_layers([lab.disk(0)])
    assert list(lab.pool.cache.iterdir()) == []


async def test_nothing_is_left_here_of_a_fetch_that_failed(
    lab: Lab, based: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(_: str, file: Path) -> None:
        file.write_bytes(bytes(9))
        raise HypervisorFailed("the line is cut", remedy="wait")

    monkeypatch.setattr(lab.files._volumes, "fetch", fetch)
    with pytest.raises(HypervisorFailed, match="cut"):
        await lab.files.local_layers([lab.disk(0)])
    assert list(lab.pool.cache.iterdir()) == []


# --- what a guest writes ------------------------------------------------------------------------------

HOSTILE = [
    b"QFI\xfb" + bytes([0, 0, 0, 2]) + b"\0\0\0\0\0\0\0\x48\0\0\0\x0b" + bytes(52) + b"json:{broke",
    b"QFI\xfb" + bytes([0, 0, 0, 3]) + b"\xff" * 200,
    b"QFI\xfb\0\0\0\x03" + b"\0\0\0\0\0\0\0\x70\0\0\x03\xff" + bytes(92) + b"rbd:" + b"x" * 1000,
    b"QED\0" + b"\xff" * 512,
    b"KDMV" + b"\xff" * 2048,
    b"LUKS\xba\xbe\0\x01" + b"\xff" * 2048,
    b"LibvirtQemudSave",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_a_guests_console_cannot_hide_or_stop_the_pool(lab: Lab, based: Path, number: int) -> None:
    """Its first bytes are the guest's, and libvirt guesses a volume's format from them."""
    (lab.real / f"{PREFIX}-a.console.log").write_bytes(HOSTILE[number])
    await lab.files.free_mb()
    assert await lab.files.exists(lab.disk(0))
    await lab.files.drop(f"{PREFIX}-a")
    assert {name.partition(".")[0] for name in lab.names()} == {"image"}


async def test_a_layer_with_a_strange_head_is_refused(lab: Lab, based: Path) -> None:
    await lab.files.claim(f"{PREFIX}-b")
    volumes = Volumes(lab.connection, PREFIX, PATH)
    await volumes.put(lab.disk(0, f"{PREFIX}-b").name, b"no qcow2")
    await lab.files.create_overlay(lab.disk(1), based)
    with pytest.raises(HypervisorFailed, match="not qcow2"):
        await lab.files.sweep(f"{PREFIX}-a", [lab.disk(1)])
    assert lab.disk(0).name in lab.names()
