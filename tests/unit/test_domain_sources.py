"""What of somebody else's domain is taken for a source, and with which words the rest is refused."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from backend import config
from backend.config import SourceConfig
from backend.disks import Elsewhere, Listed, Survey
from backend.errors import ConfigError, ImageRefused, PreparationFailed, WrongState
from backend.fleet import preflight
from backend.hypervisor.source_xml import SourceDomain, backup_xml, source_domain
from backend.images import (
    Brought,
    BuiltImage,
    FileLayer,
    Images,
    ImportLimits,
    chain_of,
    clone_image,
    clones,
    copy_layers,
)
from backend.images.imports import flatten
from backend.images.programs import Programs
from backend.paths import Paths
from tests.fix_foreign import flat, pattern, qcow2_disk, raw_disk

ENTRY = SourceConfig(name="web")
LIMITS = ImportLimits(bytes=1 << 30, reserve_bytes=0)
FILE = (
    "<disk type='file' device='disk'><driver name='qemu' type='{}'/>"
    "<source file='/srv/web.img'>{}</source>{}<target dev='vda'/></disk>"
)
NET = (
    "<disk type='network' device='disk'><driver type='raw'/>"
    "<source protocol='rbd' name='pool/web'/><target dev='vda'/></disk>"
)


def domain(*disks: str, system: str = "", state: str = "running", agent: str = "") -> SourceDomain:
    channel = f"<channel><target name='org.qemu.guest_agent.0' state='{agent}'/></channel>" if agent else ""
    xml = (
        "<domain type='kvm'><name>web</name><uuid>u</uuid>"
        f"<os><type arch='x86_64' machine='q35'>hvm</type>{system}</os>"
        f"<devices>{''.join(disks)}{channel}</devices></domain>"
    )
    return source_domain(xml, state, None)  # type: ignore[arg-type]


def bad(source: SourceDomain) -> str:
    found = preflight.of_domain(ENTRY, source)
    assert all(one.remedy for one in found if one.status == preflight.BAD)
    return "; ".join(one.message for one in found if one.status == preflight.BAD)


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (FILE.format("raw", "", ""), ""),
        (FILE.format("qcow2", "", ""), ""),
        (FILE.format("raw", "", "").replace("type='file'", "type='block'").replace("file=", "dev="), ""),
        (FILE.format("vmdk", "", ""), "vda is of the format vmdk"),
        (FILE.format("raw", "", "").replace(" type='raw'", ""), "vda is of the format that nobody names"),
        (FILE.format("raw", "<encryption format='luks'/>", ""), "vda is encrypted"),
        (FILE.format("raw", "", "<encryption format='luks'/>"), "vda is encrypted"),
        (FILE.format("raw", "<slices/>", ""), "vda is a slice of a larger file"),
        (FILE.format("qcow2", "<dataStore type='file'/>", ""), "vda keeps its data in another file"),
        (FILE.format("raw", "", "<shareable/>"), "vda is shared with other domains"),
        (FILE.format("raw", "", "").replace("device='disk'", "device='lun'"), "vda is a SCSI device"),
        (NET, "vda lies on the network rbd, not in a file or block device"),
        ("<disk type='file' device='disk'><driver type='raw'/><target dev='vda'/></disk>", "vda has no file"),
        (
            "<disk type='volume' device='disk'><source pool='p'/><target dev='vda'/></disk>",
            "vda lies on the volume",
        ),
        ("", "it has 0 disks, and a sandbox has one"),
    ],
)
def test_a_disk_that_cannot_be_copied_is_refused_with_the_reason(disk: str, words: str) -> None:
    assert bad(domain(disk)).startswith(words) and bool(bad(domain(disk))) == bool(words)


@pytest.mark.parametrize(
    ("disks", "system", "remedy"),
    [
        (
            [FILE.format("vmdk", "", "")],
            "",
            "while it is off: qemu-img convert -f vmdk -O qcow2 /srv/web.img /srv/web.img.qcow2, "
            "and name that file: virsh edit web",
        ),
        (
            [FILE.format("raw", "", "<shareable/>")],
            "",
            "let vda be a qcow2 or raw file of its own, its format named in <driver>: virsh edit web",
        ),
        (
            [NET],
            "",
            "let vda be a qcow2 or raw file of its own, its format named in <driver>: virsh edit web",
        ),
        (
            [FILE.format("raw", "", ""), FILE.format("raw", "", "").replace("vda", "vdb")],
            "",
            "move what it needs to vda, then virsh detach-disk web vdb --config",
        ),
        (
            [FILE.format("raw", "", "")],
            "<kernel>/boot/vmlinuz</kernel>",
            "in web: apt-get install grub-pc; then take <kernel> out: virsh edit web",
        ),
    ],
)
def test_what_cannot_be_copied_or_would_not_boot_names_the_command_that_mends_it(
    disks: list[str], system: str, remedy: str
) -> None:
    found = preflight.of_domain(ENTRY, domain(*disks, system=system))
    assert [one.remedy for one in found if one.status == preflight.BAD] == [remedy]


def test_a_command_is_for_the_host_of_the_machine_and_every_name_in_it_is_one_word() -> None:
    entry = SourceConfig(name="web", host="kvm-02", domain="web; reboot")
    disk = FILE.format("vmdk", "", "").replace("/srv/web.img", "/srv/$(reboot).img")
    (vmdk,) = preflight.bad(preflight.of_domain(entry, domain(disk)))
    assert (
        "on kvm-02: qemu-img convert -f vmdk -O qcow2 '/srv/$(reboot).img' '/srv/$(reboot).img.qcow2'"
        in vmdk.remedy
    )
    assert vmdk.remedy.endswith("on kvm-02: virsh edit 'web; reboot'")


def test_more_than_one_disk_is_refused_by_name_and_one_that_is_only_read_is_left_out() -> None:
    first = FILE.format("raw", "", "")
    second = first.replace("vda", "vdb")
    assert bad(domain(first, second)) == "it has 2 disks (vda, vdb), and a sandbox has one"
    seed = second.replace("<target", "<readonly/><target")
    source = domain(first, seed, first.replace("device='disk'", "device='cdrom'").replace("vda", "sda"))
    assert bad(source) == ""
    assert [disk.target for disk in source.disks] == ["vda", "vdb"]
    assert preflight.disk_to_copy(source) == source.disks[0]
    assert "vdb cannot be written to, and is left out" in [
        one.message for one in preflight.of_domain(ENTRY, source)
    ]


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("<loader type='pflash'>/f</loader>", "it boots by UEFI"),
        ("<kernel>/boot/vmlinuz</kernel>", "it boots a kernel that lies on the host"),
    ],
)
def test_a_clone_that_would_not_boot_is_refused(system: str, words: str) -> None:
    assert bad(domain(FILE.format("raw", "", ""), system=system)).startswith(words)
    efi = domain(FILE.format("raw", "", ""))
    assert bad(efi) == ""


@pytest.mark.parametrize(
    ("agent", "status", "words", "remedy"),
    [
        ("connected", "ok", "stand still at the copy", ""),
        (
            "disconnected",
            "warn",
            "does not answer: .*not quiesced",
            "in web: apt-get install qemu-guest-agent; or virsh shutdown web",
        ),
        (
            "",
            "warn",
            "has no channel: .*not quiesced",
            "add <channel type='unix'> org.qemu.guest_agent.0: virsh edit web; "
            "in web: apt-get install qemu-guest-agent; or virsh shutdown web",
        ),
    ],
)
def test_a_running_machine_without_an_agent_is_told_to_be_copied_unquiesced(
    agent: str, status: str, words: str, remedy: str
) -> None:
    found = preflight.of_domain(ENTRY, domain(FILE.format("raw", "", ""), agent=agent))
    (told,) = [one for one in found if one.name == "agent"]
    assert told.status == status and re.search(words, told.message) and told.remedy == remedy
    (off,) = [
        one
        for one in preflight.of_domain(ENTRY, domain(FILE.format("raw", "", ""), state="shutoff"))
        if one.name == "agent"
    ]
    assert off.status == "ok"


def listed(*names: bytes, python: bytes = b"python3.11") -> Survey:
    entries = {name: Listed(name, "f", b"") for name in names}
    entries[b"/usr/bin/python3"] = Listed(b"/usr/bin/python3", "l", python)
    return Survey(entries, (), False)


def test_what_is_missing_on_the_disk_names_the_command_that_mends_it() -> None:
    whole = listed(b"/usr/lib/systemd/systemd", b"/usr/sbin/sshd", b"/usr/bin/cloud-init")
    assert [one.message for one in preflight.of_disk(ENTRY, whole) if one.status == preflight.BAD] == []
    found = {one.name: one for one in preflight.of_disk(ENTRY, listed(python=b"python3.7"))}
    assert {name for name, one in found.items() if one.status == preflight.BAD} == {
        "python",
        "systemd",
        "ssh",
        "cloud-init",
    }
    assert found["systemd"].remedy == "in web: apt-get install systemd-sysv"
    assert found["ssh"].remedy == "in web: apt-get install openssh-server"
    assert found["cloud-init"].remedy == "in web: apt-get install cloud-init"
    off = listed(b"/usr/bin/cloud-init", preflight.CLOUD_INIT_OFF)
    last = [one for one in preflight.of_disk(ENTRY, off) if one.name == "cloud-init"][-1]
    assert last.remedy == "in web: rm /etc/cloud/cloud-init.disabled"


def test_other_partitions_are_named_and_stand_in_the_way_where_the_system_lies_on_them() -> None:
    gib = 1 << 30
    boot = [Elsewhere(15, gib, "boot", (b"/boot/efi",)), Elsewhere(3, gib, "swap", ())]
    home, var = Elsewhere(5, 8 * gib, "data", (b"/home",)), Elsewhere(2, 4 * gib, "data", (b"/var",))
    told = [
        [(one.status, one.message) for one in preflight.of_disk(ENTRY, survey) if one.name == "partitions"]
        for others in ([], boot, [*boot, home], [var])
        for survey in [replace(listed(), elsewhere=tuple(others))]
    ]
    named = (
        "ok",
        "for booting and swap: /boot/efi (partition 15, 1.0 GiB), "
        "nothing that /etc/fstab names (partition 3, 1.0 GiB)",
    )
    assert told == [
        [],
        [named],
        [("warn", "on other partitions, where no diff looks: /home (partition 5, 8.0 GiB)"), named],
        [("bad", "on other partitions, where no diff looks: /var (partition 2, 4.0 GiB)")],
    ]


def test_names_stay_values_in_the_xml_of_a_copy() -> None:
    root = ET.fromstring(backup_xml("vda", ["vd'b"], Path("/w/<&>.qcow2")))
    assert root.get("mode") == "push"
    assert [(disk.get("name"), disk.get("backup")) for disk in root.iter("disk")] == [
        ("vda", "yes"),
        ("vd'b", "no"),
    ]
    assert root.find("disks/disk/target").get("file") == "/w/<&>.qcow2"  # type: ignore[union-attr]


# --- a chain of files -----------------------------------------------------------------------------------


async def flattened(chain: list[FileLayer], work: Path) -> bytes:
    work.mkdir()
    work.chmod(0o711)
    layers = await copy_layers(chain, work, LIMITS)
    disk = await flatten(Programs(work / "log"), work, layers, "flat.qcow2", LIMITS)
    return flat(disk, "qcow2")


async def test_a_chain_is_read_by_its_named_formats_and_left_as_it_is(tmp_path: Path) -> None:
    top = qcow2_disk(tmp_path / "web.disk")
    base = top.with_suffix(".base")
    subprocess.run(["qemu-img", "snapshot", "-c", "before", str(top)], check=True)
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in (top, base)]
    chain = chain_of(FileLayer(top, "qcow2"))
    assert chain == [FileLayer(top, "qcow2"), FileLayer(base, "raw")]
    assert await flattened(chain, tmp_path / "work") == pattern()
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in (top, base)] == before


async def test_a_raw_disk_in_which_the_guest_wrote_an_image_s_header_stays_raw(tmp_path: Path) -> None:
    disk = raw_disk(tmp_path / "web.disk")
    secret = tmp_path / "secret"
    secret.write_bytes(b"host's own" * 1000)
    evil = tmp_path / "evil"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(evil)], check=True
    )
    with disk.open("r+b") as file:
        file.write(evil.read_bytes()[:65536])
    chain = chain_of(FileLayer(disk, "raw"))
    assert chain == [FileLayer(disk, "raw")]
    with pytest.raises(ImageRefused, match="bears the mark of qcow2"):
        await flattened(chain, tmp_path / "work")


def overlay(path: Path, backing: str, *options: str) -> Path:
    subprocess.run(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *options, "-b", backing, str(path), "8M"],
        check=True,
    )
    return path


def test_a_chain_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    remote = overlay(tmp_path / "remote", "nbd://192.0.2.1/x", "-F", "raw")
    with pytest.raises(ImageRefused, match=r"stands on what is no file: 'nbd://192\.0\.2\.1/x'"):
        chain_of(FileLayer(remote, "qcow2"))
    named = overlay(tmp_path / "named", "base", "-F", "raw")
    for name in (b"ba\0e", b"ba\xffe"):
        odd = tmp_path / "odd"
        odd.write_bytes(named.read_bytes().replace(b"base", name))
        with pytest.raises(ImageRefused, match=r"stands on what is no file: 'ba\\"):
            chain_of(FileLayer(odd, "qcow2"))
    other = overlay(tmp_path / "other", "base.vmdk", "-F", "vmdk")
    with pytest.raises(ImageRefused, match="names the file that it stands on as vmdk") as caught:
        chain_of(FileLayer(other, "qcow2"))
    assert caught.value.remedy.startswith("name it: qemu-img rebase -u -F")
    missing = overlay(tmp_path / "missing", "gone", "-F", "qcow2")
    with pytest.raises(ImageRefused, match=r"gone cannot be read: No such file"):
        chain_of(FileLayer(missing, "qcow2"))
    loop = overlay(tmp_path / "loop", "loop", "-F", "qcow2")
    with pytest.raises(ImageRefused, match="stands on more than 32 files"):
        chain_of(FileLayer(loop, "qcow2"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageRefused, match="neither a file nor a block device"):
        chain_of(FileLayer(tmp_path / "pipe", "qcow2"))


async def test_a_disk_that_changes_while_it_is_copied_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = raw_disk(tmp_path / "web.disk")

    class Meddling(clones.Staging):
        def end(self, expected: str) -> str:
            with disk.open("r+b") as file:
                file.write(b"x")
            return super().end(expected)

    monkeypatch.setattr(clones, "Staging", Meddling)
    (tmp_path / "work").mkdir()
    with pytest.raises(WrongState, match="changed while it was copied"):
        await copy_layers([FileLayer(disk, "raw")], tmp_path / "work", LIMITS)


class Prepared:
    """Stands for the boot of a copy."""

    recipe = "r"

    def __init__(self, tmp_path: Path, error: Exception | None = None) -> None:
        self._error = error
        self._mark = tmp_path / "mark"
        self._mark.write_bytes(b"prepared")

    async def boot(self, name: str, disk: Path, progress: object) -> None:
        if self._error:
            raise self._error
        write = f"write -q -s {self._mark} 0 8"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, str(disk)], check=True)

    async def examine(self, name: str, disk: Path) -> int:
        return 7

    async def examine_as_it_is(self, name: str, disk: Path) -> int:
        return 8


async def cloned(tmp_path: Path, disk: Path, prepare: Prepared, look: clones.Look) -> BuiltImage:
    async def bring(work: Path) -> Brought:
        return Brought(await copy_layers([FileLayer(disk, "raw")], work, LIMITS), "domain web of local, off")

    images = Images(tmp_path / "images")
    return await clone_image(images, "web", bring, prepare, LIMITS, lambda _: None, look)


async def accept(_: Path) -> None:
    """Nothing is wrong with it."""


async def test_a_copy_is_prepared_and_the_original_is_not(tmp_path: Path) -> None:
    disk = raw_disk(tmp_path / "web.disk")
    image = await cloned(tmp_path, disk, Prepared(tmp_path), accept)
    assert (image.kind, image.packages, image.origin) == ("domain", 7, "domain web of local, off")
    assert flat(image.disk, "qcow2") == b"prepared" + pattern()[8:]
    assert disk.read_bytes() == pattern()
    assert image.remedy == "fluid images remove web, then fluid sources prepare web"


async def test_what_is_refused_or_fails_leaves_nothing(tmp_path: Path) -> None:
    disk = raw_disk(tmp_path / "web.disk")

    async def refuse(_: Path) -> None:
        raise ImageRefused("no cloud-init", remedy="install it")

    with pytest.raises(ImageRefused, match="no cloud-init"):
        await cloned(tmp_path, disk, Prepared(tmp_path), refuse)
    with pytest.raises(PreparationFailed):
        await cloned(tmp_path, disk, Prepared(tmp_path, PreparationFailed("no", remedy="x")), accept)
    assert [path.name for path in (tmp_path / "images").iterdir() if not path.name.endswith(".lock")] == []


# --- the config -----------------------------------------------------------------------------------------

GROUP = (
    "targets: {groups: {web: {ssh_key_file: /k, known_hosts: /n, hosts: {web-01: {address: 192.0.2.7}}}}}\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sources: [{name: a}, {name: a, domain: b}]", "two sources are called a"),
        ("sources: [{name: a, domain: x}, {name: b, domain: x}]", "a and b are the same domain"),
        ("sources: [{name: Web_1}]", r"sources\.0\.name"),
        ("sources: [{name: a, domain: 'x/y'}]", r"sources\.0\.domain"),
        (GROUP + "sources: [{name: web-01}]", "the source web-01 is a target of production: web-01"),
        (GROUP + "sources: [{name: a, domain: web-01}]", "the source a is a target of production: web-01"),
        (GROUP + "sources: [{name: a, domain: 192.0.2.7}]", "is a target of production: 192.0.2.7"),
    ],
)
def test_the_config_refuses_sources_that_are_one_or_are_targets(
    tmp_path: Path, text: str, words: str
) -> None:
    paths = Paths.under(tmp_path)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        config.load(paths)


def test_a_listed_source_is_unprepared_unless_it_says_so(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    paths.config.mkdir(parents=True)
    paths.config_file.write_text(
        "sources: [{name: web, domain: Web.Golden}, {name: db, acknowledge_unprepared: true}]"
    )
    web, db = config.load(paths).sources
    assert (web.called, web.host, web.acknowledge_unprepared) == ("Web.Golden", "local", False)
    assert (db.called, db.acknowledge_unprepared) == ("db", True)
