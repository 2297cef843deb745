"""A domain that somebody else made becomes a source: looked at, copied, recorded, and never touched."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from backend.audit import Audit
from backend.background import Background
from backend.config import Config
from backend.disks import DiskReader
from backend.errors import (
    Conflict,
    DuplicateName,
    HypervisorDown,
    HypervisorFailed,
    ImageRefused,
    PreparationFailed,
    SourceNotFound,
    WrongState,
)
from backend.fleet import DomainSources, domain_sources
from backend.hypervisor import Hypervisor, Pool, PrivateLibvirt
from backend.hypervisor import sources as libvirt_sources
from backend.hypervisor.volumes import pool_xml
from backend.images import Images, ImportLimits, Preparation
from backend.images.prepare import NEEDED_AS_IS
from backend.models import Identity, ImageView, Role, SourceCheck, SourceView
from backend.store import Store
from tests.fix_cloud_image import cloud_image
from tests.fix_foreign import endless_backup, foreign_xml, raw_disk

OPERATOR = Identity(uid=0, gid=0, pid=1, name="root", role=Role.OPERATOR)
PREFIX = "fluid-0c0c0c"
LIMIT_S = 60
AGENT = Identity(uid=65534, gid=65534, pid=1, name="nobody", role=Role.AGENT)
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nZm9yYmlkZGVu\n-----END OPENSSH PRIVATE KEY-----\n"
HASH = b"root:$y$j9T$forbidden$hash:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"
FILES = {
    "etc/shadow": HASH,
    "etc/ssh/ssh_host_ed25519_key": KEY,
    "root/.aws/credentials": b"[default]\naws_secret_access_key = forbidden\n",
    "home/ada/.ssh/id_ed25519": KEY,
    "srv/app/settings": b"token = ghp_" + b"a" * 36 + b"\n",
    "usr/share/doc/example.key": KEY,
    "usr/lib/systemd/systemd": b"x",
    "usr/sbin/sshd": b"x",
    "usr/bin/python3.11": b"x",
    "var/lib/dpkg/status": b"Package: a\nStatus: install ok installed\n\n" * 2,
}


SECRETS = {
    "/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/root/.aws/credentials", "/home/ada/.ssh/id_ed25519",
    "/srv/app/settings",
}  # fmt: skip


@dataclass(frozen=True)
class Lab:
    hypervisor: Hypervisor
    connection: libvirt.virConnect
    folder: Path
    images: Images
    audit: Audit
    background: Background
    host: str = "local"
    away: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, config: dict[str, Any], production: frozenset[str] = frozenset()) -> DomainSources:
        async def look(max_age_s: float) -> SimpleNamespace:
            return SimpleNamespace(disk_free_mb=4096)

        async def told(question: Callable[[Hypervisor], Awaitable[Any]]) -> Any:
            return await question(self.hypervisor)

        def require() -> Hypervisor:
            if self.away.is_set():
                raise HypervisorDown("the connection is lost", remedy="wait")
            return self.hypervisor

        host = SimpleNamespace(name=self.host, require=require, look=look, told=told)
        hosts = SimpleNamespace(named=lambda _: host)

        class Hosts(list[Any]):
            named = staticmethod(hosts.named)

        async def usable(_: Identity) -> Sequence[SourceView]:
            return [SourceView(name=image.name, kind="domain") for image in self.images.list()]

        limits = ImportLimits(bytes=16 << 30, reserve_bytes=0)
        preparation = Preparation(lambda: self.hypervisor, DiskReader(), cpu=2, memory_mb=1024)
        sources = SimpleNamespace(
            limits=limits, preparation=preparation, welcome=lambda image: cast("ImageView", image.view())
        )
        return DomainSources(
            Config.model_validate(config),
            self.folder,
            self.images,
            self.audit,
            cast("Any", SimpleNamespace(sources=usable)),
            cast("Any", sources),
            cast("Any", Hosts([host])),
            lambda: production,
            self.background,
        )

    def define(
        self, name: str, disk: Path, role: str = "", *, format: str = "raw", running: bool = False
    ) -> libvirt.virDomain:
        domain = self.connection.defineXML(foreign_xml(name, [(disk, format)], role))
        if running:
            domain.create()
        return domain

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                await asyncio.sleep(0.1)

    def left(self) -> list[str]:
        names = [path.name for path in self.images.folder.iterdir()]
        return [name for name in names if not name.endswith(".lock")]


@pytest.fixture(scope="module")
async def daemon() -> AsyncIterator[PrivateLibvirt]:
    with tempfile.TemporaryDirectory(prefix="fluid-") as folder:
        Path(folder).chmod(0o711)
        daemon = PrivateLibvirt(Path(folder) / "lv", hide_kvm=True)
        await daemon.start()
        yield daemon
        await daemon.stop()


@pytest.fixture
async def lab(daemon: PrivateLibvirt, open_folder: Path, store: Store) -> AsyncIterator[Lab]:
    hypervisor = Hypervisor(daemon.uri, folder=open_folder / "ours", virt_type="qemu", prefix="fluid-0a0a0a")
    await hypervisor.open()
    connection = libvirt.open(daemon.uri)
    audit = Audit(store, open_folder / "spool", open_folder / "audit.key", open_folder / "audit.head")
    images = open_folder / "images"
    images.mkdir(mode=0o711)
    async with Background() as background:
        yield Lab(hypervisor, connection, open_folder, Images(images), audit, background)
    for domain in connection.listAllDomains(0):
        if domain.isActive():
            domain.destroy()
    for domain in connection.listAllDomains(0):
        domain.undefine()
    connection.close()
    await hypervisor.close()


def system_disk(folder: Path, files: dict[str, bytes]) -> Path:
    """An ext4 file system over a whole disk."""
    root = folder / "root"
    for name, data in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (root / "usr/bin/python3").symlink_to("python3.11")
    disk = folder / "web.disk"
    command = ["mkfs.ext4", "-q", "-F", "-O", "^orphan_file,^metadata_csum_seed", "-d", str(root), str(disk)]
    subprocess.run([*command, "64M"], check=True)
    return disk


def state_of(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mtime_ns, found.st_ino


def status_of(told: SourceCheck) -> dict[str, str]:
    return {one.name: one.status for one in told.findings}


async def test_a_check_finds_what_is_missing_and_every_secret_and_changes_nothing(lab: Lab) -> None:
    disk = system_disk(lab.folder, FILES)
    domain = lab.define("web", disk)
    before, xml = state_of(disk), domain.XMLDesc(0)
    told = await lab.service({"sources": [{"name": "web"}]}).check(OPERATOR, "web")
    assert status_of(told) == {
        "state": "ok", "disk vda": "ok", "firmware": "ok", "agent": "ok", "file system": "ok", "python": "ok",
        "systemd": "ok", "ssh": "ok", "cloud-init": "bad", "ca trust": "warn",
    }  # fmt: skip
    (missing,) = [one for one in told.findings if one.status == "bad"]
    assert missing.remedy == "in web: apt-get install cloud-init"
    assert (told.can_prepare, told.can_clone) == (False, False)
    assert (told.secrets_known, told.secrets_cut) == (True, False)
    assert {one.path: one.kind for one in told.secrets} == {
        "/etc/shadow": "password hashes",
        "/etc/ssh/ssh_host_ed25519_key": "private key",
        "/root/.aws/credentials": "credentials",
        "/home/ada/.ssh/id_ed25519": "private key",
        "/srv/app/settings": "credentials",
    }
    assert "forbidden" not in told.model_dump_json()
    assert (state_of(disk), domain.XMLDesc(0)) == (before, xml)


async def test_a_clone_as_it_is_needs_the_config_s_word_and_a_guest_of_ours(lab: Lab) -> None:
    disk = system_disk(lab.folder, FILES)
    lab.define("web", disk)
    with pytest.raises(WrongState, match="which the config does not allow") as refused:
        await lab.service({"sources": [{"name": "web"}]}).prepare(OPERATOR, "web", True)
    assert "acknowledge_unprepared" in refused.value.remedy
    with pytest.raises(ImageRefused, match="/usr/bin/cloud-init is missing"):
        await lab.service({"sources": [{"name": "web"}]}).prepare(OPERATOR, "web", False)
    service = lab.service({"sources": [{"name": "web", "acknowledge_unprepared": True}]})
    with pytest.raises(PreparationFailed, match="/usr/local/sbin/fluid-guestd"):
        await service.prepare(OPERATOR, "web", True)
    assert lab.left() == []


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
async def test_a_machine_that_knows_us_is_copied_once_and_stays_as_it_is(lab: Lab, running: bool) -> None:
    ours = {path.removeprefix("/"): data for path, data in NEEDED_AS_IS.items()}
    disk = system_disk(lab.folder, {**FILES, **ours})
    domain = lab.define("web", disk, running=running)
    before, xml = state_of(disk), domain.XMLDesc(0)
    service = lab.service({"sources": [{"name": "web", "acknowledge_unprepared": True}]})
    (pending,) = await service.list(OPERATOR)
    assert (pending.name, pending.ready, pending.state) == ("web", False, "running" if running else "shutoff")
    assert await service.list(AGENT) == []
    told = await service.prepare(OPERATOR, "web", True)
    how = "running, not quiesced (it has no channel to QEMU's agent)" if running else "off"
    assert (told.name, told.kind, told.packages) == ("web", "domain", 2)
    assert told.origin == f"domain web of local, {how}"
    image = lab.images.get("web")
    await lab.images.verify("web")
    name = b"/home/ada/.ssh/id_ed25519"
    assert await DiskReader().read([image.disk], [name], 4096) == {name: KEY}
    assert (state_of(disk), domain.XMLDesc(0)) == (before, xml)
    assert sorted(lab.left()) == sorted([image.disk.name, "web.json"])
    assert [view.name for view in await service.list(AGENT)] == ["web"]
    with pytest.raises(DuplicateName, match="never changed in place"):
        await service.prepare(OPERATOR, "web", True)


async def test_what_may_never_be_a_source_is_refused_and_what_is_not_listed_is_not_there(lab: Lab) -> None:
    disk = raw_disk(lab.folder / "web.disk")
    for name, role in (("twin", "sandbox"), ("parked", "stock"), ("web-01", ""), ("golden", "source")):
        lab.define(name, disk, role)
    lab.define("fluid-0b0b0b-sbx-00000001", disk)
    listed = ("twin", "parked", "web-01", "fluid-0b0b0b-sbx-00000001", "gone")
    service = lab.service({"sources": [{"name": name} for name in listed]}, frozenset({"web-01"}))
    for name, words in (
        ("twin", "is marked as a sandbox of Fluid"),
        ("parked", "is marked as a stock of Fluid"),
        ("web-01", "is a target of production"),
        ("fluid-0b0b0b-sbx-00000001", "is a machine that Fluid made"),
    ):
        for ask in (service.check(OPERATOR, name), service.prepare(OPERATOR, name, False)):
            with pytest.raises(Conflict, match=words):
                await ask
    for name in ("gone", "nobody", "../x", "Golden"):
        with pytest.raises(SourceNotFound):
            await service.check(OPERATOR, name)
    views = {view.name: view for view in await service.list(OPERATOR)}
    assert set(views) == {*listed, "golden"}, "a mark alone is enough"
    assert views["golden"].problem == ""
    assert all(views[name].problem for name in listed)
    assert await service.list(AGENT) == []
    assert lab.left() == []


async def test_a_machine_that_calls_itself_as_a_target_is_refused_whatever_its_domain_is_called(
    lab: Lab,
) -> None:
    lab.define("web", system_disk(lab.folder, {**FILES, "etc/hostname": b"web-01.prod.test\n"}))
    listed = {"sources": [{"name": "web", "acknowledge_unprepared": True}]}
    service = lab.service(listed, frozenset({"web-01", "192.0.2.7"}))
    told = await service.check(OPERATOR, "web")
    assert status_of(told)["host name"] == "bad"
    assert (told.can_prepare, told.can_clone) == (False, False)
    for as_it_is in (False, True):
        with pytest.raises(ImageRefused, match=r"it calls itself web-01\.prod\.test, which is a target"):
            await service.prepare(OPERATOR, "web", as_it_is)
    assert lab.left() == []


async def test_two_disks_are_refused_before_anything_is_copied(lab: Lab) -> None:
    disk, other = raw_disk(lab.folder / "web.disk"), raw_disk(lab.folder / "data.disk")
    lab.connection.defineXML(foreign_xml("web", [(disk, "raw"), (other, "raw")]))
    with pytest.raises(ImageRefused, match=r"it has 2 disks \(vda, vdb\), and a sandbox has one"):
        await lab.service({"sources": [{"name": "web"}]}).prepare(OPERATOR, "web", False)
    assert lab.left() == []


async def test_a_disk_that_no_one_can_read_says_so_and_leaves_nothing(lab: Lab) -> None:
    lab.define("web", raw_disk(lab.folder / "web.disk"))
    service = lab.service({"sources": [{"name": "web", "acknowledge_unprepared": True}]})
    told = await service.check(OPERATOR, "web")
    assert status_of(told)["file system"] == "unknown"
    assert not told.secrets_known
    with pytest.raises(ImageRefused, match="the disk of web cannot be read"):
        await service.prepare(OPERATOR, "web", True)
    assert lab.left() == []
    assert await asyncio.to_thread(lambda: not list(lab.folder.glob("frozen/*")))


def endless(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def xml(_target: str, _others: list[str], into: Path) -> str:
        return endless_backup(into, folder)

    monkeypatch.setattr(libvirt_sources, "backup_xml", xml)


def job_of(domain: libvirt.virDomain) -> int:
    try:
        return int(domain.jobInfo()[0])
    except libvirt.libvirtError:  # it is being prepared
        return 0


async def test_a_copy_that_nobody_waits_for_any_more_is_ended_and_then_its_file_goes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(monkeypatch, lab.folder)
    domain = lab.define("web", raw_disk(lab.folder / "web.disk"), running=True)
    service = lab.service({"sources": [{"name": "web"}]})
    preparing = asyncio.create_task(service.prepare(OPERATOR, "web", False))
    await lab.until(lambda: job_of(domain))
    lab.away.set()
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    await asyncio.sleep(1)
    (copy,) = lab.left()
    assert job_of(domain) and copy.startswith(".copy."), "it is still written"
    with pytest.raises(WrongState, match="an earlier copy of web is not ended yet"):
        lab.away.clear()
        await service.prepare(OPERATOR, "web", False)
    await lab.until(lambda: not list(lab.folder.glob("copies/*")))
    assert not job_of(domain) and lab.left() == []


async def test_a_copy_that_a_killed_backend_left_is_ended_as_soon_as_its_host_answers(
    lab: Lab,
) -> None:
    domain = lab.define("web", raw_disk(lab.folder / "web.disk"), running=True)
    copy, note = lab.images.folder / ".copy.1", lab.folder / "copies/web.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"host": "local", "domain": "web", "file": str(copy)}))
    domain.backupBegin(endless_backup(copy, lab.folder), None, 0)
    lab.away.set()
    lab.service({}).recover()
    await asyncio.sleep(3)
    assert job_of(domain) and copy.exists() and note.exists()
    lab.away.clear()
    await lab.until(lambda: not note.exists())
    assert not job_of(domain) and not copy.exists()
    rows, _ = await lab.audit.list()
    assert [row.action for row in rows] == ["source.abort"]


@dataclass(frozen=True)
class Far:
    """The same libvirtd as another machine: ``folder`` is its /var/lib/libvirt/images."""

    lab: Lab
    folder: Path

    def left(self) -> list[str]:
        return [path.name for path in (self.folder / PREFIX).iterdir()]


@pytest.fixture
async def far(daemon: PrivateLibvirt, lab: Lab) -> AsyncIterator[Far]:
    images = Path("/var/lib/libvirt/images")
    pool = Pool(PREFIX, images / PREFIX, lab.folder / "layers", lab.images.folder)
    hypervisor = Hypervisor(daemon.uri, pool=pool, virt_type="qemu", prefix=PREFIX)
    await hypervisor.open()
    yield Far(replace(lab, hypervisor=hypervisor, host="far-1"), daemon.folder / "lib" / "images")
    await hypervisor.close()
    for found in lab.connection.listAllStoragePools(0):
        found.destroy()


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
async def test_a_machine_on_another_host_is_copied_over_libvirt_and_stays_as_it_is(
    far: Far, running: bool
) -> None:
    lab, ours = far.lab, {path.removeprefix("/"): data for path, data in NEEDED_AS_IS.items()}
    base, top = far.folder / "web.disk", far.folder / "web.qcow2"
    shutil.move(system_disk(lab.folder, {**FILES, **ours}), base)
    command = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.name, top.name)
    subprocess.run(command, check=True, cwd=far.folder)
    lab.connection.storagePoolCreateXML(pool_xml("default", Path("/var/lib/libvirt/images")))
    domain = lab.define("web", Path("/var/lib/libvirt/images") / top.name, format="qcow2", running=running)
    before, xml = (state_of(base), state_of(top)), domain.XMLDesc(0)
    entry = {"name": "web", "host": "far-1", "acknowledge_unprepared": True}
    service = lab.service({"sources": [entry]})
    when = " while it runs" if running else ""
    told = await service.check(OPERATOR, "web")
    assert [one.message for one in told.findings if one.name == "file system"] == [
        f"ext4, read from outside{when}"
    ]
    assert status_of(told)["ca trust"] == "ok" and told.can_clone and lab.left() == []
    assert told.secrets_known and {one.path for one in told.secrets} == SECRETS
    made = await service.prepare(OPERATOR, "web", True)
    how = "running, not quiesced (it has no channel to QEMU's agent)" if running else "off"
    assert (made.packages, made.origin) == (2, f"domain web of far-1, {how}")
    await lab.images.verify("web")
    name = b"/home/ada/.ssh/id_ed25519"
    assert await DiskReader().read([lab.images.get("web").disk], [name], 4096) == {name: KEY}
    assert ((state_of(base), state_of(top)), domain.XMLDesc(0)) == (before, xml)
    assert domain.isActive() == running
    assert far.left() == []


async def test_a_copy_there_that_nobody_waits_for_any_more_is_ended_before_anybody_sweeps_it(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(monkeypatch, far.lab.folder)
    raw_disk(far.folder / "web.disk")
    domain = far.lab.define("web", Path("/var/lib/libvirt/images/web.disk"), running=True)
    service = far.lab.service({"sources": [{"name": "web", "host": "far-1"}]})
    preparing = asyncio.create_task(service.prepare(OPERATOR, "web", False))
    await far.lab.until(lambda: job_of(domain))
    far.lab.away.set()
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    machine = far.lab.hypervisor
    assert (await machine.sweep_preparations(), await machine.leftovers()) == ([], [])
    (copy,) = far.left()
    assert job_of(domain) and copy.startswith("copy.")
    far.lab.away.clear()
    await far.lab.until(lambda: not list(far.lab.folder.glob("copies/*")))
    assert not job_of(domain) and far.left() == [] and far.lab.left() == []
    (far.folder / PREFIX / f"{PREFIX}-import-0badc0de.copy.qcow2").write_bytes(b"an older backend's")
    assert await machine.sweep_preparations() == [f"{PREFIX}-import-0badc0de"]
    assert far.left() == []


def there(far: Far, files: dict[str, bytes], *, running: bool = False) -> libvirt.virDomain:
    """The domain `web` of that host, with its disk in a pool."""
    shutil.move(system_disk(far.lab.folder, files), far.folder / "web.disk")
    far.lab.connection.storagePoolCreateXML(pool_xml("default", Path("/var/lib/libvirt/images")))
    return far.lab.define("web", Path("/var/lib/libvirt/images/web.disk"), running=running)


async def test_a_disk_on_another_host_is_looked_into_without_bringing_it(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    there(far, {**FILES, "etc/hostname": b"web-01\n", "srv/noise": random.Random(7).randbytes(32 << 20)})
    sent: list[int] = []
    read = Hypervisor.read_source_file

    async def counted(machine: Hypervisor, path: Path, offset: int, length: int) -> bytes:
        data = await read(machine, path, offset, length)
        sent.append(len(data))
        return data

    monkeypatch.setattr(Hypervisor, "read_source_file", counted)
    entry = {"name": "web", "host": "far-1", "acknowledge_unprepared": True}
    told = await far.lab.service({"sources": [entry]}, frozenset({"web-01"})).check(OPERATOR, "web")
    assert (status_of(told)["host name"], told.can_prepare, told.can_clone) == ("bad", False, False)
    assert {one.path for one in told.secrets} == SECRETS and not told.secrets_cut
    assert 0 < sum(sent) <= 16 << 20, "of 64 MiB"
    assert far.lab.left() == [] and far.left() == []


async def test_a_check_brings_no_more_of_a_disk_than_the_limit_and_says_that_there_may_be_more(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {f"srv/{number:02}.noise": random.Random(number).randbytes(1 << 20) for number in range(30)}
    keys = {f"srv/{number:02}.key": KEY for number in range(30)}
    there(far, {**FILES, **noise, **keys})
    service = far.lab.service({"sources": [{"name": "web", "host": "far-1"}]})
    whole = await service.check(OPERATOR, "web")
    assert len(whole.secrets) == len(SECRETS) + 30 and "secrets" not in status_of(whole)
    monkeypatch.setattr(domain_sources, "FAR_BYTES", 20 << 20)
    told = await service.check(OPERATOR, "web")
    assert told.secrets_cut and 0 < len(told.secrets) < len(whole.secrets)
    assert (status_of(told)["secrets"], status_of(told)["python"]) == ("warn", "ok")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    told = await service.check(OPERATOR, "web")
    assert status_of(told)["file system"] == "unknown" and not told.secrets_known, "there is no room here"


async def test_a_far_disk_that_cannot_be_read_is_unknown_and_says_why(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    there(far, FILES)
    service = far.lab.service({"sources": [{"name": "web", "host": "far-1"}]})

    async def fails(*_: object) -> bytes:
        raise HypervisorFailed("read web.disk: no", remedy="read the host's log")

    monkeypatch.setattr(Hypervisor, "read_source_file", fails)
    told = await service.check(OPERATOR, "web")
    (found,) = [one for one in told.findings if one.name == "file system"]
    assert (found.status, found.message, found.remedy) == (
        "unknown", "read web.disk: no", "read the host's log",
    )  # fmt: skip
    assert not told.secrets_known and far.lab.left() == []


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
async def test_a_check_of_a_disk_in_no_pool_says_so_and_it_is_in_the_way_of_a_machine_that_is_off(
    far: Far, running: bool
) -> None:
    raw_disk(far.folder / "web.disk")
    far.lab.define("web", Path("/var/lib/libvirt/images/web.disk"), running=running)
    told = await far.lab.service({"sources": [{"name": "web", "host": "far-1"}]}).check(OPERATOR, "web")
    name, status = ("file system", "unknown") if running else ("disk file", "bad")
    (found,) = [one for one in told.findings if one.name == name]
    assert found.status == status and "is in no storage pool of that host" in found.message
    assert found.remedy.startswith("on that host: virsh pool-create-as ")
    assert (told.can_prepare, told.secrets_known) == (running, False)


async def test_a_disk_elsewhere_that_is_in_no_pool_is_refused_with_what_makes_one(far: Far) -> None:
    far.lab.define("web", raw_disk(far.folder / "web.disk"))
    service = far.lab.service({"sources": [{"name": "web", "host": "far-1"}]})
    with pytest.raises(ImageRefused, match="is in no storage pool of that host") as refused:
        await service.prepare(OPERATOR, "web", False)
    assert refused.value.remedy.startswith("on that host: virsh pool-create-as ")
    assert far.lab.left() == [] and far.left() == []


@pytest.mark.full
async def test_the_copy_of_a_whole_machine_is_prepared_by_one_boot_and_the_machine_stays_as_it_is(
    lab: Lab,
) -> None:
    disk = lab.folder / "web.qcow2"
    await asyncio.to_thread(lambda: shutil.copyfile(cloud_image(), disk))
    domain = lab.define("web", disk, format="qcow2")
    before, xml = state_of(disk), domain.XMLDesc(0)
    service = lab.service({"sources": [{"name": "web"}]})
    told = await service.check(OPERATOR, "web")
    assert told.can_prepare, told.findings
    assert (await service.prepare(OPERATOR, "web", False)).origin == "domain web of local, off"
    daemon, off = b"/usr/local/sbin/fluid-guestd", b"/etc/cloud/cloud-init.disabled"
    survey = await DiskReader().survey([lab.images.get("web").disk], [daemon, off])
    assert set(survey.names) == {daemon, off}
    assert survey.secrets == (), "its host keys and root's password are gone"
    assert (state_of(disk), domain.XMLDesc(0)) == (before, xml)
