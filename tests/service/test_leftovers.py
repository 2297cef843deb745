"""What is left over is seen and removed, and what is somebody's stays: real libvirtds, machines without a
system. The images' folder is the installation's own here."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import libvirt
import pytest

from backend.errors import ArchitectureUnsupported, HypervisorFailed, ImageInUse, ImageNotFound, WrongState
from backend.fleet.ageing import release_image
from backend.fleet.host import guest_image
from backend.hypervisor import PrivateLibvirt
from backend.hypervisor.storage import TEMPLATE_DISK, TEMPLATE_FACTS, TEMPLATE_MEMORY, TEMPLATE_RAM
from backend.hypervisor.volumes import volume_xml
from backend.images import BuiltImage, Doomed
from backend.models import LeftoverReport, Sandbox, now
from backend.store import EventBus, Store
from tests.fix_foreign import foreign_xml, raw_disk
from tests.fix_machines import FAR, LAN, OPERATOR, Machines, machines, network_xml

ANOTHERS = "fluid-ffffff"


@pytest.fixture
async def both(
    daemons: list[PrivateLibvirt], store: Store, bus: EventBus, open_folder: Path
) -> AsyncIterator[Machines]:
    async with machines(store, bus, open_folder, [daemon.uri for daemon in daemons]) as made:
        yield made


def told(report: LeftoverReport) -> set[tuple[str, str, str]]:
    assert report.silent == []
    return {(one.host, one.kind, one.name) for one in report.found}


def plant_template(both: Machines, key: str, image: BuiltImage, facts: object) -> Path:
    """As a build leaves it; its memory is none."""
    folder = both.local.folder / "templates" / key
    folder.mkdir()
    (folder / TEMPLATE_DISK).write_bytes(image.disk.read_bytes())
    (folder / TEMPLATE_MEMORY).write_bytes(b"memory")
    (folder / TEMPLATE_FACTS).write_text(json.dumps(facts))
    return folder


def facts(image: BuiltImage) -> dict[str, object]:
    return {"cpu": 2, "memory_mb": 1024, "build_s": 1.0, "image": image.sha256}


async def plant_ours(both: Machines) -> set[tuple[str, str, str]]:
    """One of each kind that nothing needs; how they are told."""
    former = both.build()
    image = both.build()
    files, prefix = both.files(), both.prefix
    for number in (1, 2):
        name = f"{prefix}-sbx-0000000{number}"
        await files.claim(name)
        await files.create_overlay(files.path(name, "disk-0.qcow2"), image.disk)
    both.start(f"{prefix}-sbx-00000001", files.path(f"{prefix}-sbx-00000001", "disk-0.qcow2"))
    connection = both.connect()
    connection.networkDefineXML(network_xml(f"{prefix}-old"))
    connection.close()
    plant_template(both, "0123456789abcdef", former, facts(former))
    plant_template(both, "00000000broken00", image, "no facts")
    (both.local.folder / "templates" / f"fedcba9876543210.{TEMPLATE_RAM}").write_bytes(b"alone")
    for stray in ("base-0000.qcow2", "kernel-0000", "base.qcow2.new"):
        (both.images.folder / stray).write_bytes(b"part")
    (both.images.folder / ".build-dead" / "root").mkdir(parents=True)
    # On the other host: a domain's claim, and an upload of an image that is none any more.
    far = both.files(FAR)
    await far.claim(f"{prefix}-sbx-00000003")
    old = both.images.folder / "old.qcow2"
    old.write_bytes(former.disk.read_bytes())
    await far.ensure_image(guest_image(BuiltImage(**{**vars(former), "disk": old})))
    old.unlink()
    return {
        ("local", "domain", f"{prefix}-sbx-00000001"),
        ("local", "files", f"{prefix}-sbx-00000002"),
        ("local", "network", f"{prefix}-old"),
        ("local", "template", "0123456789abcdef"),
        ("local", "template", "00000000broken00"),
        ("local", "template", "fedcba9876543210"),
        (FAR, "files", f"{prefix}-sbx-00000003"),
        (FAR, "image", "copy of old.qcow2"),
        ("control node", "image", f"base.{former.sha256[:16]}.former"),
        ("control node", "image", "base-0000.qcow2"),
        ("control node", "image", "kernel-0000"),
        ("control node", "image", "base.qcow2.new"),
        ("control node", "image", ".build-dead"),
    }


class Foreign:
    """What is somebody else's, or needed."""

    def __init__(self, both: Machines, folder: Path) -> None:
        self.here, self.there = both.connect(), both.connect(FAR)
        disk = raw_disk(folder / "web.raw")
        names = [("web", ""), (f"{both.prefix}-unmarked", ""), (f"{ANOTHERS}-sbx-00000001", "sandbox")]
        self.domains = [self.here.defineXML(foreign_xml(name, [(disk, "raw")], role)) for name, role in names]
        self.networks = [self.here.networkDefineXML(network_xml(name)) for name in ("lan", f"{ANOTHERS}-old")]
        self.pool = self.there.storagePoolLookupByName(both.prefix)
        self.pool.createXML(volume_xml("their.iso", 4096), 0)
        self.files = [both.images.folder / "notes.txt", both.local.folder / "domains" / "theirs" / "disk.raw"]
        for file in self.files:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"theirs")

    def seen(self) -> list[str]:
        self.pool.refresh(0)
        return [
            *(one.XMLDesc(0) for one in (*self.domains, *self.networks)),
            *self.pool.listVolumes(),
            *(file.read_text() for file in self.files),
        ]

    def close(self) -> None:
        for domain in self.domains:
            domain.undefine()
        self.here.close()
        self.there.close()


