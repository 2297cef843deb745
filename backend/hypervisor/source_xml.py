"""What the XML of somebody else's domain says of it: its disks, its firmware, its agent.

A disk's format is the one that the XML names, never a guess. What we cannot copy says why.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from backend.hypervisor.domain_xml import AGENT_PORT, tree
from backend.hypervisor.nouns import State

DiskFormat = Literal["qcow2", "raw"]
FORMATS = ("qcow2", "raw")
PLACES = {"file": "file", "block": "dev"}  # libvirt's type of a disk, and where its source's path stands


@dataclass(frozen=True)
class SourceDisk:
    """A disk of the domain, by the name that the domain has for it (``vda``). ``problem``: why it cannot be
    copied; empty when ``path`` and ``format`` say what to copy. ``other_format``: the one that is named, of
    those that are not copied."""

    target: str
    path: Path | None
    format: DiskFormat
    readonly: bool = False
    problem: str = ""
    other_format: str = ""


@dataclass(frozen=True)
class SourceDomain:
    """Somebody else's domain. ``role`` is what our mark on it says, None without one; ``kernel``: it boots a
    kernel that lies on the host; ``agent``: ``""`` without QEMU's agent, else the channel's state."""

    name: str
    uuid: str
    state: State
    role: str | None
    arch: str
    efi: bool
    kernel: bool
    agent: str
    disks: tuple[SourceDisk, ...]

    @property
    def can_freeze(self) -> bool:
        """Whether there is somebody in it to ask for that."""
        return self.state == "running" and self.agent == "connected"

    @property
    def is_off(self) -> bool:
        return self.state in ("shutoff", "crashed")


def source_domain(xml: str, state: State, role: str | None) -> SourceDomain:
    """The domain that virDomainGetXMLDesc tells of."""
    root = tree(xml)
    system = root.find("os")
    loader = root.find("os/loader")
    return SourceDomain(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        state=state,
        role=role,
        arch=_attribute(root.find("os/type"), "arch"),
        efi=_attribute(system, "firmware") == "efi" or _attribute(loader, "type") == "pflash",
        kernel=root.find("os/kernel") is not None,
        agent=_agent(root),
        disks=tuple(_disk(disk) for disk in root.findall("devices/disk") if _is_disk(disk)),
    )


def backup_xml(target: str, others: list[str], into: Path) -> str:
    """A full copy of one disk into a new qcow2 file (formatbackup, push mode); the others are left out."""
    root = ET.Element("domainbackup", mode="push")
    disks = ET.SubElement(root, "disks")
    disk = ET.SubElement(disks, "disk", name=target, backup="yes", type="file")
    ET.SubElement(disk, "driver", type="qcow2")
    ET.SubElement(disk, "target", file=str(into))
    for other in others:
        ET.SubElement(disks, "disk", name=other, backup="no")
    return ET.tostring(root, encoding="unicode")


def backup_files(xml: str) -> set[str]:
    """The files that a backup writes, as virDomainBackupGetXMLDesc tells of it."""
    return {file for element in tree(xml).iter() if (file := element.get("file"))}


def _is_disk(disk: ET.Element) -> bool:
    return disk.get("device", "disk") in ("disk", "lun")


def _disk(disk: ET.Element) -> SourceDisk:
    source, kind = disk.find("source"), disk.get("type", "")
    path = _attribute(source, PLACES[kind]) if kind in PLACES else ""
    format = _attribute(disk.find("driver"), "type")
    return SourceDisk(
        target=_attribute(disk.find("target"), "dev"),
        path=Path(path) if path else None,
        format=cast("DiskFormat", format) if format in FORMATS else "raw",
        readonly=disk.find("readonly") is not None,
        problem=_problem(disk, source, kind, path, format),
        other_format="" if format in FORMATS else format,
    )


def _problem(disk: ET.Element, source: ET.Element | None, kind: str, path: str, format: str) -> str:
    if kind not in PLACES:
        protocol = _attribute(source, "protocol")
        return f"lies on the {kind} {protocol}".strip() + ", not in a file or block device"
    if disk.get("device") == "lun":
        return "is a SCSI device that is passed through"
    if not path:
        return "has no file"
    if disk.find(".//encryption") is not None:
        return "is encrypted"
    if format not in FORMATS:
        return f"is of the format {format or 'that nobody names'}"
    if disk.find("shareable") is not None:
        return "is shared with other domains"
    if disk.find("source/slices") is not None:
        return "is a slice of a larger file"
    if disk.find("source/dataStore") is not None:
        return "keeps its data in another file"
    return ""


def _agent(root: ET.Element) -> str:
    for target in root.findall("devices/channel/target"):
        if target.get("name") == AGENT_PORT:
            return target.get("state", "unknown")
    return ""


def _attribute(element: ET.Element | None, name: str) -> str:
    return element.get(name, "") if element is not None else ""
