"""Domain XML from values, by ElementTree; and the edits that make one domain's XML another's.

Element names and order follow libvirt's formatdomain documentation. No text is ever formatted into XML.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from backend.errors import HypervisorFailed, InvalidValue
from backend.hypervisor.channel import PORT_NAME
from backend.hypervisor.nouns import GuestImage, Identity, Machine

NAMESPACE = "urn:fluid:domain:1"
PREFIX = "fluid"
METADATA_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
METADATA_VALUE_MAX = 256
# QEMU's own default takes a quarter of the host's memory per emulated guest.
TB_CACHE_MB = 256
SLOW_EMULATED = ("la57", "erms", "smap", "smep", "umip", "pku")
"""What QEMU emulates slowly, and no program needs: a fifth level of page tables, copies byte by byte,
checks at each way into the kernel. Without the first 10 % of all is saved, without the rest 10 % again."""
# Debian's word for an architecture, as images carry it, and libvirt's.
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
# Emulated, q35 boots half a second later than pc.
MACHINES = {"x86_64": "pc", "aarch64": "virt"}
# Elsewhere a boot loader needs a firmware, and the kernel has a device tree: libvirt refuses ACPI without a
# firmware whose variables are kept.
WITH_BIOS = {"x86_64"}
AGENT_PORT = "org.qemu.guest_agent.0"

ET.register_namespace(PREFIX, NAMESPACE)


@dataclass(frozen=True)
class DomainSpec:
    """What a fresh domain is made of. ``seed``: a second disk, which it may only read."""

    name: str
    uuid: str
    machine: Machine
    cpu: int
    memory_mb: int
    disk: Path
    console: Path
    metadata: dict[str, str]
    nic: ET.Element
    seed: Path | None = None


def tree(xml: str | bytes) -> ET.Element:
    """Parse XML that libvirt wrote or checked: its parser has refused entities before us."""
    return ET.fromstring(xml)  # noqa: S314


def _child(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def metadata_element(metadata: dict[str, str], space: str = f"{{{NAMESPACE}}}") -> ET.Element:
    """``<fluid:domain>`` with one ``<fluid:item key=…>`` a value. virDomainSetMetadata wants no ``space``."""
    root = ET.Element(f"{space}domain")
    for key, value in sorted(metadata.items()):
        if not METADATA_KEY.fullmatch(key) or len(value) > METADATA_VALUE_MAX or not value.isprintable():
            raise InvalidValue(
                f"metadata {key!r} cannot be kept on a domain", remedy="use short printable text"
            )
        _child(root, f"{space}item", value, key=key)
    return root


def parse_metadata(xml: str) -> dict[str, str]:
    """The values of a ``<fluid:domain>`` element as virDomainGetMetadata returns it."""
    root = tree(xml)
    items = [element for element in root.iter() if element.tag.rpartition("}")[2] == "item"]
    return {item.get("key", ""): item.text or "" for item in items}


def libvirt_arch(arch: str) -> str:
    """libvirt's word for an architecture that is given in Debian's or its own."""
    return ARCHITECTURES.get(arch, arch)


def machine_of(arch: str) -> str:
    """The machine type that our guests of an architecture (libvirt's word) have."""
    try:
        return MACHINES[arch]
    except KeyError:
        raise InvalidValue(
            f"there is no machine for {arch} guests", remedy=f"use an image for {' or '.join(MACHINES)}"
        ) from None


def domain_xml(spec: DomainSpec, image: GuestImage) -> str:
    """A whole domain: one virtio disk, booted by the image's kernel or else by its own boot loader, our port,
    the agent's port, no balloon, no USB."""
    emulated = spec.machine.virt_type == "qemu"
    arch = libvirt_arch(image.arch)
    root = ET.Element("domain", type=spec.machine.virt_type)
    _child(root, "name", spec.name)
    _child(root, "uuid", spec.uuid)
    _child(root, "metadata").append(metadata_element(spec.metadata))
    _child(root, "memory", str(spec.memory_mb), unit="MiB")
    _child(root, "vcpu", str(spec.cpu))
    system = _child(root, "os")
    _child(system, "type", "hvm", arch=arch, machine=machine_of(arch))
    if arch not in WITH_BIOS and image.kernel is None:
        # Read-only memory: its variables are not kept, and a guest has no file of its own for them.
        _child(system, "loader", str(_firmware_of(spec)), readonly="yes", type="rom")
    if image.kernel is None:
        _child(system, "boot", dev="hd")
    else:
        _child(system, "kernel", str(image.kernel))
        _child(system, "initrd", str(image.initrd))
        _child(system, "cmdline", image.cmdline)
    features = _child(root, "features")
    if arch in WITH_BIOS:
        _child(features, "acpi")
    if emulated:
        _child(_child(features, "tcg"), "tb-cache", str(TB_CACHE_MB), unit="MiB")
    processor = _child(root, "cpu", mode="maximum" if emulated else "host-passthrough")
    if emulated and arch == "x86_64":
        for name in SLOW_EMULATED:
            _child(processor, "feature", policy="disable", name=name)
    _child(root, "clock", offset="utc")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _child(root, f"on_{event}", action)
    _devices(root, spec)
    return ET.tostring(root, encoding="unicode")


def _firmware_of(spec: DomainSpec) -> Path:
    if spec.machine.firmware is None:
        raise HypervisorFailed(
            f"{spec.name} has a boot loader on its disk, and the host no firmware that starts it",
            remedy="apt-get install qemu-efi-aarch64 on the host, and restart its libvirtd",
        )
    return spec.machine.firmware


def _devices(root: ET.Element, spec: DomainSpec) -> None:
    devices = _child(root, "devices")
    disk = _child(devices, "disk", type="file", device="disk")
    # Guests are disposable: a crash of the host loses them anyway, so nothing is flushed for them.
    _child(disk, "driver", name="qemu", type="qcow2", cache="unsafe", discard="unmap")
    _child(disk, "source", file=str(spec.disk))
    _child(disk, "target", dev="vda", bus="virtio")
    if spec.seed is not None:
        seed = _child(devices, "disk", type="file", device="disk")
        _child(seed, "driver", name="qemu", type="raw")
        _child(seed, "source", file=str(spec.seed))
        _child(seed, "target", dev="vdb", bus="virtio")
        _child(seed, "readonly")
    _child(devices, "controller", type="usb", model="none")
    devices.append(spec.nic)
    serial = _child(devices, "serial", type="file")
    _child(serial, "source", path=str(spec.console))
    for port in (PORT_NAME, AGENT_PORT):
        channel = _child(devices, "channel", type="unix")
        _child(channel, "target", type="virtio", name=port)
    _child(devices, "memballoon", model="none")
    rng = _child(devices, "rng", model="virtio")
    _child(rng, "backend", "/dev/urandom", model="random")


def tap_name(mac: str) -> str:
    """The host's end of a card: 14 of the 15 characters that an interface's name may have."""
    return f"fl{mac.replace(':', '')}"


def loose_nic(mac: str) -> ET.Element:
    """A network card whose cable ends in the air: a template has its hardware, and nobody to talk to."""
    nic = ET.Element("interface", type="ethernet")
    _child(nic, "mac", address=mac)
    _child(nic, "model", type="virtio")
    return nic


def nic_element(identity: Identity, network: str, filter_name: str | None) -> ET.Element:
    """A network card that can neither pretend to be another nor reach another guest.

    Its tap has a name that nobody else's has. libvirt's own names (vnet0 …) are used again at once, and a
    second libvirtd that cleans up after a dead guest takes the filter of whoever has the name by then.
    """
    nic = ET.Element("interface", type="network")
    _child(nic, "mac", address=identity.mac)
    _child(nic, "source", network=network)
    _child(nic, "target", dev=tap_name(identity.mac))
    _child(nic, "model", type="virtio")
    if filter_name:
        filtered = _child(nic, "filterref", filter=filter_name)
        for name, value in (("IP", identity.address), ("HOST", identity.host_address)):
            _child(filtered, "parameter", name=name, value=value)
    _child(nic, "port", isolated="yes")
    return nic


@dataclass(frozen=True)
class Rebase:
    """Where a saved domain goes: another name, another disk. ``metadata`` and ``nic``: None keeps its own."""

    name: str
    uuid: str
    disk: Path
    console: Path
    metadata: dict[str, str] | None = None
    nic: ET.Element | None = None


def rebased_xml(xml: bytes, to: Rebase) -> bytes:
    """A saved domain's XML for another domain; machine, processor, memory and addresses stay."""
    root = tree(xml)
    _required(root, "name").text = to.name
    _required(root, "uuid").text = to.uuid
    if to.metadata is not None:
        for old in root.findall("metadata"):
            root.remove(old)
        kept = ET.Element("metadata")
        kept.append(metadata_element(to.metadata))
        root.insert(2, kept)
    disk = _required(root, "devices/disk")
    _required(disk, "source").set("file", str(to.disk))
    for backing in disk.findall("backingStore"):
        disk.remove(backing)
    for source in root.findall("devices/serial/source") + root.findall("devices/console/source"):
        source.set("path", str(to.console))
    for channel in root.findall("devices/channel"):
        for source in channel.findall("source"):  # libvirt derives the path from the domain's name
            channel.remove(source)
    if to.nic is not None:
        _replace_nic(_required(root, "devices/interface"), to.nic)
    return ET.tostring(root, encoding="unicode").encode()


def _replace_nic(saved: ET.Element, nic: ET.Element) -> None:
    """Another card in the place of the saved one: its PCI address stays, the guest's driver knows it."""
    place = saved.find("address")
    saved.clear()
    saved.attrib.update(nic.attrib)
    saved.extend(nic)
    if place is not None:
        saved.append(place)


def disk_of(xml: str) -> Path:
    """The file of the domain's one disk."""
    source = _required(tree(xml), "devices/disk/source")
    return Path(source.get("file", ""))


def memory_mb_of(xml: bytes) -> int:
    """How much memory the domain has; libvirt tells it in KiB."""
    return int(tree(xml).findtext("memory", "0")) >> 10


def snapshot_xml(name: str, overlay: Path, memory: Path | None) -> str:
    """An external snapshot: the guest goes on in ``overlay``, its memory is saved to ``memory``."""
    root = ET.Element("domainsnapshot")
    _child(root, "name", name)
    if memory:
        _child(root, "memory", snapshot="external", file=str(memory))
    else:
        _child(root, "memory", snapshot="no")
    disk = _child(_child(root, "disks"), "disk", name="vda", snapshot="external")
    _child(disk, "driver", type="qcow2")
    _child(disk, "source", file=str(overlay))
    return ET.tostring(root, encoding="unicode")


def _required(root: ET.Element, path: str) -> ET.Element:
    element = root.find(path)
    if element is None:
        raise HypervisorFailed(f"the domain's XML has no {path!r}", remedy="destroy it and create it again")
    return element