async def test_orphans_of_each_kind_are_shown_and_removed_and_foreign_things_are_not(
    both: Machines, open_folder: Path
) -> None:
    planted = await plant_ours(both)
    image = both.images.get("base")
    kept = await both.runs(image, 16)
    usual = plant_template(
        both, await both.local._templates._key(guest_image(image), 2, 1024), image, facts(image)
    )
    foreign = Foreign(both, open_folder)
    before = foreign.seen()
    try:
        assert told(await both.fleet.leftovers(OPERATOR)) == planted
        assert told(await both.fleet.leftovers(OPERATOR)) == planted, "looking touches nothing"
        assert told(await both.fleet.clear(OPERATOR)) == planted
        report = await both.fleet.leftovers(OPERATOR)
        assert report.found == [] and report.silent == []
        assert (report.domains, report.templates) == (1, 1)
        assert foreign.seen()[:5] == before[:5] and "their.iso" in foreign.seen()
        assert usual.exists() and image.disk.exists()
        assert (await both.local.info(kept.domain)).state == "running"
        assert [one.name for one in both.images.list()] == ["base"]
        left = {path.name for path in both.images.folder.iterdir() if not path.name.startswith(".")}
        assert left == {
            "base.json", image.disk.name, f"{image.disk.name}.{both.prefix}.held", "notes.txt"
        }  # fmt: skip
    finally:
        foreign.close()


