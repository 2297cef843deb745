"""Domain, network and snapshot XML from values; libvirt's save header; what a guest may send."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import FluidError, HypervisorFailed, InvalidName, InvalidValue
from backend.hypervisor import GuestImage, Identity, NetworkSpec
from backend.hypervisor.channel import LINE_BYTES_MAX, parse
from backend.hypervisor.domain_xml import (
    SLOW_EMULATED,
    DomainSpec,
    Rebase,
    disk_of,
    domain_xml,
    metadata_element,
    nic_element,
    parse_metadata,
    rebased_xml,
    snapshot_xml,
    tree,
)
from backend.hypervisor.machines import parse_firmware
from backend.hypervisor.network_xml import FILTER_NAME, filter_xml, network_xml, same_network
from backend.hypervisor.networks import filter_packets
from backend.hypervisor.nouns import Machine
from backend.hypervisor.save_image import HEADER, MAGIC, copy_with_xml, pack_header, read_header

IMAGE = GuestImage("debian-12", "ab" * 32, Path("/i/d"), Path("/i/k"), Path("/i/r"), "root=/dev/vda", "amd64")
IDENTITY = Identity(
    name="fluid-a",
    uuid="11111111-2222-4333-8444-555555555555",
    mac="52:54:00:01:02:03",
    address="10.231.0.5",
    prefix=20,
    hostname="a",
    machine_id="0" * 32,
    host_key="PRIVATE",
    host_key_public="ssh-ed25519 AAAA",
    ca_public="ssh-ed25519 BBBB",
)
HOSTILE = "a'\"<&>]]>{{ x }}"


def spec(virt_type: str = "qemu", **metadata: str) -> DomainSpec:
    nic = nic_element(IDENTITY, "fluid-net", FILTER_NAME)
    return DomainSpec(
        "fluid-a", IDENTITY.uuid, Machine(virt_type), 2, 1024, Path("/d/0"), Path("/d/console"), metadata, nic
    )


def parameters(card: ET.Element) -> dict[str | None, str | None]:
    return {one.get("name"): one.get("value") for one in card.findall("filterref/parameter")}


def test_values_of_any_kind_stay_values() -> None:
    image = replace(IMAGE, cmdline=HOSTILE)
    root = tree(domain_xml(spec(label=HOSTILE), image))
    assert root.findtext("os/cmdline") == HOSTILE
    assert parse_metadata(ET.tostring(root, encoding="unicode")) == {"label": HOSTILE}


def test_a_disk_with_a_boot_loader_of_its_own_boots_by_it_beside_a_seed_that_it_cannot_write() -> None:
    image = replace(IMAGE, kernel=None, initrd=None, cmdline="")
    root = tree(domain_xml(replace(spec(), seed=Path("/d/seed")), image))
    assert root.find("os/boot").get("dev") == "hd"
    assert root.find("os/kernel") is None and root.find("os/initrd") is None
    disk, seed = root.findall("devices/disk")
    assert (disk.find("target").get("dev"), disk.find("readonly")) == ("vda", None)
    assert (seed.find("source").get("file"), seed.find("target").get("dev")) == ("/d/seed", "vdb")
    assert seed.find("driver").get("type") == "raw" and seed.find("readonly") is not None


def test_a_guest_has_one_disk_one_card_that_is_filtered_and_isolated_and_no_way_to_share_files() -> None:
    devices = tree(domain_xml(spec(), IMAGE)).find("devices")
    assert devices is not None
    assert [disk.find("source").get("file") for disk in devices.findall("disk")] == ["/d/0"]
    (card,) = devices.findall("interface")
    assert card.find("filterref").get("filter") == FILTER_NAME
    assert parameters(card) == {"IP": "10.231.0.5", "HOST": "10.231.0.1"}
    assert card.find("port").get("isolated") == "yes"
    assert devices.find("filesystem") is None and devices.find("graphics") is None


@pytest.mark.parametrize(("virt_type", "cpu"), [("qemu", "maximum"), ("kvm", "host-passthrough")])
def test_emulation_and_kvm_differ_in_processor_and_cache_only(virt_type: str, cpu: str) -> None:
    root = tree(domain_xml(spec(virt_type), IMAGE))
    assert root.get("type") == virt_type and root.find("cpu").get("mode") == cpu
    assert (root.find("features/tcg/tb-cache") is not None) == (virt_type == "qemu")
    without = {one.get("name") for one in root.find("cpu") if one.get("policy") == "disable"}
    assert without == (set(SLOW_EMULATED) if virt_type == "qemu" else set())
    assert root.find("os/type").attrib == {"arch": "x86_64", "machine": "pc"}
    assert root.find("features/acpi") is not None


@pytest.mark.parametrize(("virt_type", "cpu"), [("qemu", "maximum"), ("kvm", "host-passthrough")])
def test_an_arm64_guest_is_a_virt_machine_without_what_only_a_pc_or_a_firmware_has(
    virt_type: str, cpu: str
) -> None:
    root = tree(domain_xml(spec(virt_type), replace(IMAGE, arch="arm64")))
    assert root.find("os/type").attrib == {"arch": "aarch64", "machine": "virt"}
    assert root.find("os/loader") is None and root.findtext("os/kernel") == "/i/k"
    assert root.find("features/acpi") is None  # libvirt refuses it without a firmware
    assert root.find("cpu").attrib == {"mode": cpu} and list(root.find("cpu")) == []
    assert {disk.find("target").get("bus") for disk in root.findall("devices/disk")} == {"virtio"}


def test_an_arm64_disk_with_a_boot_loader_of_its_own_has_the_hosts_firmware_and_no_file_of_variables() -> (
    None
):
    own = replace(IMAGE, kernel=None, initrd=None, cmdline="", arch="arm64")
    with pytest.raises(HypervisorFailed, match="no firmware"):
        domain_xml(spec(), own)
    found = parse_firmware(
        "<domainCapabilities><os supported='yes'><loader supported='yes'>"
        "<value>/f/code.fd</value><value>/f/other.fd</value></loader></os></domainCapabilities>"
    )
    root = tree(domain_xml(replace(spec(), machine=Machine("qemu", found)), own))
    assert root.findtext("os/loader") == "/f/code.fd" and root.find("os/loader").get("type") == "rom"
    assert root.find("os/boot").get("dev") == "hd" and root.find("os/nvram") is None
    assert root.find("features/acpi") is None  # libvirt refuses it with a firmware of this type


def test_an_architecture_that_we_have_no_machine_for_is_refused() -> None:
    with pytest.raises(InvalidValue, match="riscv64"):
        domain_xml(spec(), replace(IMAGE, arch="riscv64"))


@pytest.mark.parametrize("metadata", [{"Role": "x"}, {"a b": "x"}, {"a": "x" * 257}, {"a": "x\x07"}])
def test_metadata_that_libvirt_would_not_keep_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(InvalidValue):
        metadata_element(metadata)


def test_a_saved_domain_becomes_another_and_keeps_its_hardware() -> None:
    saved = tree(domain_xml(spec(role="template"), IMAGE))
    ET.SubElement(saved.find("devices/disk"), "backingStore", type="file")
    ET.SubElement(saved.find("devices/channel"), "source", mode="bind", path="/old")
    ET.SubElement(saved.find("devices/interface"), "target", dev="vnet3")
    to = Rebase(
        "fluid-b", "99999999-2222-4333-8444-555555555555", Path("/d/b"), Path("/c"), {"role": "sandbox"}
    )
    root = tree(rebased_xml(ET.tostring(saved), to))
    assert (root.findtext("name"), root.findtext("uuid")) == ("fluid-b", to.uuid)
    assert disk_of(ET.tostring(root, encoding="unicode")) == Path("/d/b")
    assert root.find("devices/disk/backingStore") is None
    assert root.find("devices/channel/source") is None
    assert root.find("devices/interface/target").get("dev") == "fl" + IDENTITY.mac.replace(":", "")
    assert root.find("devices/serial/source").get("path") == "/c"
    assert parse_metadata(ET.tostring(root, encoding="unicode")) == {"role": "sandbox"}
    assert root.findtext("memory") == "1024" and root.find("cpu").get("mode") == "maximum"


def test_a_branch_has_a_card_of_its_own_in_the_place_of_the_saved_one() -> None:
    saved = tree(domain_xml(spec(), IMAGE))
    card = saved.find("devices/interface")
    ET.SubElement(card, "address", type="pci", slot="0x03")
    card.find("source").set("portid", IDENTITY.uuid)
    own = replace(IDENTITY, mac="52:54:00:aa:bb:cc", address="10.231.0.9")
    nic = nic_element(own, "fluid-other", FILTER_NAME)
    to = Rebase("fluid-b", own.uuid, Path("/d/b"), Path("/c"), {}, nic)
    (card,) = tree(rebased_xml(ET.tostring(saved), to)).findall("devices/interface")
    assert [element.get("address") for element in card.findall("mac")] == [own.mac]
    assert card.find("source").attrib == {"network": "fluid-other"}
    assert [tap.get("dev") for tap in card.findall("target")] == ["fl525400aabbcc"]
    assert parameters(card) == {"IP": "10.231.0.9", "HOST": "10.231.0.1"}
    assert card.find("address").get("slot") == "0x03" and card.find("port").get("isolated") == "yes"


def test_a_saved_domain_without_a_disk_is_refused_with_words() -> None:
    with pytest.raises(HypervisorFailed, match="disk"):
        rebased_xml(
            b"<domain><name>a</name><uuid>b</uuid><devices/></domain>", Rebase("b", "c", Path(), Path())
        )


def test_snapshots_are_external() -> None:
    root = tree(snapshot_xml("before", Path("/d/1"), Path("/d/m")))
    assert root.find("memory").attrib == {"snapshot": "external", "file": "/d/m"}
    assert root.find("disks/disk").get("snapshot") == "external"
    assert tree(snapshot_xml("x", Path("/d/1"), None)).find("memory").get("snapshot") == "no"


def test_a_network_has_no_way_out_and_serves_nothing() -> None:
    wanted = NetworkSpec("fluid-net", "fluid0", "10.231.0.0/20")
    xml = network_xml(wanted)
    root = tree(xml)
    assert root.find("forward") is None and root.find("ip/dhcp") is None
    assert root.find("dns").get("enable") == "no"
    assert root.find("bridge").attrib == {"name": "fluid0", "stp": "off", "delay": "0"}
    assert root.find("ip").attrib == {"address": "10.231.0.1", "netmask": "255.255.240.0"}
    assert same_network(xml, wanted)
    assert not same_network(xml, replace(wanted, cidr="10.232.0.0/20"))
    root.append(ET.Element("forward", mode="nat"))
    assert not same_network(ET.tostring(root, encoding="unicode"), wanted)


def test_the_filter_allows_what_it_names_and_ends_in_dropping_everything() -> None:
    rules = tree(filter_xml()).findall("rule")
    dropped = [(rule.get("direction"), rule[0].tag, rule[0].attrib) for rule in rules if is_drop(rule)]
    assert dropped == [("inout", "mac", {}), ("inout", "all", {})]  # frames, then packets
    for tags in ({"arp", "ip"}, {"tcp", "icmp"}):
        allowed = [rule for rule in rules if rule[0].tag in tags]
        (end,) = [rule for rule in rules if is_drop(rule) and (rule[0].tag == "all") == ("tcp" in tags)]
        assert allowed and all(int(rule.get("priority")) < int(end.get("priority")) for rule in allowed)
    leaving = [rule[0].attrib for rule in rules if rule.get("direction") == "out"]
    assert all(match["srcmacaddr"] == "$MAC" for match in leaving)
    assert {match.get("dstipaddr") or match.get("arpdstipaddr") for match in leaving} == {"$HOST"}
    assert {match.get("srcipaddr") or match.get("arpsrcipaddr") for match in leaving} == {"$IP"}
    assert [rule[0].tag for rule in rules if rule.get("direction") == "inout" and not is_drop(rule)] == []


def is_drop(rule: ET.Element) -> bool:
    return rule.get("action") == "drop"


def test_a_bridge_that_iptables_does_not_see_is_made_visible_or_refused(tmp_path: Path) -> None:
    switch, everywhere = tmp_path / "fl0" / "bridge" / "nf_call_iptables", tmp_path / "sysctl"
    filter_packets("fl0", tmp_path, everywhere)  # another host's
    switch.parent.mkdir(parents=True)
    switch.write_text("0")
    filter_packets("fl0", tmp_path, everywhere)
    assert switch.read_text() == "1"
    switch.unlink()
    switch.mkdir()  # not ours to write
    everywhere.write_text("1\n")
    filter_packets("fl0", tmp_path, everywhere)
    everywhere.write_text("0\n")
    with pytest.raises(HypervisorFailed, match="fl0, so guests are not held"):
        filter_packets("fl0", tmp_path, everywhere)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../etc"},
        {"hostname": "A"},
        {"mac": "00:11:22:33:44:55"},
        {"machine_id": "xyz"},
        {"address": "10.231.0.5; rm"},
        {"prefix": 33},
    ],
)
def test_an_identity_is_checked_when_it_is_made(change: dict[str, str]) -> None:
    with pytest.raises((FluidError, ValueError)):
        replace(IDENTITY, **change)


def test_an_identity_does_not_show_its_key() -> None:
    assert "PRIVATE" not in repr(IDENTITY)


@pytest.mark.parametrize(
    ("name", "bridge", "cidr"), [("fluid/x", "b", "10.0.0.0/24"), ("fluid-x", "b" * 16, "10.0.0.0/24")]
)
def test_a_network_with_a_bad_name_is_refused(name: str, bridge: str, cidr: str) -> None:
    with pytest.raises((InvalidName, InvalidValue)):
        NetworkSpec(name, bridge, cidr)


# --- libvirt's save image -----------------------------------------------------------------------------


def save(
    folder: Path,
    *,
    magic: bytes = MAGIC,
    version: int = 2,
    xml: bytes = b"<domain/>",
    cookie: bytes = b"",
    room: int = 4096,
    compressed: int = 0,
    memory: bytes = b"MEMORY",
) -> Path:
    data = xml + b"\0"
    offset = len(data) if cookie else 0
    data += cookie + b"\0" if cookie else b""
    path = folder / "x.save"
    head = struct.pack("<16s5I56x", magic, version, room, 1, compressed, offset)
    path.write_bytes(head + data.ljust(room, b"\0")[:room] + memory)
    return path


@pytest.mark.parametrize("cookie", [b"", b"<cookie/>"])
def test_another_xml_moves_neither_memory_nor_cookie(tmp_path: Path, cookie: bytes) -> None:
    source, target = save(tmp_path, cookie=cookie), tmp_path / "y.save"
    longer = b"<domain>" + b"x" * 500 + b"</domain>"
    copy_with_xml(source, target, longer)
    header = read_header(target)
    assert (header.xml, header.cookie, header.was_running) == (longer, cookie, 1)
    assert target.read_bytes()[header.memory_offset :] == b"MEMORY"
    assert target.stat().st_size == source.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    assert read_header(source).xml == b"<domain/>"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"magic": b"LibvirtQemudPart"}, "magic"),
        ({"version": 3}, "version 3"),
        ({"compressed": 1}, "compression 1"),
        ({"room": 0}, "lengths"),
        ({"room": 1 << 24, "memory": b""}, "lengths"),
        ({"xml": b"x" * 5000}, "XML"),
        ({"xml": b""}, "XML"),
    ],
)
def test_a_strange_save_image_is_refused_with_its_reason(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(HypervisorFailed, match=words):
        read_header(save(tmp_path, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 16, HEADER.size, HEADER.size + 100])
def test_a_cut_save_image_is_refused(tmp_path: Path, size: int) -> None:
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(HypervisorFailed, match=r"shorter|cut"):
        read_header(path)


def test_an_xml_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    header = read_header(save(tmp_path, cookie=b"c" * 100))
    assert len(pack_header(header, b"x" * (4096 - 102))) == HEADER.size + 4096
    with pytest.raises(HypervisorFailed, match="room for 4096"):
        pack_header(header, b"x" * (4096 - 101))


# --- what a guest sends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [b"", b"[1]", b"null", b"{", b"\xff\xfe", b"[" * 60_000, b'{"id":"' + b"x" * LINE_BYTES_MAX + b'"}'],
)
def test_what_is_no_reply_is_dropped(line: bytes) -> None:
    assert parse(line) is None


def test_a_reply_is_read() -> None:
    assert parse(b'{"id": 3, "ok": true}\r') == {"id": 3, "ok": True}