async def test_a_former_image_stays_as_long_as_a_sandbox_was_made_of_it_and_goes_by_age(
    both: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = both.build()
    box = await both.runs(first)
    second = both.build()
    record = both.images.folder / f"base.{first.sha256[:16]}.former"
    assert both.fleet.image_of(box) == first and both.images.get("base") == second
    assert both.fleet.source_digest(box) == f"base@{first.sha256}"

    async def obtain(wanted: Sandbox, image: BuiltImage) -> Sandbox:
        assert (image, wanted.base_image, wanted.image_sha256) == (first, "base", first.sha256)
        return await both.runs(image, 2)

    monkeypatch.setattr(both.fleet, "obtain", obtain)
    await both.fleet.discard(await both.fleet.fork_twin(box, purpose="rehearsal"))
    old = box.model_copy(update={"image_sha256": ""})  # a row of an older version
    with pytest.raises(ImageNotFound, match="built anew since"):
        both.fleet.image_of(old)
    assert both.fleet.image_of(old.model_copy(update={"created_at": now()})) == second
    os.utime(record, (time.time() - 10**6,) * 2)
    await age(both)
    assert (await both.fleet.leftovers(OPERATOR)).found == [] and first.disk.exists()
    await both.fleet.destroy(OPERATOR, box.id)
    os.utime(record)
    await age(both)
    assert first.disk.exists(), "it was superseded a moment ago"
    os.utime(record, (time.time() - 10**6,) * 2)
    await age(both)
    assert not first.disk.exists() and not record.exists() and both.images.list() == [second]


async def test_what_another_installation_holds_stays(both: Machines, open_folder: Path) -> None:
    first = both.build()
    theirs = open_folder / "another"
    theirs.mkdir()
    held = first.disk.with_name(f"{first.disk.name}.{ANOTHERS}.held")
    held.symlink_to(theirs)
    both.build()
    assert (await both.fleet.leftovers(OPERATOR)).found == []
    theirs.rmdir()  # that installation is gone
    assert len((await both.fleet.clear(OPERATOR)).found) == 1
    assert not first.disk.exists() and not held.is_symlink()


async def age(both: Machines, *, boots: bool = False) -> None:
    """``boots``: hosts that want a template make one."""
    for host in () if boots else both.hosts:
        for image in both.images.list():
            host.cannot[image.sha256] = ArchitectureUnsupported("machines without a system")
    await both.fleet.age_templates()


async def test_a_template_that_could_not_be_made_is_tried_again(
    both: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, here = both.build(), both.hosts.named("local")
    both.hosts.named(FAR).cannot[image.sha256] = ArchitectureUnsupported("another machine's")
    ends: list[Exception | None] = [HypervisorFailed("it did not boot"), None]

    async def ensure(*_: object, **__: object) -> None:
        if error := ends.pop(0):
            raise error

    monkeypatch.setattr(both.local, "ensure_template", ensure)
    await both.fleet.warm(here)
    assert here.warm == set()
    await age(both, boots=True)
    while both.fleet.is_warming():
        await asyncio.sleep(0)
    assert here.warm == {image.sha256} and ends == []


async def test_a_template_that_a_disk_stands_on_is_nobodys_to_remove(both: Machines) -> None:
    """As after an upgrade of libvirt: it is not the one that would be made now."""
    image = both.build()
    folder = plant_template(both, "0123456789abcdef", image, facts(image))
    files, name = both.files(), f"{both.prefix}-sbx-00000001"
    await both.runs(image)
    await files.create_overlay(files.path(name, "disk-1.qcow2"), folder / TEMPLATE_DISK)
    assert await both.local.age_templates([], -1) == []
    assert (await both.fleet.leftovers(OPERATOR)).found == []
    await files.remove(files.path(name, "disk-1.qcow2"))
    assert told(await both.fleet.leftovers(OPERATOR)) == {("local", "template", "0123456789abcdef")}
    assert await both.local.age_templates([], -1) == ["0123456789abcdef"]
    assert not folder.exists()


@pytest.mark.parametrize(("taken", "look"), [("stood on", 1), ("asked for", 2)])
async def test_a_template_that_is_taken_meanwhile_does_not_age(
    both: Machines, monkeypatch: pytest.MonkeyPatch, taken: str, look: int
) -> None:
    image, templates = both.build(), both.local._templates
    folder = plant_template(both, "0123456789abcdef", image, facts(image))
    files, name, looks = templates._files, f"{both.prefix}-sbx-00000001", 0
    await files.claim(name)
    look_at = files.free_templates

    async def free_templates() -> list[str]:
        nonlocal looks
        found, looks = await look_at(), looks + 1
        if looks == look and taken == "asked for":
            templates._used[folder.name] = time.monotonic()
        elif looks == look:
            await files.create_overlay(files.path(name, "disk-0.qcow2"), folder / TEMPLATE_DISK)
        return found

    templates._since -= 3600
    monkeypatch.setattr(files, "free_templates", free_templates)
    assert await both.local.age_templates([], 60) == []
    assert folder.exists() and looks == 2


async def test_nothing_ages_while_a_disk_cannot_be_read(both: Machines) -> None:
    image = both.build()
    folder = plant_template(both, "0123456789abcdef", image, facts(image))
    await both.files().claim(name := f"{both.prefix}-sbx-00000001")
    both.files().path(name, "disk-0.qcow2").write_bytes(b"no qcow2".ljust(512))
    with pytest.raises(HypervisorFailed, match="is not qcow2"):
        await both.local.age_templates([], -1)
    assert folder.exists()


async def test_a_template_being_snapshot_is_no_leftover(both: Machines) -> None:
    """The first fork by snapshot copy runs the template's own domain once more."""
    image = both.build()
    name = f"{both.prefix}-template-0123456789abcdef"
    await both.files().claim(f"{name}-ram")
    await both.files().create_overlay(disk := both.files().path(f"{name}-ram", "disk-0.qcow2"), image.disk)
    both.start(name, disk, role="template")
    with both.local._domains.at_work_on(name, f"{name}-ram"):
        assert (await both.fleet.clear(OPERATOR)).found == []
    assert told(await both.fleet.clear(OPERATOR)) == {
        ("local", "domain", name),
        ("local", "files", f"{name}-ram"),
    }


async def test_a_host_that_is_removed_keeps_nothing_of_ours(both: Machines) -> None:
    image = both.build()
    box = await both.runs(image, host=FAR)
    far = both.hosts.named(FAR)
    connection = both.connect(FAR)
    with pytest.raises(WrongState, match="of ours are there"):
        await far.require().vanish()
    await both.fleet.destroy(OPERATOR, box.id)
    volumes = connection.storagePoolLookupByName(both.prefix)
    assert volumes.listVolumes(), "the image's copy"
    assert await both.hosts.remove(FAR) == []
    assert connection.listNetworks() == [LAN] and connection.listAllStoragePools(0) == []
    assert not (both.paths.cache / "far").exists()
    connection.close()


async def test_an_image_whose_template_is_stood_on_is_not_released(both: Machines) -> None:
    image = both.build()
    folder = plant_template(both, "0123456789abcdef", image, facts(image))
    await both.files().claim(name := f"{both.prefix}-sbx-00000001")
    await both.files().create_overlay(both.files().path(name, "disk-0.qcow2"), folder / TEMPLATE_DISK)
    both.build()
    with pytest.raises(ImageInUse, match="stands on template 0123456789abcdef"):
        await release_image(both.hosts, Doomed(frozenset({image.disk}), image.sha256))
    assert folder.exists()


async def test_a_copy_of_a_living_sandbox_under_another_name_is_no_leftover(both: Machines) -> None:
    kept = await both.runs(both.build(), 17)
    connection = both.connect()
    try:
        domain, copy = connection.lookupByName(kept.domain), f"{both.prefix}-sbx-0000beef"
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        mark = f'<fluid:item key="sandbox">{kept.id}</fluid:item></fluid:domain>'
        for old, new in (
            (kept.domain, copy),
            (domain.UUIDString(), str(uuid.uuid4())),
            ("</fluid:domain>", mark),
        ):
            xml = xml.replace(old, new)
        connection.defineXML(xml)
        try:
            assert (await both.fleet.leftovers(OPERATOR)).found == []
        finally:
            connection.lookupByName(copy).undefine()
    finally:
        connection.close()
